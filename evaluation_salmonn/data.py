# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Examples of a task, checked before any model is loaded: what is wrong with the data is said at once."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation_salmonn.audio import clip_seconds, join_clips
from evaluation_salmonn.filters import apply_filters
from evaluation_salmonn.sources import find_local, load_rows
from evaluation_salmonn.task import Task


_SHOWN = 5  # bad rows that an error lists


@dataclass(frozen=True)
class Example:
    """
    One example of a task.

    Args:
        id: unique in its task.
        clips: what is heard, one after the other, in a form that `audio.read_clip` takes.
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

    def waveform(self, sampling_rate: int) -> np.ndarray:
        """`(samples,)` of float32 at `sampling_rate`."""
        return join_clips(list(self.clips), sampling_rate, self.silence_seconds)


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

    Raises `ValueError` on missing columns, missing or unreadable audio, empty references, and ids that are not unique.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    rows, source = load_rows(task, find_local(task, data, data_dir))
    if not rows:
        raise ValueError(f"Task {task.name!r} needs at least one example, got none from {source}.")
    columns = _find_columns(task, rows, source)
    rows = _group_rows(rows, columns[task.group_by][0]) if task.group_by in columns else [[row] for row in rows]
    # joining needs more rows than it makes; a plain task looks only at the rows that it uses
    rows = rows if task.concatenate_seconds else rows[:limit]

    examples, problems = [], []
    for index, group in enumerate(rows):
        name = str(group[0][columns["id"][0]]) if "id" in columns else f"{index:06d}"
        try:
            examples.append(_make_example(task, name, group, columns))
        except (ValueError, KeyError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        raise ValueError(f"Task {task.name!r} has {len(problems)} bad examples of {len(rows)} in {source}. {shown}")
    _check_unique(task, examples, source)
    if task.concatenate_seconds:
        examples = concatenate(examples, task.concatenate_seconds)[:limit]
    return examples, source


def _find_columns(task: Task, rows: Sequence[dict], source: str) -> dict[str, list[str]]:
    """The columns of each role. Those of a local file may be called as the task has them, or as the role."""
    found: dict[str, list[str]] = {}
    for role, names in task.columns.items():
        names = [names] if isinstance(names, str) else list(names)
        if all(name in rows[0] for name in names):
            found[role] = names
        elif role in rows[0]:
            found[role] = [role]
        elif role != "id":
            missing = [name for name in names if name not in rows[0]]
            raise ValueError(
                f"Task {task.name!r} needs the column {', '.join(map(repr, missing))} as its {role}, got the columns "
                f"{sorted(rows[0])} from {source}."
            )
    return found


def _group_rows(rows: Sequence[dict], column: str) -> list[list[dict]]:
    groups: dict = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return list(groups.values())


def _make_example(task: Task, name: str, group: list[dict], columns: dict[str, list[str]]) -> Example:
    """One example of the rows that make it. Raises `ValueError` with what is wrong."""
    texts: dict[str, tuple[str, ...]] = {}
    for role in columns.keys() - {"audio", "id"}:
        values = [value for row in group for column in columns[role] for value in _as_texts(row.get(column))]
        if role in {"reference", *(entry.references for entry in task.metrics)}:
            values = [apply_filters(task.reference_filter, value) for value in values]
        if not values or not all(value.strip() for value in values):
            raise ValueError(f"empty {role}")
        texts[role] = tuple(values)
    clips = tuple(group[0].get(column) for column in columns["audio"])
    seconds = sum(clip_seconds(clip) for clip in clips) + task.join_seconds * (len(clips) - 1)
    prompt = task.prompt.format(**{role: values[0] for role, values in texts.items()})
    return Example(name, clips, seconds, prompt, texts, task.join_seconds)


def _as_texts(value) -> list[str]:
    if value is None:
        return []
    return [str(text) for text in value] if isinstance(value, (list, tuple)) else [str(value)]


def _check_unique(task: Task, examples: Sequence[Example], source: str) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ValueError(f"Task {task.name!r} needs unique ids, got {example.id!r} more than once from {source}.")
        seen.add(example.id)


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
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]
