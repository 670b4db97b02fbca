# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Examples of a task, checked before any model is loaded: what is wrong with the data is said at once."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_salmonn.audio import DatasetClip, measure_audio, read_audio
from data_salmonn.chats import is_chat, read_chat
from data_salmonn.json_text import digest_bytes
from data_salmonn.manifests import SYNONYMS, ManifestError, Problem, describe
from data_salmonn.readers import Entry
from evaluation_salmonn.filters import apply_filters
from evaluation_salmonn.sources import find_local, load_rows
from evaluation_salmonn.task import Task


@dataclass(frozen=True)
class Example:
    """
    One example of a task.

    Args:
        id: unique in its task.
        clips: what is heard, one after the other, in a form that [`read_audio`] takes.
        seconds: length of all clips and of the silence between them.
        prompt: what is asked.
        texts: for each role with texts, those of this example; `texts["reference"]` are the references.
        silence_seconds: between two clips.
    """

    id: str
    clips: tuple
    seconds: float
    prompt: str
    texts: dict[str, tuple[str, ...]]
    silence_seconds: float = 0.0

    @property
    def references(self) -> tuple[str, ...]:
        return self.texts["reference"]

    def waveform(self) -> np.ndarray:
        """`(samples,)` of float32 at 16 kHz. Raises a `ValueError` that names the example if a clip cannot be read."""
        try:
            return read_audio(list(self.clips), self.silence_seconds)
        except ValueError as error:
            raise ValueError(f"Example {self.id!r} cannot be heard: {error}") from error


