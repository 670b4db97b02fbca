# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Files that are there as a whole or not at all, whatever happens while they are written."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


# How the name of a file ends while it is written.
UNFINISHED = ".unfinished"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """
    Gives the path of an unfinished file to write, and moves it to `path` once the block ends without an error.

        with whole_file("features.npy") as unfinished:
            np.save(unfinished, features)

    After an error or a kill, `path` is what it was before. The folder is made where it is missing. Each process writes a
    file of its own, so several may write the same `path`: the last one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, with line feeds as they are, to a file that appears whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON to a file that appears whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: str | Path, rows: list[Any]) -> None:
    """Writes JSON, one row a line, to a file that appears whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
