# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Runs tasks on a model. A run is a folder:

    run.json                    what was asked of what: a run that goes on must ask the same
    <task>/journal-NNN.jsonl    while it goes on: the answers of each process
    <task>/predictions.jsonl    at its end: all answers, in the order of the data
    <task>/per_example.json     each score for each example alone, and what it was computed from
    results.json                scores, and everything needed to repeat them

Batches are made of the whole data, before it is known which of them are done or which process takes them. So neither
an interruption nor the number of processes changes what stands together in a batch, and files end up equal bit by bit.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from conversion_salmonn.loading import start_processes
from data_salmonn.files import write_json
from data_salmonn.journals import Journal, drop_journals, read_journals
from data_salmonn.manifests import ManifestError
from evaluation_salmonn.data import Example, data_digest, load_examples
from evaluation_salmonn.models import AudioModel, load_model
from evaluation_salmonn.predictions import (
    PREDICTIONS,
    finish,
    make_row,
    read_predictions,
)
from evaluation_salmonn.provenance import describe_environment
from evaluation_salmonn.run_files import PER_EXAMPLE, RESULTS, SCHEMA_VERSION, start_run
from evaluation_salmonn.scoring import missing_metrics, score_task
from evaluation_salmonn.sources import MissingDataError
from evaluation_salmonn.task import Task, load_tasks


logger = logging.getLogger(__name__)


