# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Reading clips from whatever a dataset calls audio: a path, encoded bytes, or an array with its rate."""

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr


class AudioError(ValueError):
    """A clip that is missing or cannot be read."""


class DatasetClip:
    """A clip in a row of a dataset, read when it is needed: test sets are larger than memory."""

    def __init__(self, dataset, index: int, column: str):
        self.dataset, self.index, self.column = dataset, index, column

    def load(self) -> dict | str | None:
        return self.dataset[self.index][self.column]


def _open(clip):
    """A file name, a file object, or `(samples, rate)` of `(samples,)` or `(samples, channels)`. Raises [`AudioError`] if there is no such thing in `clip`."""
    if isinstance(clip, DatasetClip):
        clip = clip.load()
    if hasattr(clip, "get_all_samples"):  # torchcodec's, where `datasets` is left to decode
        samples = clip.get_all_samples()
        return samples.data.numpy().T.astype(np.float32), int(samples.sample_rate)
    if isinstance(clip, dict):
        if clip.get("array") is not None and clip.get("sampling_rate"):
            return np.asarray(clip["array"], dtype=np.float32), int(clip["sampling_rate"])
        if clip.get("bytes"):
            return io.BytesIO(clip["bytes"])
        clip = clip.get("path")
    if not clip:
        raise AudioError("no audio in this row")
    if not Path(clip).is_file():
        raise AudioError(f"audio file {clip} does not exist")
    return str(clip)


def clip_seconds(clip) -> float:
    """Length of a clip, from the head of its file alone. Raises [`AudioError`] if it is missing, unreadable or empty."""
    opened = _open(clip)
    if isinstance(opened, tuple):
        seconds = len(opened[0]) / opened[1]
    else:
        try:
            seconds = soundfile.info(opened).duration
        except soundfile.SoundFileError as error:
            raise AudioError(f"no audio that can be read ({error})") from error
    if seconds <= 0:
        raise AudioError("audio of no length")
    return seconds


def read_clip(clip, sampling_rate: int) -> np.ndarray:
    """Samples of a clip at `sampling_rate`, `(samples,)` of float32, channels averaged."""
    opened = _open(clip)
    samples, rate = opened if isinstance(opened, tuple) else soundfile.read(opened, dtype="float32")
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if rate != sampling_rate:
        samples = soxr.resample(samples, rate, sampling_rate)
    return np.ascontiguousarray(samples, dtype=np.float32)


def join_clips(clips: list, sampling_rate: int, silence_seconds: float) -> np.ndarray:
    """Clips behind each other with silence between them, `(samples,)` of float32."""
    silence = np.zeros(round(silence_seconds * sampling_rate), dtype=np.float32)
    parts = [part for clip in clips for part in (silence, read_clip(clip, sampling_rate))]
    return np.concatenate(parts[1:])
