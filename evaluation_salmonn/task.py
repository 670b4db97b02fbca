# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Evaluation tasks: small JSON files that say what is asked, of which data, and how answers are scored."""

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from string import Formatter

from data_salmonn.json_text import read_object
from data_salmonn.prompts import PromptBank
from evaluation_salmonn.filters import FILTERS
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.metrics.base import MissingPartsError


TASKS = Path(__file__).parent / "tasks"
UNKNOWN_PROMPT = "not stated"  # with what published values were asked
# Whose words a prompt is: of the prompt bank that training draws from, of this task alone, or of each row.
BANK, OWN, ROW = "bank", "own", "row"


@dataclass(frozen=True)
class MetricEntry:
    """
    One score of a task.

    Args:
        name: key of the score in results; several entries may use one metric.
        metric: file in `metrics/`.
        higher_is_better: direction of improvement; must be the metric's own.
        options: arguments of the metric.
        references: role of the column with the references.
    """

    name: str
    metric: str
    higher_is_better: bool
    options: dict = field(default_factory=dict)
    references: str = "reference"


@dataclass(frozen=True)
class Published:
    """
    A value from the literature: which metric, how much, of which model, in which table, and what the model was asked
    there, as far as that is known.
    """

    metric: str
    value: float
    model: str
    source: str
    prompt: str = UNKNOWN_PROMPT


