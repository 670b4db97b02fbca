# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the layers of a BEATs make of clips: the mean of each clip, or frame by frame."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cli_salmonn.beats_windows import Columns, Window, check_lengths, cut_windows, mean_over_bands, run_windows
from cli_salmonn.sources import Clip
from conversion_salmonn.beats_loading import load_beats
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
        self, clips: Sequence[Clip], window: float, frames: bool = False, batch_size: int = 8
    ) -> Iterator[Embedding]:
        """
        Embeds clips of any length, in order: in windows of `window` seconds side by side, `batch_size` of them at a time.
        """
        length = self.columns.from_seconds("window", window)
        check_lengths(clips, self.columns)
        compute = self._frames if frames else self._sums

        def cut(num_columns: int) -> list[Window]:
            return cut_windows(num_columns, length, length)

        for done in run_windows(clips, self.columns, cut, compute, batch_size):
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
        """The columns that are new in each window, `(layers, columns, width)`, the mean over the bands of each."""
        states = self.model(**features.to(self.model.device), output_hidden_states=True).hidden_states
        bands = self.model.config.num_patch_bands
        means = torch.stack([mean_over_bands(states[layer], bands) for layer in self.layers], dim=1)
        for row, window in zip(means, windows):
            yield row[:, window.new - window.first : window.columns].cpu().numpy()
