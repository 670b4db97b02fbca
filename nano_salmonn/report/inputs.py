# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Reads a folder of runs. What is not there is `None`; what is there and malformed raises a `ValueError` with its file.

    evaluate/{instruct,activate,whisper,before}[_greedy]/results.json             of `salmonn evaluate`
    evaluate/without_beats/results.json                                           of `salmonn evaluate`
    {concatenation/{without,with},long/{plain,seg}}/results.json                  of `salmonn evaluate`
    <stage>/curves.json                                                           of `salmonn train` and `activate`
    connectors/<name>/curves.json                                                 of `salmonn train`
    beats/scores.json  sweep/sweep_lora.json  perplexity/perplexity.json
    steps.json          the steps of a build, with their times and commands
    commands.json       folder, or title of anything else -> the command that made it
    notes.md            what a reader must know beside the numbers
"""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data_salmonn.prompts import PromptBank
from evaluation_salmonn.run_files import RESULTS, read_results


CURVES = "curves.json"
RUN = "run.json"
COMMANDS = "commands.json"
NOTES = "notes.md"
STEPS = "steps.json"
REPORT = Path("runs", "report")  # where a build gathers what the report is written from
# Trainings of a build, in their order.
STAGES = ("alignment", "pretrain", "instruct", "activate")
# Folders whose sub-folders have fixed names, so that a misspelt one is not taken for one that is missing.
KNOWN = {
    "evaluate": (
        *(name + beams for name in ("instruct", "activate", "whisper", "before") for beams in ("", "_greedy")),
        "without_beats",
    ),
    "concatenation": ("without", "with"),
    "long": ("plain", "seg"),
}
# Metrics between 0 and 1, which the report gives in percent.
SHARES = ("accuracy", "following_rate")
USED_CURVES = ("loss", "eval_loss", "eval_wer")

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Score:
    """A score of a task with its 95 % interval, if that was computed; shares and error rates in percent."""

    value: float
    low: float | None
    high: float | None
    higher_is_better: bool
    deletions: float | None = None

    def is_apart_from(self, other: "Score") -> bool:
        """Whether both intervals are known and do not overlap."""
        if None in (self.low, self.high, other.low, other.high):
            return False
        return self.high < other.low or other.high < self.low


@dataclass(frozen=True)
class EvaluatedTask:
    num_examples: int
    data_digest: str
    scores: dict[str, Score]


@dataclass(frozen=True)
class Evaluation:
    folder: str
    settings: str  # a sentence about model, seed and batches
    limit: int | None
    tasks: dict[str, EvaluatedTask]

    def score(self, task: str, name: str) -> Score | None:
        return self.tasks[task].scores.get(name) if task in self.tasks else None


@dataclass(frozen=True)
class Training:
    """Curves are lists of step and value; `eval_wer` in percent."""

    folder: str
    curves: dict[str, Curve]
    trained_parameters: int | None


@dataclass(frozen=True)
class TimedStep:
    """A step of a build. Times are in seconds, over all its `runs`."""

    name: str
    about: str
    wall: float
    cpu: float
    runs: int
    commands: list[str]


class Runs:
    """
    A folder of runs.

    Args:
        root: The folder.
        hidden: Folders whose paths are left out of commands and names of models.

    Raises `ValueError` if there is no such folder, or if it has sub-folders with unknown names where these are fixed.
    """

    def __init__(self, root: str | Path, hidden: Sequence[str | Path] = ()):
        self.root, self.hidden = Path(root), [str(Path(path).resolve()) for path in hidden]
        if not self.root.is_dir():
            raise ValueError(f"`runs` must be a folder, got {root}.")
        for folder, names in KNOWN.items():
            unknown = set(self.subfolders(folder)) - set(names)
            if unknown:
                raise ValueError(
                    f"{self.root / folder} must hold {', '.join(names)} only, got {', '.join(sorted(unknown))}."
                )
        self.commands = self._read_commands()
        self.steps = self._read_steps()

    def subfolders(self, folder: str) -> list[str]:
        path = self.root / folder
        return sorted(item.name for item in path.iterdir() if item.is_dir()) if path.is_dir() else []

    def _read_commands(self) -> dict[str, str]:
        path = self.root / COMMANDS
        commands = read_json(path) if path.is_file() else {}
        if not isinstance(commands, dict) or not all(isinstance(command, str) for command in commands.values()):
            raise ValueError(f"{path} must be an object of commands as strings, got {str(commands)[:80]}.")
        return {name: self.shorten(command) for name, command in commands.items()}

    def _read_steps(self) -> list[TimedStep]:
        """The steps of the build that the runs are of, in the order in which they were finished; none if it was no build."""
        path = self.root / STEPS
        if not path.is_file():
            return []
        try:
            return [
                TimedStep(
                    name=row["step"],
                    about=row["about"],
                    wall=read_number(row["wall"], "`wall`"),
                    cpu=read_number(row["cpu"], "`cpu`"),
                    runs=row["runs"],
                    commands=[self.shorten(command) for command in row["commands"]],
                )
                for row in read_json(path)
            ]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is malformed: {_explain(error)}.") from error

    @property
    def notes(self) -> str:
        path = self.root / NOTES
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    def shorten(self, text: str) -> str:
        for path in self.hidden:
            text = text.replace(f"{path}/", "")
        return text

    def command(self, folder: str) -> str | None:
        """The command that made what is in `folder`, if it is recorded."""
        if folder in self.commands:
            return self.commands[folder]
        path = self.root / folder / RUN
        recorded = read_object(path).get("command") if path.is_file() else None
        if recorded is None:
            return self._find_in_steps(folder)
        if not isinstance(recorded, list) or not recorded or not all(isinstance(word, str) for word in recorded):
            raise ValueError(f"{path}: `command` must be a list of words, got {recorded!r}.")
        program, *arguments = recorded
        is_salmonn = Path(program).name == "salmonn" or Path(program).parent.name == "cli_salmonn"
        return self.shorten(shlex.join(["salmonn", *arguments] if is_salmonn else ["python", program, *arguments]))

    def _find_in_steps(self, folder: str) -> str | None:
        """The command of a step that wrote the folder, which a build has in its `runs/report`."""
        output = f" --output {(REPORT / folder).as_posix()} "
        commands = (command for step in self.steps for command in step.commands)
        return next((command for command in commands if output in f"{command} "), None)

    def evaluation(self, folder: str) -> Evaluation | None:
        path = self.root / folder
        if not (path / RESULTS).is_file():
            return None
        try:
            results = read_results(path)
            model = results["model"]
            settings = (
                f"model `{self.shorten(model['name'])}` ({model['class']}, {model['parameters'] / 1e6:.1f} M parameters, "
                f"{model['dtype']}, weights {model['weights']}), seed {results['seed']}, batches of "
                f"{results['batch_size']}"
            )
            tasks = {name: _read_task(task, f"task {name!r}") for name, task in results["tasks"].items()}
            return Evaluation(folder, settings, results["limit"], tasks)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path / RESULTS} is malformed: {_explain(error)}.") from error

    def training(self, folder: str) -> Training | None:
        path = self.root / folder / CURVES
        if not path.is_file():
            return None
        curves = {
            name: read_curve(path, name, curve) for name, curve in read_object(path).items() if name in USED_CURVES
        }
        if not curves:  # of fewer steps than there are between two losses
            return None
        if "eval_wer" in curves:
            curves["eval_wer"] = [(step, 100 * value) for step, value in curves["eval_wer"]]
        run = path.with_name(RUN)
        trained = read_object(run).get("trained_parameters") if run.is_file() else None
        if trained is not None:
            read_number(trained, f"{run}: `trained_parameters`")
        return Training(folder, curves, trained)

    def connectors(self) -> dict[str, Training]:
        """Those runs in `connectors` that have been evaluated, by name."""
        found = {name: self.training(f"connectors/{name}") for name in self.subfolders("connectors")}
        return {name: training for name, training in found.items() if training and "eval_wer" in training.curves}

    def beats_scores(self) -> dict | None:
        """`top1` by kind, `mean_average_precision`, `average_precision` by label, all in percent, and `clips`."""
        path = self.root / "beats" / "scores.json"
        if not path.is_file():
            return None
        scores = read_object(path)
        try:
            top1 = {
                kind: (100 * read_number(entry["accuracy"], f"`top1` of {kind}"), int(entry["clips"]))
                for kind, entry in scores["top1"].items()
            }
            precision = {
                label: 100 * read_number(value, f"`average_precision` of {label}")
                for label, value in scores["average_precision"].items()
            }
            mean = 100 * read_number(scores["mean_average_precision"], "`mean_average_precision`")
            clips = int(scores["clips"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is malformed: {_explain(error)}.") from error
        return {"top1": top1, "average_precision": precision, "mean_average_precision": mean, "clips": clips}

    def sweep(self) -> dict[str, tuple[str, Curve]] | None:
        """
        By task, the metric and its scores by factor on the LoRA scaling; error rates and shares in percent.

        Raises `ValueError` also if the factors do not hold 1, that of training, and a smaller one.
        """
        path = self.root / "sweep" / "sweep_lora.json"
        if not path.is_file():
            return None
        sweep = read_object(path)
        scales, tasks = sweep.get("scales"), sweep.get("tasks")
        if not isinstance(scales, list) or not isinstance(tasks, dict) or not tasks:
            raise ValueError(f"{path} must hold `scales`, a list, and `tasks`, an object, got {sorted(sweep)}.")
        if 1 not in scales or not min(scales) < 1:
            raise ValueError(f"{path}: `scales` must hold 1 and a smaller one, got {scales}.")
        result = {}
        for task, entry in tasks.items():
            metric, scores = (entry.get("metric"), entry.get("scores")) if isinstance(entry, dict) else (None, None)
            if not isinstance(metric, str) or not isinstance(scores, list):
                raise ValueError(
                    f"{path}: task {task!r} must hold `metric` and a list of `scores`, got {str(entry)[:80]}."
                )
            curve = pair_up(path, f"scores of {task!r}", scales, scores)
            # older files have error rates as shares too, and no units
            is_share = entry["unit"] == "share" if "unit" in entry else metric in ("wer", "accuracy")
            factor = 100 if is_share else 1
            result[main_name(task)] = (metric, sorted((scale, factor * score) for scale, score in curve))
        return result

    def perplexity(self) -> dict[str, dict[str, Curve]] | None:
        """By instruction, then by task of the answers: -log P by token, by step."""
        path = self.root / "perplexity" / "perplexity.json"
        if not path.is_file():
            return None
        content = read_object(path)
        steps, curves = content.get("steps"), content.get("curves")
        if not isinstance(steps, list) or not steps or not isinstance(curves, dict) or not curves:
            raise ValueError(f"{path} must hold `steps`, a list, and `curves`, an object, got {sorted(content)}.")
        result: dict[str, dict[str, Curve]] = {}
        for task, by_instruction in curves.items():
            if not isinstance(by_instruction, dict):
                raise ValueError(f"{path}: `curves` of {task!r} must be an object, got {by_instruction!r}.")
            for instruction, values in by_instruction.items():
                curve = pair_up(path, f"values of {task!r} asked for {instruction!r}", steps, values)
                result.setdefault(main_name(instruction), {})[main_name(task)] = curve
        return result


# ----------------------------------------------------------------------------------------------------------------------
# Parts


def _read_task(task: dict, where: str) -> EvaluatedTask:
    scores = {}
    for name, entry in task["scores"].items():
        if entry["value"] is None:  # a metric whose parts were missing
            continue
        factor = 100 if entry["metric"] in SHARES else 1
        value, low, high = (
            None if number is None else factor * read_number(number, f"{where}, score {name!r}")
            for number in (entry["value"], entry.get("low"), entry.get("high"))
        )
        deletions = entry.get("details", {}).get("deletions")
        scores[name] = Score(value, low, high, entry["higher_is_better"], deletions)
    return EvaluatedTask(task["num_examples"], task["data_digest"], scores)


def main_name(task: str) -> str:
    """The name of a trained task that may be given by another of its names."""
    return _prompt_bank()[task].name if task in _prompt_bank() else task


@cache
def _prompt_bank() -> PromptBank:
    return PromptBank.load()


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON: {error}.") from error


def read_object(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got {str(content)[:80]}.")
    return content


def read_number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value!r}.")
    return value


def read_curve(path: Path, name: str, curve: Any) -> Curve:
    """Steps and values, which are `[step, value]` in the file."""
    if not isinstance(curve, list) or not curve or not all(isinstance(p, list) and len(p) == 2 for p in curve):
        raise ValueError(f"{path}: {name!r} must be a list of steps and values, got {str(curve)[:80]}.")
    return [(read_number(step, f"{path}: {name!r}"), read_number(value, f"{path}: {name!r}")) for step, value in curve]


def pair_up(path: Path, name: str, positions: Sequence, values: Any) -> Curve:
    if not isinstance(values, list) or len(values) != len(positions):
        raise ValueError(f"{path}: {name} must be a list of {len(positions)} numbers, got {str(values)[:80]}.")
    return read_curve(path, name, [list(pair) for pair in zip(positions, values)])


def _explain(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
