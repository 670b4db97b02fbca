# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A hook of MkDocs: takes files beside `docs` into the site, where they are.

Links in Markdown are relative to a file's place in the repository, so that they work there as well. The site has what is
in `docs` at its root, and the files named here in folders as they have them.
"""

import os
import re
from pathlib import Path, PurePosixPath


ROOT = Path(__file__).resolve().parents[2]
BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    "SECURITY.md",
    "CITATION.cff",
    "checkpoints/*/README.md",
    "examples/**/*.py",
    "nano_salmonn/README.md",
)
LINK = re.compile(r"(\]\()((?![a-z]+:|#|/)[^)#\s]+)")


def on_files(files, config):
    """Adds the files beside `docs`."""
    from mkdocs.structure.files import File  # not installed where only the tests run

    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes the links of a page those of the site."""
    return move_links(markdown, Path(page.file.abs_src_path).relative_to(ROOT).as_posix())


def move_links(markdown: str, page: str) -> str:
    """The text of `page`, a path from the root of the repository, with links from where the site has it."""
    folder = PurePosixPath(page).parent

    def move(found: re.Match) -> str:
        target = os.path.normpath(folder / found[2]).removeprefix("docs/")
        target = "index.md" if target == "README.md" else target
        return found[1] + os.path.relpath(target, str(folder).removeprefix("docs").lstrip("/") or ".")

    return LINK.sub(move, markdown)
