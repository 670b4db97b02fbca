# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Journals: files of JSON lines that only ever grow, so that a job which is killed loses nothing but its last batch. Each
process has one of its own in the folder of the job.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from data_salmonn.json_text import parse_json, to_json


JOURNAL = "journal-{:03d}.jsonl"
_ALL_JOURNALS = "journal-*.jsonl"


class Journal:
    """
    The answers of one process in the order in which they were made.

    A kill may cut its last line; that line is dropped when the run goes on.
    """

    def __init__(self, folder: Path, process: int):
        self.path = folder / JOURNAL.format(process)
        drop_cut_line(self.path)

    def append(self, rows: Sequence[dict]) -> None:
        """Writes the answers of one batch, and returns once they are on the disk."""
        append_lines(self.path, rows)


def read_journals(folder: Path) -> dict[str, dict]:
    """The answers in all journals of a folder, by id. Lines that were cut are left out."""
    return {row["id"]: row for path in sorted(folder.glob(_ALL_JOURNALS)) for row in read_lines(path)}


def drop_journals(folder: Path) -> None:
    """Removes journals whose answers are in a file that is whole."""
    for path in folder.glob(_ALL_JOURNALS):
        path.unlink(missing_ok=True)


def drop_cut_line(path: Path) -> None:
    """Removes what stands behind the last line feed of a file, if there is one: a kill cut it off."""
    if path.is_file():
        whole = path.read_bytes()
        keep = whole.rfind(b"\n") + 1
        if keep < len(whole):
            with open(path, "r+b") as file:
                file.truncate(keep)


def append_lines(path: Path, rows: Sequence[dict]) -> None:
    """Appends a JSON line for each row, and returns once they are on the disk. Raises an `OSError` that names `path`."""
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write("".join(to_json(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_lines(path: Path) -> list[dict]:
    """The rows of a file that may have been cut: a last line without its end is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [parse_json(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: a line cannot be read as JSON ({error}).") from error
