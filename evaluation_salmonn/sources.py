# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Where the examples of a task come from: its data set, or a local file or folder of any form in `docs/data.md`."""

from dataclasses import dataclass
from pathlib import Path

from data_salmonn.extras import needs_extra
from data_salmonn.manifests import audio_root_of
from data_salmonn.readers import MANIFEST_ENDINGS, SAVED_NAMES, Entry, find_manifest, read_entries
from evaluation_salmonn.task import Task


with needs_extra("eval"):
    from datasets.exceptions import DatasetNotFoundError

    from data_salmonn.datasets import lazy_rows, open_dataset


class MissingDataError(ValueError):
    """There are no data for a task here: no local ones, and none that can be fetched."""


@dataclass(frozen=True)
class Rows:
    """
    The rows of a task's data as they stand there.

    Args:
        entries: each row with the number by which errors call it, or a `ValueError` in its place.
        source: where they come from, in a result.
        file: the same in an error.
        audio_root: where their paths start.
    """

    entries: list[Entry]
    source: str
    file: str
    audio_root: Path = Path()


def find_local(task: Task, data: dict[str, str | Path] | None, data_dir: str | Path | None) -> Path | None:
    """
    What stands in for the task's dataset: `data[task.name]`, or else in `data_dir` the file or folder with its name.

    Raises `ValueError` if `data` names something that does not exist, and [`MissingDataError`] if the task has no public
    dataset and nothing local stands in for it.
    """
    if data and task.name in data:
        path = Path(data[task.name])
        if not path.exists():
            raise ValueError(f"`data` for task {task.name!r} must be a file or folder, but {path} does not exist.")
        return path
    if data_dir is not None:
        for ending in (*MANIFEST_ENDINGS, ""):
            path = Path(data_dir) / f"{task.name}{ending}"
            if path.exists():
                return path
    if not task.dataset.get("path"):
        note = task.dataset.get("note", "See docs/data.md for the form.")
        raise MissingDataError(
            f"Task {task.name!r} has no public dataset: give a manifest or folder with `data` (--data "
            f"{task.name}=PATH). {note}"
        )
    return None


def load_rows(task: Task, local: Path | None) -> Rows:
    """The rows of the task's data, audio not yet read. Raises [`MissingDataError`] if a data set cannot be fetched."""
    if local is None:
        return _load_public(task)
    if local.is_dir() and any((local / name).is_file() for name in SAVED_NAMES):
        split = None if (local / SAVED_NAMES[0]).is_file() else task.dataset.get("split", "test")
        return Rows(list(enumerate(lazy_rows(open_dataset(local, split)))), local.name, str(local))
    manifest = find_manifest(local)
    if manifest is None:
        raise ValueError(
            f"`data` for task {task.name!r} must be a manifest ({', '.join(MANIFEST_ENDINGS)}), a folder of one, a saved "
            f"dataset, or a folder with *.trans.txt, got {local}."
        )
    source = manifest.name if manifest == local else f"{local.name}/{manifest.name}"
    return Rows(list(read_entries(manifest)), source, str(manifest), audio_root_of(manifest))


def _load_public(task: Task) -> Rows:
    options = {key: task.dataset[key] for key in ("name", "revision", "data_dir") if task.dataset.get(key)}
    path, split = task.dataset["path"], task.dataset.get("split", "test")
    source = " ".join(filter(None, (path, options.get("name"), split)))
    try:
        dataset = open_dataset(path, split, **options)
    except (OSError, DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingDataError(
            f"Task {task.name!r} needs the data set {source}, which cannot be loaded ({reason}). Give a local one with "
            f"`data` (--data {task.name}=PATH)."
        ) from error
    return Rows(list(enumerate(lazy_rows(dataset))), source, source)