@dataclass(frozen=True)
class Task:
    """
    One evaluation task.

    Args:
        name: unique name.
        version: raised whenever scores change in meaning; part of every result.
        level: 1 trained, 2 not trained but speech alone is enough, 3 new (2310.13289); 0 for other sets.
        groups: names under which several tasks are asked for at once.
        description: one sentence.
        dataset: `path`, `name`, `split`, `revision` of `datasets.load_dataset`, or empty if no public copy with audio is
            known and a local one must be given; `note` says where to get it.
        columns: role -> column. Roles: `audio` (one column, or a list that is joined with `join_seconds` of silence),
            `reference`, `id`, and whatever `prompt` or a metric names.
        prompt: what is asked; `{role}` is filled from the example.
        prompt_source: whose words that are: `"bank:asr"`, the test phrasing of a task of the prompt bank, which models of
            this project are trained with; `"own"`, a wording of this task alone; `"row"`, the question of each example.
        generation: arguments of `generate`.
        metrics: the first is the one that is plotted.
        kind: `"transcription"` if it is all about writing down speech, `"translation"`, or `"instruction"`.
        language: of the speech, for recognisers that must be told.
        answer_filter, reference_filter: names of filters, applied before scoring.
        group_by: role; examples that agree in it become one with several references.
        join_seconds: silence between joined clips.
        concatenate_seconds: join successive examples up to this length.
        segments: long clips are transcribed segment by segment, as `salmonn transcribe` does, by models that can.
        judges: names of judge prompts that apply.
        published: values to compare with.
    """

    name: str
    version: int
    level: int
    description: str
    columns: dict
    prompt: str
    metrics: tuple[MetricEntry, ...]
    dataset: dict = field(default_factory=dict)
    prompt_source: str = OWN
    generation: dict = field(default_factory=dict)
    kind: str = "instruction"
    language: str = "en"
    groups: tuple[str, ...] = ()
    answer_filter: tuple[str, ...] = ("strip",)
    reference_filter: tuple[str, ...] = ()
    group_by: str | None = None
    join_seconds: float = 0.1
    concatenate_seconds: float | None = None
    segments: bool = False
    judges: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()

    def __post_init__(self):
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"`name` of a task must be letters, digits, '.', '-' and '_', got {self.name!r}.")
        self._check_prompt()
        for role in ("audio", "reference"):
            if role not in self.columns:
                raise ValueError(f"`columns` of task {self.name!r} must name {role!r}, got {sorted(self.columns)}.")
        if not self.metrics:
            raise ValueError(f"`metrics` of task {self.name!r} must hold at least one, got none.")
        for name in (*self.answer_filter, *self.reference_filter):
            if name not in FILTERS:
                raise ValueError(f"Filters of task {self.name!r} must be of {sorted(FILTERS)}, got {name!r}.")
        if self.kind not in ("transcription", "translation", "instruction"):
            raise ValueError(
                f"`kind` of task {self.name!r} must be transcription, translation or instruction, got {self.kind!r}."
            )
        for entry in self.metrics:
            if load_metric(entry.metric).higher_is_better != entry.higher_is_better:
                raise ValueError(
                    f"`higher_is_better` of {entry.name!r} in task {self.name!r} must be that of the metric "
                    f"{entry.metric!r}, got {entry.higher_is_better}."
                )
            _check_options(self.name, entry)
            if entry.references not in self.columns:
                raise ValueError(
                    f"`references` of {entry.name!r} in task {self.name!r} must be a role in `columns`, got "
                    f"{entry.references!r}."
                )

    def _check_prompt(self) -> None:
        """Raises `ValueError` for a prompt that cannot be filled, or that is not the one of its source."""
        try:
            parts = list(Formatter().parse(self.prompt))
        except ValueError as error:
            raise ValueError(
                f"`prompt` of task {self.name!r} cannot be filled ({error}), got {self.prompt!r}."
            ) from None
        roles = [role for _, role, _, _ in parts if role is not None]
        if any(
            role not in self.columns or options or conversion
            for _, role, options, conversion in parts
            if role is not None
        ):
            raise ValueError(
                f"`prompt` of task {self.name!r} must have roles of `columns` alone in braces, got {self.prompt!r}."
            )
        source, _, bank_task = self.prompt_source.partition(":")
        if self.prompt_source not in (OWN, ROW) and not (source == BANK and bank_task):
            raise ValueError(
                f"`prompt_source` of task {self.name!r} must be 'own', 'row' or 'bank:TASK', got {self.prompt_source!r}."
            )
        if source == ROW and (len(roles) != 1 or self.prompt != f"{{{roles[0]}}}"):
            raise ValueError(
                f"`prompt` of task {self.name!r} must be one role for the source 'row', got {self.prompt!r}."
            )
        if source == BANK and _prompt_bank()[bank_task].test != self.prompt:
            raise ValueError(
                f"`prompt` of task {self.name!r} must be {_prompt_bank()[bank_task].test!r}, that of "
                f"{self.prompt_source!r}, got {self.prompt!r}."
            )

    @property
    def digest(self) -> str:
        """Short hash of everything in the task: two results with the same one were scored alike."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_options(task: str, entry: MetricEntry) -> None:
    """Raises `ValueError` for options that the metric refuses, which it would only say after the last answer."""
    if not isinstance(entry.options, dict):
        raise ValueError(f"`options` of {entry.name!r} in task {task!r} must be an object, got {entry.options!r}.")
    if not entry.options:
        return
    try:
        load_metric(entry.metric).statistics(["one answer"], ["one answer"], **entry.options)
    except MissingPartsError:
        pass
    except (ValueError, TypeError) as error:
        raise ValueError(f"`options` of {entry.name!r} in task {task!r} do not fit: {error}") from error


@cache
def _prompt_bank() -> PromptBank:
    return PromptBank.load()


def task_from_dict(values: dict) -> Task:
    """A task of the contents of its file. Raises `ValueError` on unknown and on missing keys."""
    known = {entry.name: entry for entry in fields(Task)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"A task has the keys {sorted(known)}, got {unknown} in {values.get('name', 'one without name')!r}."
        )
    values = dict(values)
    try:
        values["metrics"] = tuple(MetricEntry(**entry) for entry in values.get("metrics", ()))
        values["published"] = tuple(Published(**entry) for entry in values.get("published", ()))
        for key in ("groups", "answer_filter", "reference_filter", "judges"):
            if key in values:
                values[key] = tuple(values[key])
        return Task(**values)
    except TypeError as error:
        raise ValueError(f"Task {values.get('name')!r} has an entry that does not fit: {error}.") from error


def load_task(source: str | Path) -> Task:
    """
    The task called `source`, or the one in the file `source`.

    Raises `ValueError` for an unknown name and for a file that is no task.
    """
    path = Path(source) if str(source).endswith(".json") else TASKS / f"{source}.json"
    if not path.is_file():
        close = difflib.get_close_matches(str(source), list_tasks(), n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`salmonn tasks` lists them."
        raise ValueError(f"`tasks` must name tasks or task files, got {str(source)!r}. {hint}")
    return task_from_dict(read_object(path))


def list_tasks() -> list[str]:
    """Names of the tasks of this package."""
    return sorted(path.stem for path in TASKS.glob("*.json"))


def load_tasks(sources: Sequence[str | Path]) -> list[Task]:
    """
    Tasks by name, file or group, each once, in the order given.

    Raises `ValueError` for what is none of these, and if no task is left.
    """
    names = list_tasks()
    groups: dict[str, list[str]] = {"all": names}
    for name in names:
        for group in load_task(name).groups:
            groups.setdefault(group, []).append(name)
    wanted = [name for source in sources for name in groups.get(str(source), [source])]
    tasks = {task.name: task for task in map(load_task, wanted)}
    if not tasks:
        raise ValueError("`tasks` must name at least one task, got none.")
    return list(tasks.values())
