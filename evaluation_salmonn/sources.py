# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Where examples come from: the Hub, or a local file or folder in its place.

    manifest.jsonl, .csv, .tsv      a row an example; audio paths are relative to the file
    folder with one of these        metadata.jsonl, metadata.csv, manifest.jsonl, manifest.csv (file_name is audio too)
    folder of save_to_disk          a dataset of the datasets library
    folder with *.trans.txt         LibriSpeech as it is unpacked: columns id, audio, text
"""

import csv
import json
from pathlib import Path

from evaluation_salmonn.audio import DatasetClip
from evaluation_salmonn.task import Task


_MANIFESTS = ("metadata.jsonl", "metadata.csv", "manifest.jsonl", "manifest.csv")


def find_local(task: Task, data: dict[str, str | Path] | None, data_dir: str | Path | None) -> Path | None:
    """
    What stands in for the task's dataset: `data[task.name]`, or else in `data_dir` the file or folder with its name.

    Raises `ValueError` if `data` names something that does not exist, or if the task has no public dataset and nothing
    local stands in for it.
    """
    if data and task.name in data:
        path = Path(data[task.name])
        if not path.exists():
            raise ValueError(f"`data` for task {task.name!r} must be a file or folder, but {path} does not exist.")
        return path
    if data_dir is not None:
        for ending in (".jsonl", ".csv", ".tsv", ""):
            path = Path(data_dir) / f"{task.name}{ending}"
            if path.exists():
                return path
    if not task.dataset.get("path"):
        note = task.dataset.get("note", "See docs/evaluation.md for the form.")
        raise ValueError(
            f"Task {task.name!r} has no public dataset: give a manifest or folder with `data` (--data "
            f"{task.name}=PATH). {note}"
        )
    return None


def load_rows(task: Task, local: Path | None) -> tuple[list[dict], str]:
    """The rows of the task's data, audio not yet read, and a description of where they come from."""
    if local is None:
        return _read_hub(task), "{path} {name} {split}".format(**{"name": "", "split": "test"} | task.dataset)
    if local.is_file():
        return _read_manifest(local), local.name
    for name in _MANIFESTS:
        if (local / name).is_file():
            return _read_manifest(local / name), f"{local.name}/{name}"
    if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
        return _read_saved(local, task), local.name
    rows = _read_librispeech(local)
    if not rows:
        raise ValueError(
            f"`data` for task {task.name!r} must hold one of {', '.join(_MANIFESTS)}, a saved dataset, or *.trans.txt "
            f"files, got the folder {local} with none of them."
        )
    return rows, f"{local.name} (*.trans.txt)"


def _read_manifest(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        rows = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}, must be a JSON object: {error}.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}, must be a JSON object, got {line[:60]!r}.")
            rows.append(row)
    elif path.suffix in (".csv", ".tsv"):
        rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ","))
    else:
        raise ValueError(f"A manifest must be .jsonl, .csv or .tsv, got {path}.")
    return [_resolve_paths(row, path.parent) for row in rows]


def _resolve_paths(row: dict, folder: Path) -> dict:
    """Audio paths of a manifest, relative to it. A column is of audio if its name says so."""
    row = dict(row)
    if "file_name" in row:  # as the datasets library has it in its audio folders
        row.setdefault("audio", row.pop("file_name"))
    for column, value in row.items():
        if column.startswith("audio") and isinstance(value, str) and value:
            row[column] = str(folder / value)
    return row


def _read_librispeech(folder: Path) -> list[dict]:
    rows = []
    for path in sorted(folder.rglob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            audio = next(
                (path.parent / f"{name}{e}" for e in (".flac", ".wav") if (path.parent / f"{name}{e}").is_file()), ""
            )
            rows.append({"id": name, "audio": str(audio), "text": text})
    return rows


def _read_hub(task: Task) -> list[dict]:
    import datasets

    arguments = {key: task.dataset[key] for key in ("name", "revision", "data_dir") if task.dataset.get(key)}
    dataset = datasets.load_dataset(task.dataset["path"], split=task.dataset.get("split", "test"), **arguments)
    return _lazy_rows(dataset)


def _read_saved(folder: Path, task: Task) -> list[dict]:
    import datasets

    dataset = datasets.load_from_disk(str(folder))
    if isinstance(dataset, datasets.DatasetDict):
        split = task.dataset.get("split", "test")
        if split not in dataset:
            raise ValueError(f"`data` for task {task.name!r} must hold the split {split!r}, got {sorted(dataset)}.")
        dataset = dataset[split]
    return _lazy_rows(dataset)


def _lazy_rows(dataset) -> list[dict]:
    """Rows in which audio stands as [`DatasetClip`]: not decoded here, and not kept in memory."""
    import datasets

    audio = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Audio)]
    for name in audio:
        dataset = dataset.cast_column(name, datasets.Audio(decode=False))
    rows = dataset.remove_columns(audio).to_list() if set(dataset.column_names) - set(audio) else [{} for _ in dataset]
    clips = {name: dataset.select_columns([name]) for name in audio}
    return [row | {name: DatasetClip(clips[name], i, name) for name in audio} for i, row in enumerate(rows)]
