# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Clips in every form that data sets have them in: their samples, and their length by the header alone."""

from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr


SAMPLING_RATE = 16000
SILENCE_SECONDS = 0.1  # between joined clips, as in the released code


class DatasetClip:
    """A clip in a row of a `datasets.Dataset`, read when it is needed: test sets are larger than memory."""

    def __init__(self, dataset, index: int, column: str):
        self.dataset, self.index, self.column = dataset, index, column

    def load(self) -> Any:
        """The cell, in a form that [`read_audio`] takes."""
        return self.dataset[self.index][self.column]


def read_audio(audio: Any, silence_seconds: float = SILENCE_SECONDS) -> np.ndarray:
    """
    The samples of a clip, or of several that are joined.

    Args:
        audio (`str`, `Path`, `dict`, `np.ndarray`, torchcodec's `AudioDecoder`, [`DatasetClip`] or a list of these):
            The clip: a path, `{"path", "bytes"}` or `{"array", "sampling_rate"}` as `datasets` has them, or samples of
            16 kHz. Clips of a list are joined. libsndfile decodes (WAV, FLAC, OGG, MP3).
        silence_seconds (`float`, *optional*, defaults to 0.1):
            Silence between the clips of a list.

    Returns:
        `np.ndarray`: float32 of shape `(samples,)`, 16 kHz, channels averaged.

    Raises:
        ValueError: on a clip without samples, or one that cannot be read.
        TypeError: on anything else.
    """
    if isinstance(audio, (list, tuple)):
        if not audio:
            raise ValueError("`audio` must hold at least one clip, got an empty list.")
        silence = np.zeros(round(silence_seconds * SAMPLING_RATE), dtype=np.float32)
        parts = [part for clip in audio for part in (silence, read_audio(clip))]
        return np.concatenate(parts[1:])
    samples = _read_clip(audio)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"`audio` must be mono samples, at least one, got an array of shape {samples.shape}.")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _read_clip(audio: Any) -> np.ndarray:
    """Samples of 16 kHz of one clip."""
    if isinstance(audio, DatasetClip):
        audio = audio.load()
    if isinstance(audio, np.ndarray):
        return _check_samples(audio)
    if hasattr(audio, "get_all_samples"):  # torchcodec's, where `datasets` is left to decode
        samples = audio.get_all_samples()
        return _to_mono_16k(samples.data.numpy().T, samples.sample_rate)
    if isinstance(audio, (str, Path)):
        audio = {"path": str(audio)}
    if not isinstance(audio, dict):
        raise TypeError(f"`audio` must be a clip as `datasets` has it, a path or samples, got {type(audio).__name__}.")
    if audio.get("array") is not None:
        if not audio.get("sampling_rate"):
            raise ValueError("`audio` must come with its `sampling_rate` where it is an `array`, got none.")
        return _to_mono_16k(_check_samples(np.asarray(audio["array"])), audio["sampling_rate"])
    if _is_nothing(audio):
        raise ValueError("`audio` must be a clip, got a row without one.")
    file = _file_of(audio)
    if isinstance(file, Path) and not file.is_file():
        raise ValueError(f"`audio` {file}: there is no such file.")
    try:
        return _to_mono_16k(*soundfile.read(file, dtype="float32", always_2d=True))
    except (RuntimeError, OSError, MemoryError) as error:  # soundfile's errors are RuntimeErrors
        raise ValueError(f"`audio` {audio.get('path')} is no audio that can be read ({error}).") from error


def _check_samples(samples: np.ndarray) -> np.ndarray:
    if not np.issubdtype(samples.dtype, np.floating):
        raise TypeError(f"`audio` must be floating-point samples in [-1, 1), got {samples.dtype}.")
    return samples


def _is_nothing(audio: Any) -> bool:
    """Whether a cell is empty, as `datasets` and CSV files leave it."""
    if isinstance(audio, dict):
        return all(audio.get(name) is None for name in ("path", "bytes", "array"))
    return audio is None or isinstance(audio, str) and not audio


def _file_of(clip: dict) -> Path | BytesIO:
    return Path(str(clip.get("path"))) if clip.get("bytes") is None else BytesIO(clip["bytes"])


def _to_mono_16k(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """`(samples,)` of 16 kHz from `(samples,)` or `(samples, channels)`, as Transformers' `load_audio` makes them."""
    samples = np.asarray(samples, dtype=np.float32)
    samples = samples.mean(axis=-1) if samples.ndim == 2 else samples
    if sampling_rate == SAMPLING_RATE:
        return samples
    wanted = -(-len(samples) * SAMPLING_RATE // int(sampling_rate))
    samples = soxr.resample(samples, sampling_rate, SAMPLING_RATE, quality="soxr_hq")
    return np.pad(samples, (0, max(0, wanted - len(samples))))[:wanted]


def measure_audio(audio: Any) -> tuple[float, str | None]:
    """
    Seconds of a clip, in any form that [`read_audio`] takes, and what is wrong with it, if anything.

    Of files only the headers are read, and those once: whoever asks again gets what was found, unless the file changed.
    """
    if isinstance(audio, DatasetClip):
        audio = audio.load()
    if isinstance(audio, list) and audio:
        found = [measure_audio(clip) for clip in audio]
        problem = next((problem for _, problem in found if problem), None)
        return sum(seconds for seconds, _ in found) + SILENCE_SECONDS * (len(found) - 1), problem
    if _is_nothing(audio) or audio == []:
        return 0.0, "there is none"
    if isinstance(audio, str):
        audio = Path(audio)
    if isinstance(audio, dict) and audio.get("array") is None:
        audio = _file_of(audio)
    if isinstance(audio, Path):
        try:
            status = audio.stat()
        except OSError:
            status = None
        if status is None or not audio.is_file():
            return 0.0, "there is no such file"
        return _measure_file(str(audio), status.st_mtime_ns, status.st_size)
    if isinstance(audio, BytesIO):
        return _measure(audio)
    try:
        seconds = len(read_audio(audio)) / SAMPLING_RATE
    except (ValueError, TypeError) as error:
        return 0.0, str(error)
    return seconds, None


@lru_cache(maxsize=2**20)
def _measure_file(path: str, changed: int, size: int) -> tuple[float, str | None]:
    return _measure(path)


def _measure(file: str | BytesIO) -> tuple[float, str | None]:
    try:
        info = soundfile.info(file)
    except (RuntimeError, OSError, TypeError) as error:  # soundfile's errors are RuntimeErrors
        return 0.0, f"is no audio that can be read ({error})"
    return info.frames / info.samplerate, None if info.frames else "the clip has no samples"
