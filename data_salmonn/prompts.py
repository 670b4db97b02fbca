# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The prompt bank: what a model is asked for each task, as data.

The files in `prompts/` are JSON objects, one entry a task:

    {
      "asr": {
        "description": "English speech to text, word for word.",
        "aliases": ["transcription"],
        "prompts": {"en": ["Transcribe the speech.", "Turn this recording into text."]},
        "test": "Transcribe the speech."
      }
    }

`prompts` holds phrasings by the language they are written in, drawn at random while training. `test`, one of them, is
what evaluation asks. `{question}` in a phrasing stands for the question of a row. A question without a task is asked as
it stands. Files of a user are read after those of the project: they add tasks, and phrasings to tasks, and may name
another `test`.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_salmonn.json_text import parse_json


PROMPTS = Path(__file__).parent / "prompts"
QUESTION = "{question}"
_FIELDS = {"description", "aliases", "prompts", "test"}


@dataclass
class Task:
    """What is asked for one task: phrasings by language, and the one that evaluation uses."""

    name: str
    description: str = ""
    aliases: list[str] = field(default_factory=list)
    prompts: dict[str, list[str]] = field(default_factory=dict)
    test: str = ""

    @property
    def needs_question(self) -> bool:
        """Whether a row of this task must bring a question of its own."""
        return any(QUESTION in prompt for prompts in self.prompts.values() for prompt in prompts)

    def phrase(self, prompt: str, question: str | None) -> str:
        """
        The text that is asked. The question of a row takes its place in the phrasing, or that of the phrasing.

        Raises a `ValueError` if the task needs a question and there is none.
        """
        if self.needs_question and not question:
            raise ValueError(f"task {self.name!r} needs a `question`, got {question!r}.")
        if question and QUESTION not in prompt:
            return question
        return prompt.replace(QUESTION, question or "")


class PromptBank:
    """
    Phrasings for every task.

    Args:
        tasks (`Iterable[Task]`):
            The tasks, whose names and aliases must differ. Use [`PromptBank.load`] for those of the project.
    """

    def __init__(self, tasks: Iterable[Task]):
        self.tasks: dict[str, Task] = {}
        self._names: dict[str, str] = {}
        for task in tasks:
            self.tasks[task.name] = task
            for name in (task.name, *task.aliases):
                if self._names.setdefault(name, task.name) != task.name:
                    raise ValueError(f"`tasks` names {name!r} twice: for {self._names[name]!r} and {task.name!r}.")

    @classmethod
    def load(cls, *extra_paths: str | Path) -> "PromptBank":
        """
        The prompts of the project and, after them, those of `extra_paths`: JSON files, or folders of them.

        Raises a `ValueError` that lists everything wrong with the files.
        """
        tasks: dict[str, Task] = {}
        problems: list[str] = []
        for path in (PROMPTS, *map(Path, extra_paths)):
            files = sorted(path.glob("*.json")) if path.is_dir() else [path]
            if not files:
                problems.append(f"{path}: holds no JSON files")
            for file in files:
                problems += [f"{file}: {reason}" for reason in _read_file(file, tasks)]
        problems += [reason for task in tasks.values() for reason in _check_task(task)]
        if problems:
            raise ValueError("The prompts cannot be used:\n  " + "\n  ".join(problems))
        return cls(tasks.values())

    def __contains__(self, task: object) -> bool:
        return task in self._names

    def __getitem__(self, task: str) -> Task:
        """The task of that name or alias. Raises a `ValueError` that names the known ones."""
        if task not in self._names:
            raise ValueError(
                f"`task` {task!r} is not in the prompt bank. Known are {', '.join(sorted(self.tasks))}. A prompt file "
                "of yours can add it."
            )
        return self.tasks[self._names[task]]

    def sample(
        self,
        task: str | None,
        question: str | None = None,
        language: str | None = None,
        rng: random.Random | None = None,
    ) -> str:
        """
        One phrasing, drawn at random.

        Args:
            task (`str`):
                Name or alias of the task; `None` for a question that is asked as it stands.
            question (`str`, *optional*):
                The question of the row, for tasks that need one. For other tasks it is asked as it stands.
            language (`str`, *optional*):
                Language that the phrasing is written in, such as `"en"`. By default any.
            rng (`random.Random`, *optional*):
                What to draw with. By default the generator of the `random` module.

        Raises a `ValueError` on an unknown task, a language that the task has no phrasing in, or a missing question.
        """
        if task is None:
            return _as_it_stands(question)
        found = self[task]
        if language is not None and language not in found.prompts:
            raise ValueError(
                f"`language` {language!r} has no prompt for task {found.name!r}, which has some in "
                f"{', '.join(sorted(found.prompts))}. A prompt file of yours can add them."
            )
        languages = sorted(found.prompts) if language is None else [language]
        choices = [prompt for name in languages for prompt in found.prompts[name]]
        return found.phrase((rng or random).choice(choices), question)

    def test_prompt(self, task: str | None, question: str | None = None) -> str:
        """The phrasing that evaluation uses, always the same. Raises as [`PromptBank.sample`] does."""
        if task is None:
            return _as_it_stands(question)
        found = self[task]
        return found.phrase(found.test, question)


