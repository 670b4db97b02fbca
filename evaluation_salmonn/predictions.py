# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Files of predictions: while a run goes on, journals that survive a kill; at its end, one file in the order of the data.

Each line carries a digest of the question and the answer, so an answer that was moved to another line is found out.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from data_salmonn.files import write_lines
from data_salmonn.journals import drop_journals
from data_salmonn.json_text import digest_bytes, read_object_lines
from evaluation_salmonn.data import Example
from evaluation_salmonn.task import Task


PREDICTIONS = "predictions.jsonl"


def make_row(task: Task, example: Example, prediction: str) -> dict:
    """What is written of one answer."""
    row = {"task": task.name, "id": example.id, "prompt": example.prompt, "references": list(example.references)}
    return {**row, "prediction": prediction, "digest": _digest(row, prediction)}


def _digest(row: dict, prediction: str) -> str:
    text = json.dumps([row["task"], row["id"], row["prompt"], row["references"], prediction], ensure_ascii=False)
    return hashlib.sha256(digest_bytes(text)).hexdigest()[:16]


def finish(folder: Path, rows: list[dict]) -> None:
    """Writes all answers in order, then drops the journals."""
    write_lines(folder / PREDICTIONS, rows)
    drop_journals(folder)


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
