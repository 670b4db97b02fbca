# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Reading a run's folder, and beginning one or going on with it."""

import json
import logging
import shutil
from pathlib import Path

from data_salmonn.files import UNFINISHED, write_json
from data_salmonn.json_text import read_object, read_object_lines


logger = logging.getLogger(__name__)

RUN = "run.json"
RESULTS = "results.json"
PER_EXAMPLE = "per_example.json"
JUDGED = "judged.json"
REPORT = "report"
SCHEMA_VERSION = 1


def start_run(output: Path, settings: dict, overwrite: bool) -> None:
    """
    Prepares the folder of a run, or checks that what it holds is part of the same run.

    Raises `ValueError` if it holds another run, and names what differs, or something that is no run.
    """
    path = output / RUN
    is_run = path.is_file()
    if overwrite and is_run:
        _clear_run(output)
    if path.is_file():
        before, now = read_object(path), json.loads(json.dumps(settings))
        differing = differing_keys(before, now)
        commits = [key for key in differing if key.startswith("environment.git")]
        if commits:
            logger.warning(
                "%s was begun with other code (%s): going on with what runs now.", output, ", ".join(commits)
            )
        differing = [key for key in differing if key not in commits]
        if differing:
            raise ValueError(
                f"`output` {output} holds another run, which differs in {', '.join(differing)}. Choose another folder, or "
                "`overwrite` it."
            )
        return
    if not is_run and output.is_dir() and not all(file.name.endswith(UNFINISHED) for file in output.iterdir()):
        raise ValueError(f"`output` must be a new folder or one of a run, got {output} with other files in it.")
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _clear_run(output: Path) -> None:
    """Removes what a run has written, and nothing else."""
    tasks = read_object(output / RUN).get("tasks", {})
    for folder in (*tasks, REPORT):
        shutil.rmtree(output / folder, ignore_errors=True)
    for file in (RESULTS, JUDGED, RUN):
        (output / file).unlink(missing_ok=True)


def differing_keys(first: dict, second: dict, prefix: str = "") -> list[str]:
    """Dotted names of what differs between two nested dicts."""
    names = []
    for key in sorted(first.keys() | second.keys()):
        one, other = first.get(key), second.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += differing_keys(one, other, f"{prefix}{key}.")
        elif one != other:
            names.append(f"{prefix}{key}")
    return names


def read_results(run: str | Path) -> dict:
    """The results of a run, given its folder, those of judges among them. Raises `ValueError` if there are none, or of a newer kind."""
    path = Path(run) / RESULTS
    if not path.is_file():
        raise ValueError(f"`run` must be the folder of a finished run, got {run} without {RESULTS}.")
    results = read_object(path)
    if results.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{path} must have schema_version {SCHEMA_VERSION}, got {results.get('schema_version')}.")
    judged = Path(run) / JUDGED
    if judged.is_file():
        for task, scores in read_object(judged).items():
            if task in results["tasks"]:
                results["tasks"][task]["scores"].update(scores)
    return results


def read_per_example(run: str | Path, task: str) -> dict[str, dict[str, list]]:
    """For each score of a task, `scores` and `statistics` of each example alone, in the order of its data."""
    return read_object(Path(run) / task / PER_EXAMPLE)


def read_rows(run: str | Path, task: str) -> list[dict]:
    """The lines of a task's predictions, in the order of its data."""
    path = Path(run) / task / "predictions.jsonl"
    if not path.is_file():
        raise ValueError(f"`run` must hold the predictions of {task!r}, got {run} without {path.name}.")
    return list(read_object_lines(path))
