# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Files of predictions: while a run goes on, journals that survive a kill; at its end, one file in the order of the data.

Each line carries a digest of the question and the answer, so an answer that was moved to another line is found out.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from data_salmonn.files import write_lines
from data_salmonn.json_text import digest_bytes, parse_json, read_object_lines, to_json
from evaluation_salmonn.data import Example
from evaluation_salmonn.task import Task


JOURNAL = "journal-{:03d}.jsonl"
PREDICTIONS = "predictions.jsonl"
_ALL_JOURNALS = "journal-*.jsonl"


def make_row(task: Task, example: Example, prediction: str) -> dict:
    """What is written of one answer."""
    row = {"task": task.name, "id": example.id, "prompt": example.prompt, "references": list(example.references)}
    return {**row, "prediction": prediction, "digest": _digest(row, prediction)}


def _digest(row: dict, prediction: str) -> str:
    text = json.dumps([row["task"], row["id"], row["prompt"], row["references"], prediction], ensure_ascii=False)
    return hashlib.sha256(digest_bytes(text)).hexdigest()[:16]


def _to_line(row: dict) -> str:
    return to_json(row) + "\n"


def drop_cut_line(path: Path) -> None:
    """Removes what stands behind the last line feed of a file, if there is one: a kill cut it off."""
    if path.is_file():
        whole = path.read_bytes()
        keep = whole.rfind(b"\n") + 1
        if keep < len(whole):
            with open(path, "r+b") as file:
                file.truncate(keep)


def append_lines(path: Path, rows: Sequence[dict]) -> None:
    """Appends a JSON line for each row, and returns once they are on the disk."""
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write("".join(map(_to_line, rows)))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict]:
    """The rows of a file that may have been cut: a last line without its end is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [parse_json(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: a line cannot be read as JSON ({error}).") from error


class Journal:
    """
    The answers of one process in the order in which they were made, in a file that only ever grows.

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


def finish(folder: Path, rows: list[dict]) -> None:
    """Writes all answers in order, then drops the journals."""
    write_lines(folder / PREDICTIONS, rows)
    drop_journals(folder)


def drop_journals(folder: Path) -> None:
    """Removes journals whose answers are in the file of predictions."""
    for path in folder.glob(_ALL_JOURNALS):
        path.unlink()


def read_predictions(path: str | Path, task: Task, examples: Sequence[Example]) -> list[str]:
    """
    The answers in a file of predictions, after checking that they are answers to these examples.

    Lines must be JSON objects with `id`, `references` (or `reference`) and `prediction`, in the order of the examples.
    Raises `ValueError` if lines are missing, doubled or in another order, if their references are not those of the
    examples, or if an answer is not the one that its line was written with.
    """
    rows = list(read_object_lines(path))
    if len(rows) != len(examples):
        raise ValueError(
            f"`predictions` must hold {len(examples)} lines for task {task.name!r}, got {len(rows)} in {path}."
        )
    for number, (row, example) in enumerate(zip(rows, examples), start=1):
        where = f"`predictions` in {path}, line {number},"
        missing = [key for key in ("id", "prediction") if key not in row]
        if missing:
            raise ValueError(f"{where} must have {missing}, got {sorted(row)}.")
        if str(row["id"]) != example.id:
            raise ValueError(
                f"{where} must answer {example.id!r}, got {row['id']!r}: lines are shuffled or of other data."
            )
        references = row.get("references", row.get("reference"))
        if references is None:
            raise ValueError(
                f"{where} must have its 'references', by which shuffled answers are found, got {sorted(row)}."
            )
        if _as_tuple(references) != example.references:
            raise ValueError(
                f"{where} has the references {references!r}, but {example.id!r} has {example.references!r}."
            )
        if "digest" in row and row["digest"] != _digest(row, row["prediction"]):
            raise ValueError(
                f"{where} has an answer that was not given to {example.id!r}: it was changed or moved there."
            )
    return [row["prediction"] for row in rows]


def _as_tuple(references) -> tuple[str, ...]:
    return (references,) if isinstance(references, str) else tuple(references)
