# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What a BEATs with a classifier hears in clips, and when."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from beats_salmonn.windows import (
    Clip,
    Columns,
    Window,
    as_clips,
    check_lengths,
    cut_windows,
    mean_over_bands,
    run_windows,
)
from conversion_salmonn.beats_loading import load_beats
from data_salmonn.audio import read_audio
from modeling_beats import BeatsForAudioClassification


# The columns of AudioSet's table of names.
LABEL_COLUMNS = ("mid", "display_name")


@dataclass(frozen=True)
class Tags:
    """
    Scores of a clip over time.

    `scores` are probabilities, `(times, labels)`, of the stretches of time from `starts` to `ends` in seconds; `best`,
    `(labels,)`, are the highest ones in any window.
    """

    audio: str
    seconds: float
    labels: Sequence[str]
    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    best: np.ndarray

    def top(self, count: int, threshold: float = 0.0) -> list[int]:
        """The labels with the highest scores anywhere in the clip, at most `count`, none below `threshold`."""
        order = np.argsort(-self.best, kind="stable")[:count]
        return [int(label) for label in order if self.best[label] >= threshold]

    def peak(self, label: int) -> int:
        """Which stretch of time has the highest score of a label."""
        return int(self.scores[:, label].argmax())


class Tagger:
    """
    A BEATs with its classifier.

    Args:
        model: what [`load_beats`] takes.
        device: where to compute.
        names: a CSV file with the columns `mid` and `display_name`, such as AudioSet's `class_labels_indices.csv`, with
            names for the labels of the model.

    Raises:
        ValueError: if the model has no classifier, or one whose scores are no probabilities, or if labels have no name.
    """

    def __init__(self, model: str | os.PathLike, device: str = "cpu", names: str | os.PathLike | None = None):
        self.model, extractor = load_beats(model)
        if not isinstance(self.model, BeatsForAudioClassification):
            raise ValueError(
                f"`model` {model} has no classifier: a SALMONN keeps the encoder of its BEATs only, and a self-supervised "
                "BEATs never had one. Tags need a BEATs that was fine-tuned, such as the one that a SALMONN is made of. "
                "`salmonn embed` takes either."
            )
        if self.model.config.problem_type == "regression":
            raise ValueError(f"`model` {model} was trained for regression: its outputs are no probabilities of tags.")
        self.model.to(device)
        self.columns = Columns(extractor, self.model.config.patch_size)
        self.labels = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]
        if names is not None:
            self.labels = _rename(self.labels, names)

    def tag(
        self,
        clips: Iterable[Clip | Any],
        window: float = 10.0,
        hop: float | None = None,
        frames: bool = False,
        batch_size: int = 8,
        read: Callable[[Any], np.ndarray] = read_audio,
    ) -> Iterator[Tags]:
        """
        Tags clips of any length, in order.

        Args:
            clips: audio, each a path, an array of 16 kHz, or whatever `read` takes, or a [`Clip`] with a name.
            window: seconds that the model hears at a time.
            hop: seconds from one window to the next; half a window unless given, and for frames a whole one.
            frames: whether there is a score for each 0.16 s, from the window in whose middle it stands nearest, rather than one
                for each window.
            batch_size: windows at a time.
            read: what gives the samples of a clip.
        """
        hop = window / 2 if hop is None and not frames else hop
        length, step = self.columns.window_and_hop(window, hop)
        clips = as_clips(clips)
        check_lengths(clips, self.columns)

        def cut(num_columns: int) -> list[Window]:
            return cut_windows(num_columns, length, step)

        for done in run_windows(clips, self.columns, cut, self._score, batch_size, read):
            windows, seconds = done.windows, done.num_samples / self.columns.extractor.sampling_rate
            of_windows = np.stack([score for score, _ in done.results])
            if frames:
                scores = np.concatenate([each[window.own] for window, (_, each) in zip(windows, done.results)])
                starts = np.arange(len(scores))
                ends = starts + 1
            else:
                scores = of_windows
                starts, ends = np.array([(window.first, window.end) for window in windows]).T
            starts, ends = starts * self.columns.seconds, np.minimum(ends * self.columns.seconds, seconds)
            yield Tags(done.clip.name, seconds, self.labels, starts, ends, scores, of_windows.max(axis=0))

    @torch.no_grad()
    def _score(self, features, windows: list[Window]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Of each window the probabilities that the model itself has for it, `(labels,)`, and those of its columns."""
        features = features.to(self.model.device)
        tokens = self.model.beats(**features).last_hidden_state
        logits = mean_over_bands(self.model.classifier(tokens), self.model.config.num_patch_bands)
        for row, window in zip(logits, windows):
            own = row[: window.columns]  # the rest is padding
            yield self._probabilities(own.mean(dim=0)), self._probabilities(own)

    def _probabilities(self, logits: torch.Tensor) -> np.ndarray:
        is_single = self.model.config.problem_type == "single_label_classification"
        return (logits.softmax(dim=-1) if is_single else logits.sigmoid()).cpu().numpy()


def _rename(labels: list[str], file: str | os.PathLike) -> list[str]:
    """The names that a table has for `labels`. Raises `ValueError` if it has none for one of them."""
    try:
        with open(file, newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`labels` {file} cannot be read: {error}") from error
    if not rows or not set(LABEL_COLUMNS) <= rows[0].keys():
        raise ValueError(f"`labels` {file} must be a CSV file with the columns {' and '.join(LABEL_COLUMNS)}.")
    names = {row["mid"]: row["display_name"] for row in rows}
    missing = [label for label in labels if not names.get(label)]
    if missing:
        raise ValueError(
            f"`labels` {file} has no name for {len(missing)} of the {len(labels)} labels of the model, such as {missing[0]}."
        )
    return [names[label] for label in labels]
