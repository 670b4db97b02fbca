# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Writing many made clips: in parallel, with progress, and so that an interrupted run goes on where it was.

A maker plans its clips first, as rows of facts (`id` and whatever is known of the clip), and renders them after that.
Rendering a row gives the same samples in any process and order, so a data set depends on its seed alone. A split is

    folder/clips.jsonl       a row a clip: `id`, `path`, `seconds` and its facts, in the order of the plan
    folder/audio/00003/      WAV files, 16 kHz, 16 bit, a shard of the plan in each folder
    folder/shards/           rows of finished shards
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm.auto import tqdm

from data_salmonn.audio import SAMPLING_RATE
from data_salmonn.files import whole_file, write_lines
from data_salmonn.json_text import read_object_lines


SHARD_CLIPS, LEAST_SHARD_CLIPS = 200, 25
PLAN = "plan.sha256"
MAX_CLIPS = 10_000_000


def write_clips(
    folder: str | Path, rows: Sequence[dict], render: Callable[[dict], np.ndarray], workers: int | None = None
) -> Path:
    """
    Renders the clips of a plan and returns the path of `clips.jsonl`, which is written last.

    Args:
        folder: Where the split is, or is to be. What an interrupted run has finished there is kept.
        rows: The plan. Each row has an `id` that is no other row's and can be a file name; the rest is JSON.
        render: Gives the samples `(samples,)` of a row, 16 kHz, in [-1, 1]. A function of a module.
        workers: Processes, all cores by default.

    Raises `ValueError` if `folder` belongs to another plan, or if ids occur twice.
    """
    folder = Path(folder)
    if len({row["id"] for row in rows}) != len(rows):
        raise ValueError("`rows` must have different ids.")
    _claim(folder, rows)
    # some for each of many processes, and the same ones however many there are
    size = min(SHARD_CLIPS, max(LEAST_SHARD_CLIPS, len(rows) // 16))
    shards = [(number, rows[first : first + size]) for number, first in enumerate(range(0, len(rows), size))]
    missing = [shard for shard in shards if not _shard_file(folder, shard[0]).is_file()]
    with tqdm(total=len(rows), desc=f"Making {folder.name}", unit="clip") as progress:
        progress.update(len(rows) - sum(len(part) for _, part in missing))
        work = partial(_write_shard, folder, render)
        workers = min(workers or os.cpu_count() or 1, max(1, len(missing)))
        if workers == 1:
            for count in map(work, missing):
                progress.update(count)
        else:
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                for count in pool.imap_unordered(work, missing):
                    progress.update(count)
    manifest = folder / "clips.jsonl"
    with whole_file(manifest) as unfinished, unfinished.open("wb") as out:
        for number, _ in shards:
            out.write(_shard_file(folder, number).read_bytes())
    return manifest


def read_clips(folder: str | Path) -> list[dict]:
    """The rows of a finished split, with `path` absolute. Raises `ValueError` if it is not finished."""
    manifest = Path(folder, "clips.jsonl")
    if not manifest.is_file():
        raise ValueError(f"`folder` {folder} has no finished clips: its maker writes clips.jsonl last.")
    rows = read_object_lines(manifest)
    return [{**row, "path": str((manifest.parent / row["path"]).resolve())} for row in rows]


def check_count(count: int) -> None:
    """Raises `ValueError` unless `count` is a number of clips that can be made: of none, sources are looked for forever."""
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_CLIPS:
        raise ValueError(f"`count` must be an integer from 1 to {MAX_CLIPS} (a constant of clips.py), got {count!r}.")


def row_rng(row: dict, *names: str) -> random.Random:
    """Random numbers that belong to a row: the same in every process."""
    return random.Random("\n".join((str(row.get("seed", 0)), str(row["id"]), *names)))


def _claim(folder: Path, rows: Sequence[dict]) -> None:
    """Makes `folder` that of the plan, or finds that it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()
    file = folder / PLAN
    if not file.exists():
        file.write_text(digest, encoding="utf-8")
    if file.read_text(encoding="utf-8") != digest:
        raise ValueError(f"`folder` {folder} holds clips of another plan: delete it or name another folder.")


def _write_shard(folder: Path, render: Callable[[dict], np.ndarray], shard: tuple[int, Sequence[dict]]) -> int:
    number, rows = shard
    audio = folder / "audio" / f"{number:05d}"
    shutil.rmtree(audio, ignore_errors=True)
    audio.mkdir(parents=True)
    lines = []
    for row in rows:
        samples = np.asarray(render(row), dtype=np.float32)
        if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
            raise ValueError(
                f"the clip {row['id']} came out with shape {samples.shape} or numbers that are not finite"
            )
        file = audio / f"{row['id']}.wav"
        soundfile.write(file, np.clip(samples, -1, 1), SAMPLING_RATE, subtype="PCM_16")
        facts = {"id": row["id"], "path": file.relative_to(folder).as_posix(), **row}
        lines.append({**facts, "seconds": round(len(samples) / SAMPLING_RATE, 3)})
    shard_file = _shard_file(folder, number)
    write_lines(shard_file, lines)
    return len(rows)


def _shard_file(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:05d}.jsonl"
