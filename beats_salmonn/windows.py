# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Clips of any length through a BEATs, window by window.

Time is counted in columns: a BEATs cuts the filter bank into columns of patches, 0.16 s each. Frames of a filter bank
know nothing of their neighbours, so that a window of a clip has exactly the columns that it has within the clip.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_salmonn.audio import measure_audio
from feature_extraction_beats import BeatsFeatureExtractor


@dataclass(frozen=True)
class Clip:
    """Audio in any form that [`read_audio`] takes, a file or samples of 16 kHz among them, and what it is called."""

    name: str
    audio: Any


def as_clips(clips: Iterable[Any]) -> list[Clip]:
    """Files are called by their paths, and other audio by its place in the list."""
    named = []
    for number, clip in enumerate(clips):
        if isinstance(clip, (str, os.PathLike)):
            clip = Clip(str(clip), Path(clip))
        named.append(clip if isinstance(clip, Clip) else Clip(f"clip {number}", clip))
    return named


@dataclass(frozen=True)
class Window:
    """
    `columns` columns from `first` on. Of columns that are in several windows, `start` to `stop` are taken from this one: where
    two overlap, each has the half that is nearer to its middle.
    """

    first: int
    columns: int
    start: int
    stop: int

    @property
    def end(self) -> int:
        return self.first + self.columns

    @property
    def own(self) -> slice:
        """The columns that are taken from this window, counted from its first one."""
        return slice(self.start - self.first, self.stop - self.first)


@dataclass(frozen=True)
class Columns:
    """What a column is, of the BEATs with this extractor and patches of `patch_size` frames."""

    extractor: BeatsFeatureExtractor
    patch_size: int

    @property
    def samples(self) -> int:
        """From one column to the next."""
        return self.patch_size * self.extractor.hop_length

    @property
    def seconds(self) -> float:
        return self.samples / self.extractor.sampling_rate

    def count(self, num_samples: int) -> int:
        """Whole columns in a clip."""
        return self.extractor.num_frames(num_samples) // self.patch_size

    def from_seconds(self, name: str, seconds: float) -> int:
        """The nearest number of columns. Raises `ValueError`, with the option's name, if that is none."""
        # what is meant is a length of audio, whose last frame needs some samples of its own
        columns = self.count(round(seconds * self.extractor.sampling_rate)) if seconds > 0 else 0
        if columns < 1:
            raise ValueError(f"`{name}` must be at least {self.shortest:.3f} seconds, got {seconds:g}.")
        return columns

    def window_and_hop(self, window: float, hop: float | None) -> tuple[int, int]:
        """
        Both as numbers of columns; windows lie side by side where there is no `hop`. Raises `ValueError` if one is shorter than a
        column, or if columns would be left out between windows.
        """
        length = self.from_seconds("window", window)
        step = length if hop is None else self.from_seconds("hop", hop)
        if step > length:
            raise ValueError(f"`hop` must not be longer than `window`, {window:g} seconds, got {hop:g}.")
        return length, step

    @property
    def shortest(self) -> float:
        """Seconds of the shortest clip that has a column."""
        return (self.samples + self._overhang) / self.extractor.sampling_rate

    @property
    def _overhang(self) -> int:
        """Samples that the last frame of a column needs behind it."""
        return self.extractor.frame_length - self.extractor.hop_length

    def take(self, samples: np.ndarray, window: Window) -> np.ndarray:
        return samples[window.first * self.samples : window.end * self.samples + self._overhang]


def cut_windows(num_columns: int, window: int, hop: int) -> list[Window]:
    """
    Windows of `window` columns, one every `hop`; the last ends where the clip ends, so that all are of whole length. A
    clip that is shorter is one window.
    """
    if num_columns <= window:
        return [Window(0, num_columns, 0, num_columns)]
    firsts = list(range(0, num_columns - window + 1, hop))
    if firsts[-1] + window < num_columns:
        firsts.append(num_columns - window)
    halves = [(first + window + following + 1) // 2 for first, following in pairwise(firsts)]
    return [Window(first, window, *own) for first, own in zip(firsts, pairwise([0, *halves, num_columns]))]


@dataclass
class Done:
    """A clip, its windows, and what was computed of each."""

    clip: Clip
    num_samples: int
    windows: list[Window]
    results: list = field(default_factory=list)


def run_windows(
    clips: Iterable[Clip],
    columns: Columns,
    cut: Callable[[int], Sequence[Window]],
    compute: Callable[[dict[str, torch.Tensor], list[Window]], Sequence],
    batch_size: int,
    read: Callable[[Any], np.ndarray],
) -> Iterator[Done]:
    """
    Reads clips, runs their windows in batches of `batch_size` over the borders of clips, and yields each as soon as it is
    complete, in order.

    `read` gives the samples of a clip's audio. `compute` is given the features of a batch and its windows, and returns
    something for each window. Raises `ValueError` on clips that cannot be read or are shorter than a column.
    """
    waiting: list[Done] = []
    batch: list[tuple[Done, Window, np.ndarray]] = []

    def flush() -> None:
        rate = columns.extractor.sampling_rate
        features = columns.extractor([part for _, _, part in batch], sampling_rate=rate, return_tensors="pt")
        for (done, _, _), result in zip(batch, compute(features, [window for _, window, _ in batch])):
            done.results.append(result)
        batch.clear()

    for clip in clips:
        samples = read(clip.audio)
        num_columns = columns.count(len(samples))
        if num_columns < 1:
            seconds = len(samples) / columns.extractor.sampling_rate
            raise ValueError(f"`audio` {clip.name} must last at least {columns.shortest:.3f} s, got {seconds:.3f} s.")
        done = Done(clip, len(samples), list(cut(num_columns)))
        waiting.append(done)
        for window in done.windows:
            batch.append((done, window, columns.take(samples, window)))
            if len(batch) == batch_size:
                flush()
        while waiting and len(waiting[0].results) == len(waiting[0].windows):
            yield waiting.pop(0)
    if batch:
        flush()
    yield from waiting


def check_lengths(clips: Iterable[Clip], columns: Columns) -> None:
    """Raises `ValueError` on a clip whose header says that it is too short, before anything is computed."""
    for clip in clips:
        seconds, problem = measure_audio(clip.audio)
        if problem is None and seconds < columns.shortest - 1e-3:
            raise ValueError(f"`audio` {clip.name} must last at least {columns.shortest:.3f} s, got {seconds:.3f} s.")


def mean_over_bands(tokens: torch.Tensor, num_bands: int) -> torch.Tensor:
    """`(batch_size, tokens, width)` -> `(batch_size, columns, width)`: the bands of a column are consecutive tokens."""
    return tokens.unflatten(1, (-1, num_bands)).mean(dim=2)