def _as_it_stands(question: str | None) -> str:
    if not question:
        raise ValueError(f"there must be a `question` where there is no `task`, got {question!r}.")
    return question


def _read_file(file: Path, tasks: dict[str, Task]) -> list[str]:
    """Adds what `file` holds to `tasks`, and returns what is wrong with it."""
    try:
        entries = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        return [f"cannot be read as JSON ({error})"]
    if not isinstance(entries, dict):
        return [f"must be an object with one entry a task, got {type(entries).__name__}"]
    problems = []
    for name, entry in entries.items():
        reasons = _check_entry(entry)
        problems += [f"task {name!r} {reason}" for reason in reasons]
        if not reasons:
            _merge(tasks.setdefault(name, Task(name)), entry)
    return problems


def _check_entry(entry: Any) -> list[str]:
    """What is wrong with the entry of one task in a file."""
    if not isinstance(entry, dict):
        return [f"must be an object, got {type(entry).__name__}"]
    problems = [f"has an unknown field {name!r}" for name in sorted(entry.keys() - _FIELDS)]
    for name in ("description", "test"):
        if not isinstance(entry.get(name, ""), str):
            problems.append(f"must have a string as {name!r}, got {type(entry[name]).__name__}")
    if not _are_strings(entry.get("aliases", [])):
        problems.append("must have a list of strings as 'aliases'")
    prompts = entry.get("prompts", {})
    if not isinstance(prompts, dict) or not all(_are_strings(phrasings) for phrasings in prompts.values()):
        problems.append("must have an object of languages with lists of strings as 'prompts'")
    return problems


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)


def _merge(task: Task, entry: dict) -> None:
    """Adds the phrasings of `entry` that `task` does not have yet."""
    task.description = entry.get("description", task.description)
    task.test = entry.get("test", task.test)
    task.aliases = list(dict.fromkeys([*task.aliases, *entry.get("aliases", [])]))
    for language, phrasings in entry.get("prompts", {}).items():
        task.prompts[language] = list(dict.fromkeys([*task.prompts.get(language, []), *phrasings]))


def _check_task(task: Task) -> list[str]:
    """What is wrong with a task once all files are read."""
    phrasings = [prompt for prompts in task.prompts.values() for prompt in prompts]
    if not phrasings:
        return [f"task {task.name!r} has no prompts"]
    if task.test not in phrasings:
        # what is measured is what the model hears, not whether it understands a phrasing that it never met
        return [f"task {task.name!r} must have one of its prompts as 'test', got {task.test!r}"]
    if task.needs_question and not all(QUESTION in prompt for prompt in phrasings):
        return [f"task {task.name!r} must have {QUESTION} in all of its prompts or in none"]
    return []
