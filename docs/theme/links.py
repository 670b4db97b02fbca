# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A hook of MkDocs: takes files beside `docs` into the site, where they are.

Links in Markdown are relative to a file's place in the repository, so that they work there as well. The site has what is
in `docs` at its root, and the files named here in folders as they have them.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File


ROOT = Path(__file__).resolve().parents[2]
BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "checkpoints/*/README.md",
    "examples/*.py",
    "nano_salmonn/README.md",
)
LINK = re.compile(r"(\]\()((?![a-z]+:|#|/)[^)#\s]+)")


def on_files(files, config):
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    name = page.file.src_uri
    is_beside = page.file.generated_by is not None
    folder = PurePosixPath(name if is_beside else f"docs/{name}").parent.as_posix()

    def move(found: re.Match) -> str:
        target = os.path.normpath(os.path.join(folder, found[2])).removeprefix("docs/")
        target = "index.md" if target == "README.md" else target
        return found[1] + os.path.relpath(target, PurePosixPath(name).parent.as_posix())

    return LINK.sub(move, markdown)