def load_examples(
    task: Task,
    data: dict[str, str | Path] | None = None,
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> tuple[list[Example], str]:
    """
    The first `limit` examples of a task, or all, and where they come from.

    Args:
        data: task name -> file or folder that stands in for its dataset.
        data_dir: folder in which a file or folder with the task's name stands in for its dataset.

    Raises:
        ManifestError: with all bad rows: missing or unreadable audio, empty references, ids that are not unique.
        MissingDataError: if the task has no data here.
        ValueError: if there are no rows, or none that have the columns of the task.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    rows = load_rows(task, find_local(task, data, data_dir))
    entries = [(number, _as_plain_row(row)) for number, row in rows.entries]
    problems = [Problem(rows.file, number, str(row)) for number, row in entries if isinstance(row, ValueError)]
    entries = [(number, row) for number, row in entries if isinstance(row, dict)]
    if not entries and not problems:
        raise ValueError(f"Task {task.name!r} needs at least one example, got none from {rows.source}.")
    columns = _find_columns(task, [row for _, row in entries], rows.source) if entries else {}
    groups = _group_rows(entries, columns[task.group_by][0]) if task.group_by in columns else [[e] for e in entries]
    # joining needs more rows than it makes; a plain task looks only at the rows that it uses
    groups = groups if task.concatenate_seconds else groups[:limit]

    examples, seen = [], set()
    for index, group in enumerate(groups):
        number, row = group[0]
        given = row.get(columns["id"][0]) if "id" in columns else None
        name = f"{index:06d}" if given in (None, "") else str(given)
        example, reasons = _make_example(task, name, [row for _, row in group], columns, rows.audio_root)
        if name in seen:
            reasons.append(f"ids must be unique, got {name!r} more than once")
        seen.add(name)
        problems += [Problem(rows.file, number, reason) for reason in reasons]
        examples.append(example)
    if problems:
        raise ManifestError(problems)
    if task.concatenate_seconds:
        examples = concatenate(examples, task.concatenate_seconds)[:limit]
    return examples, rows.source


def _as_plain_row(row: Any) -> dict | ValueError:
    """A row with its question, answer and clips in columns, also where it is a conversation; or what is wrong with it."""
    if isinstance(row, ValueError):
        return row
    if not isinstance(row, dict):
        return ValueError(f"a row must be an object, got {type(row).__name__}")
    if not is_chat(row):
        return row
    try:
        columns, clips = read_chat(row)
    except ValueError as error:
        return error
    if columns["messages"]:
        return ValueError("a conversation of several turns or clips has no single answer that could be scored")
    return {**columns, "audio": clips}


def _find_columns(task: Task, rows: Sequence[dict], source: str) -> dict[str, list[str]]:
    """
    The columns of each role. Those of a local file may be called as the task has them, as the role, or as the schema of
    `data_salmonn` allows.
    """
    known = {name for row in rows for name in row}
    found: dict[str, list[str]] = {}
    for role, names in task.columns.items():
        names = [names] if isinstance(names, str) else list(names)
        synonyms = SYNONYMS.get({"reference": "text"}.get(role, role), ())
        if role == "reference" and not set(names) <= set(synonyms):
            synonyms = ("answer",)  # `text` may be a transcript where phones or a caption are wanted
        if all(name in known for name in names):
            found[role] = names
            continue
        other = next((name for name in (role, *synonyms) if name in known), None)
        if other is not None:
            found[role] = [other]
        elif role != "id":
            missing = [name for name in names if name not in known]
            raise ValueError(
                f"Task {task.name!r} needs the column {', '.join(map(repr, missing))} as its {role}, got the columns "
                f"{sorted(known)} from {source}."
            )
    return found


def _group_rows(entries: Sequence[Entry], column: str) -> list[list[Entry]]:
    groups: dict = {}
    for number, row in entries:
        groups.setdefault(row.get(column), []).append((number, row))
    return list(groups.values())


def _make_example(
    task: Task, name: str, group: list[dict], columns: dict[str, list[str]], audio_root: Path
) -> tuple[Example, list[str]]:
    """One example of the rows that make it, and what is wrong with it."""
    texts: dict[str, tuple[str, ...]] = {}
    reasons = []
    for role in columns.keys() - {"audio", "id"}:
        cells = [row.get(column) for row in group for column in columns[role]]
        try:
            values = [value for cell in cells for value in _as_texts(cell)]
        except TypeError as error:
            reasons.append(f"`{role}` {error}")
            values = [""]
        else:
            if not values or not all(value.strip() for value in values):
                reasons.append(f"`{role}` is empty")
                values = values or [""]
        if role in {"reference", *(entry.references for entry in task.metrics)}:
            values = [apply_filters(task.reference_filter, value) for value in values]
        texts[role] = tuple(values)
    clips, seconds = [], 0.0
    for column in columns["audio"]:
        value = group[0].get(column)
        for clip in [*(value if isinstance(value, list) and value else [value]), *_more_clips(group[0], column)]:
            shown = f" {clip}" if isinstance(clip, str) and clip else ""
            if shown:
                clip = str(audio_root / clip)
            elif clip is not None and not isinstance(clip, (str, dict, DatasetClip)):
                reasons.append(f"`{column}` must be a path, got {describe(clip)}")
                continue
            length, problem = measure_audio(clip)
            reasons += [f"`{column}`{shown}: {problem}"] if problem else []
            clips.append(clip)
            seconds += length
    seconds += task.join_seconds * max(0, len(clips) - 1)
    prompt = task.prompt.format(**{role: values[0] for role, values in texts.items()})
    return Example(name, tuple(clips), seconds, prompt, texts, task.join_seconds), reasons


def _more_clips(row: dict, column: str) -> list:
    """Clips that a row of the released format joins to its first."""
    more = row.get("expand_wav") if column in SYNONYMS["audio"] else None
    return more if isinstance(more, list) else [] if more is None else [more]


def _as_texts(value: Any) -> list[str]:
    """A cell as texts: one, or a list. Raises `TypeError` for what is none."""
    if value is None:
        return []
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    for text in values:
        if not isinstance(text, (str, int, float)):
            raise TypeError(f"must be text, got {describe(text)}")
    return [str(text) for text in values]


def concatenate(examples: Sequence[Example], max_seconds: float) -> list[Example]:
    """
    Joins successive examples, in their order, as long as the result stays within `max_seconds`; each is used once.
    References are joined by spaces. This is how long recordings are made of short ones (2309.13963, table 6).
    """
    joined: list[Example] = []
    for example in examples:
        last = joined[-1] if joined else None
        if last is None or last.seconds + example.seconds > max_seconds:
            joined.append(dataclasses.replace(example, silence_seconds=0.0))
            continue
        texts = {role: (" ".join((*last.texts[role], *example.texts[role])),) for role in last.texts}
        first = last.id if len(last.clips) == 1 else last.id.rpartition("+")[0]
        name = f"{first}+{len(last.clips)}"
        joined[-1] = dataclasses.replace(
            last, id=name, clips=last.clips + example.clips, seconds=last.seconds + example.seconds, texts=texts
        )
    return joined


def data_digest(examples: Sequence[Example]) -> str:
    """Short hash of ids, lengths, prompts and texts: two runs with the same one were asked the same."""
    rows = [[e.id, round(e.seconds, 3), e.prompt, sorted(e.texts.items())] for e in examples]
    return hashlib.sha256(digest_bytes(json.dumps(rows, ensure_ascii=False))).hexdigest()[:16]