def evaluate(
    model: str | Path | AudioModel | Callable[[], AudioModel],
    tasks: Sequence[str | Path],
    output: str | Path,
    *,
    data: dict[str, str | Path] | None = None,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    generation: dict | None = None,
    bootstrap_samples: int = 1000,
    overwrite: bool = False,
    skip_missing: bool = False,
    name: str | None = None,
    **model_options,
) -> dict:
    """
    Evaluates a model and returns the contents of `results.json`.

    Args:
        model: folder or Hub id, a loaded [`AudioModel`], or a function that loads one.
        tasks: names, groups (`level1`, …) or files of tasks.
        output: folder of the run. If it holds part of the same run, only what is missing is generated.
        data: task name -> file or folder that stands in for its dataset.
        data_dir: folder with such files or folders by the name of the task.
        limit: the first so many examples of each task.
        batch_size: clips that are answered together.
        seed: of sampling, where a task samples, and of the bootstrap.
        generation: arguments of `generate` that replace the tasks' own.
        bootstrap_samples: draws for confidence intervals; 0 for none.
        overwrite: begin anew instead of refusing where `output` holds another run.
        skip_missing: leave out tasks whose data are not there, and say so in the results, instead of refusing.
        name: what reports call the model; default: its folder or Hub id.
        model_options: of [`load_model`].

    Raises `ValueError` before anything is generated, on unknown tasks, data that is incomplete, a model without audio
    support, and an `output` that holds another run.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if bootstrap_samples < 0:
        raise ValueError(f"`bootstrap_samples` must be at least 0, got {bootstrap_samples}.")
    state = start_processes()
    loaded_tasks = load_tasks(tasks)
    found, skipped = _load_all(loaded_tasks, data, data_dir, limit, skip_missing)
    loaded_tasks = [task for task in loaded_tasks if task.name in found]
    if state.is_main_process:
        _warn_of_missing_metrics(loaded_tasks)

    audio_model = _load(model, state, model_options)
    for task in loaded_tasks:
        audio_model.check(task)
    called = name or (str(model) if isinstance(model, (str, Path)) else type(audio_model).__name__)
    settings = {
        "model": {"name": called, **audio_model.describe()},
        "environment": describe_environment(),
        "seed": seed,
        "batch_size": batch_size,
        "limit": limit,
        "tasks": {task.name: _describe_task(task, *found[task.name], generation) for task in loaded_tasks},
    }
    output = Path(output)
    if state.is_main_process:
        start_run(output, settings, overwrite)
    state.wait_for_everyone()

    results = {"schema_version": SCHEMA_VERSION, **settings, "skipped": skipped}
    for task in loaded_tasks:
        examples, folder = found[task.name][0], output / task.name
        predictions = _answer_task(audio_model, task, examples, folder, settings, state)
        if state.is_main_process:
            scores = score_task(task, examples, predictions, bootstrap_samples, seed)
            results["tasks"][task.name]["scores"] = _write_scores(scores, folder)
    if state.is_main_process:
        write_json(output / RESULTS, results)
    state.wait_for_everyone()
    return results


def _load_all(
    tasks: Sequence[Task], data, data_dir, limit: int | None, skip_missing: bool
) -> tuple[dict[str, tuple[list[Example], str]], dict[str, str]]:
    """
    The examples of each task and where they come from, and of tasks that are skipped the reason. What is wrong with the
    data of any task is raised together.
    """
    found, skipped, problems = {}, {}, []
    for task in tasks:
        try:
            found[task.name] = load_examples(task, data, data_dir, limit)
        except MissingDataError as error:
            if not skip_missing:
                raise ValueError(f"{error} With `skip_missing` such tasks are left out.") from error
            skipped[task.name] = str(error)
        except ManifestError as error:
            problems += error.problems
    if problems:
        raise ManifestError(problems)
    # what one process cannot fetch, none of them does
    skipped = {name: reason for part in gather_object([skipped]) for name, reason in part.items()}
    for name, reason in skipped.items():
        found.pop(name, None)
        logger.warning("%s is skipped: %s", name, reason)
    if not found:
        raise ValueError(
            f"`tasks` must name at least one task that has data here, got {[task.name for task in tasks]}."
        )
    return found, skipped


def _warn_of_missing_metrics(tasks: Sequence[Task]) -> None:
    """Says before hours of work which scores will be missing after them."""
    for task in tasks:
        for entry, reason in missing_metrics(task).items():
            logger.warning("%s of %s will not be computed: %s", entry, task.name, reason)


def _write_scores(scores: dict[str, dict], folder: Path) -> dict[str, dict]:
    """Writes what belongs to single examples to a file of its own, and returns the rest."""
    per_example = {key: score.pop("per_example") for key, score in scores.items() if "per_example" in score}
    write_json(folder / PER_EXAMPLE, per_example)
    return scores


def _load(model, state: PartialState, options: dict) -> AudioModel:
    if isinstance(model, (str, Path)):
        return load_model(model, **{"device": state.device, **{k: v for k, v in options.items() if v is not None}})
    if options:
        raise ValueError(
            f"`model_options` go with the name of a model, got {sorted(options)} for {type(model).__name__}."
        )
    return model if isinstance(model, AudioModel) else model()


def _describe_task(task: Task, examples: Sequence[Example], source: str, generation: dict | None) -> dict:
    return {
        "version": task.version,
        "digest": task.digest,
        "level": task.level,
        "description": task.description,
        "source": source,
        "data_digest": data_digest(examples),
        "num_examples": len(examples),
        "hours": round(sum(example.seconds for example in examples) / 3600, 4),
        "prompt": task.prompt,
        "prompt_source": task.prompt_source,
        "generation": {**task.generation, **(generation or {})},
        "answer_filter": list(task.answer_filter),
        "reference_filter": list(task.reference_filter),
        "judges": list(task.judges),
        "published": [asdict(value) for value in task.published],
        "definition": json.loads(json.dumps(asdict(task))),  # as it is read again
    }


def make_batches(examples: Sequence[Example], batch_size: int) -> list[list[Example]]:
    """All examples, longest first, so that the first batch shows whether memory is enough, and little is padding."""
    ordered = sorted(examples, key=lambda example: (-example.seconds, len(example.prompt), example.id))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def _answer_task(
    model: AudioModel, task: Task, examples: Sequence[Example], folder: Path, settings: dict, state: PartialState
) -> list[str]:
    """The answers to a task in the order of its examples: those that are there, and the others made now."""
    path = folder / PREDICTIONS
    finished = gather_object([path.is_file()])[0]  # the main process decides for all machines
    if finished:
        drop_journals(folder)  # a kill may have left them
        return read_predictions(path, task, examples) if state.is_main_process else []
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, state.process_index)
    state.wait_for_everyone()
    done = _gather_rows(folder)

    batches = make_batches(examples, settings["batch_size"])
    # a batch that was cut short is made again as a whole: its answers must come from the same batch
    pending = [(i, batch) for i, batch in enumerate(batches) if not all(example.id in done for example in batch)]
    mine = pending[state.process_index :: state.num_processes]
    with tqdm(
        total=sum(len(batch) for _, batch in mine),
        desc=task.name,
        unit="clip",
        disable=not state.is_main_process or not mine,
    ) as progress:
        for index, batch in mine:
            torch.manual_seed(settings["seed"] + index)  # for tasks that sample: the same draw whoever makes the batch
            answers = model.answer(
                [example.waveform() for example in batch],
                [example.prompt for example in batch],
                task,
                **settings["tasks"][task.name]["generation"],
            )
            journal.append([make_row(task, example, answer) for example, answer in zip(batch, answers, strict=True)])
            progress.update(len(batch))

    state.wait_for_everyone()
    rows = _gather_rows(folder)
    predictions = []
    if state.is_main_process:
        finish(folder, [rows[example.id] for example in examples])
        predictions = read_predictions(path, task, examples)
    state.wait_for_everyone()
    return predictions


def _gather_rows(folder: Path) -> dict[str, dict]:
    """The answers in the journals of all processes, also of those that write to the disk of another machine."""
    return {row["id"]: row for row in gather_object(list(read_journals(folder).values()))}
