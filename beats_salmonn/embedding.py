# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the layers of a BEATs make of clips: the mean of each clip, or frame by frame."""

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


@dataclass(frozen=True)
class Embedding:
    """
    A clip as `(layers, width)` of float32, or frame by frame as `(layers, frames, width)`, each a column of patches, with
    the seconds in whose middle they are, `(frames,)`.
    """

    audio: str
    values: np.ndarray
    times: np.ndarray | None = None


class Embedder:
    """
    A BEATs whose hidden states are taken.

    Args:
        model: what [`load_beats`] takes, a SALMONN for example.
        device: where to compute.
        layers: which hidden states, all by default. 0 is what goes into the first layer, n what the nth one returns.

    Raises `ValueError` on layers that the model does not have.
    """

    def __init__(self, model: str | os.PathLike, device: str = "cpu", layers: Sequence[int] | None = None):
        loaded, extractor = load_beats(model)
        self.model = loaded.beats if isinstance(loaded, BeatsForAudioClassification) else loaded
        self.model.to(device)
        count = self.model.config.num_hidden_layers
        self.layers = list(range(count + 1)) if layers is None else list(layers)
        wrong = [layer for layer in self.layers if not 0 <= layer <= count]
        if wrong:
            raise ValueError(f"`layers` must be from 0 to {count}, the layers of {model}, got {wrong[0]}.")
        self.columns = Columns(extractor, self.model.config.patch_size)

    def embed(
        self,
        clips: Iterable[Clip | Any],
        window: float = 10.0,
        hop: float | None = None,
        frames: bool = False,
        batch_size: int = 8,
        read: Callable[[Any], np.ndarray] = read_audio,
    ) -> Iterator[Embedding]:
        """
        Embeds clips of any length, in order.

        Args:
            clips: audio, each a path, an array of 16 kHz, or whatever `read` takes, or a [`Clip`] with a name.
            window: seconds that the model hears at a time.
            hop: seconds from one window to the next, by default side by side. Where windows overlap, each 0.16 s is taken
                from the one in whose middle it stands nearest.
            frames: whether there is a vector for each 0.16 s, rather than their mean.
            batch_size: windows at a time.
            read: what gives the samples of a clip.
        """
        length, step = self.columns.window_and_hop(window, hop)
        clips = as_clips(clips)
        check_lengths(clips, self.columns)
        compute = self._frames if frames else self._sums

        def cut(num_columns: int) -> list[Window]:
            return cut_windows(num_columns, length, step)

        for done in run_windows(clips, self.columns, cut, compute, batch_size, read):
            if frames:
                values = np.concatenate(done.results, axis=1)
                times = (np.arange(values.shape[1]) + 0.5) * self.columns.seconds
                yield Embedding(done.clip.name, values, times)
            else:
                yield Embedding(done.clip.name, sum(done.results) / done.windows[-1].end)

    def _sums(self, features, windows: list[Window]) -> Iterable[np.ndarray]:
        for states in self._frames(features, windows):
            yield states.sum(axis=1)

    @torch.no_grad()
    def _frames(self, features, windows: list[Window]) -> Iterable[np.ndarray]:
        """The columns that are taken from each window, `(layers, columns, width)`, the mean over the bands of each."""
        states = self.model(**features.to(self.model.device), output_hidden_states=True).hidden_states
        bands = self.model.config.num_patch_bands
        means = torch.stack([mean_over_bands(states[layer], bands) for layer in self.layers], dim=1)
        for row, window in zip(means, windows):
            yield row[:, window.own].cpu().numpy()
