# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Clips in every form that data sets have them in: their samples, at once or in blocks, and their length by the header alone."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from audio_reading_salmonn import (
    check_samples,
    max_audio_seconds,
    measure_file,
    read_blocks,
    read_file,
    shorten,
    to_mono,
)


SAMPLING_RATE = 16000
SILENCE_SECONDS = 0.1  # between joined clips, as in the released code
MAX_SILENCE_SECONDS = 60
KEPT_SECONDS = 600  # of a recording


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
        ValueError: on a clip without samples, one that cannot be read, that is cut off or longer than six hours (set the
            environment variable `SALMONN_MAX_AUDIO_HOURS` for more), and on samples that are NaN, inf or far beyond 1.
        TypeError: on anything else.
    """
    if isinstance(audio, (list, tuple)):
        silence = _silence_between(audio, silence_seconds)
        parts = [part for clip in audio for part in (silence, read_audio(clip))]
        return np.concatenate(parts[1:])
    found = _find(audio)
    return found if isinstance(found, np.ndarray) else read_file(found[0], SAMPLING_RATE, found[1])


class Recording:
    """
    A clip of any length that has been read to its end once, so that nothing is wrong with it. Going through it gives its
    samples from the beginning, in blocks `(samples,)` of 16 kHz: one of up to ten minutes is in memory, a longer one is
    read again each time, and a block of it is.

    Args:
        read: returns the blocks from the beginning, and raises what is wrong with them.
    """

    def __init__(self, read: Callable[[], Iterable[np.ndarray]]):
        self._read, self.num_samples = read, 0
        self._kept: list[np.ndarray] | None = []
        for block in read():
            self.num_samples += len(block)
            if self.num_samples > KEPT_SECONDS * SAMPLING_RATE:
                self._kept = None
            if self._kept is not None:
                self._kept.append(block)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._read() if self._kept is None else self._kept)


def open_audio(audio: Any, silence_seconds: float = SILENCE_SECONDS) -> Recording:
    """What [`read_audio`] reads, as a [`Recording`]. Raises the same."""
    return Recording(lambda: _read_blocks(audio, silence_seconds))


def _read_blocks(audio: Any, silence_seconds: float) -> Iterator[np.ndarray]:
    if isinstance(audio, (list, tuple)):
        silence = _silence_between(audio, silence_seconds)
        for number, clip in enumerate(audio):
            if number:
                yield silence
            yield from _read_blocks(clip, SILENCE_SECONDS)
        return
    found = _find(audio)
    if isinstance(found, np.ndarray):
        yield found
    else:
        yield from read_blocks(found[0], SAMPLING_RATE, found[1])


def _silence_between(clips: list | tuple, seconds: float) -> np.ndarray:
    if not clips:
        raise ValueError("`audio` must hold at least one clip, got an empty list.")
    if not 0 <= seconds <= MAX_SILENCE_SECONDS:
        raise ValueError(f"`silence_seconds` must be from 0 to {MAX_SILENCE_SECONDS}, got {seconds!r}.")
    return np.zeros(round(seconds * SAMPLING_RATE), dtype=np.float32)


def _find(audio: Any) -> np.ndarray | tuple[Path | BytesIO, str]:
    """The samples of one clip, of 16 kHz, or the file that they are in and what it is called."""
    if isinstance(audio, DatasetClip):
        audio = audio.load()
    if isinstance(audio, np.ndarray):
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"`audio` must be mono samples, at least one, got an array of shape {audio.shape}.")
        return np.ascontiguousarray(check_samples(audio), dtype=np.float32)
    if hasattr(audio, "get_all_samples"):  # torchcodec's, where `datasets` is left to decode
        samples = audio.get_all_samples()
        return _check_any(to_mono(samples.data.numpy().T, samples.sample_rate, SAMPLING_RATE))
    if isinstance(audio, (str, Path)):
        audio = {"path": str(audio)}
    if not isinstance(audio, dict):
        raise TypeError(f"`audio` must be a clip as `datasets` has it, a path or samples, got {type(audio).__name__}.")
    if audio.get("array") is not None:
        if audio.get("sampling_rate") is None:
            raise ValueError("`audio` must come with its `sampling_rate` where it is an `array`, got none.")
        return _check_any(to_mono(np.asarray(audio["array"]), audio["sampling_rate"], SAMPLING_RATE))
    if _is_nothing(audio):
        raise ValueError("`audio` must be a clip, got a row without one.")
    file, name = _file_of(audio)
    if isinstance(file, Path) and not _is_file(file):
        raise ValueError(f"`audio` {name}: there is no such file.")
    return file, name


def _check_any(samples: np.ndarray) -> np.ndarray:
    if not len(samples):
        raise ValueError(f"`audio` must be mono samples, at least one, got an array of shape {samples.shape}.")
    return samples


def _is_nothing(audio: Any) -> bool:
    """Whether a cell is empty, as `datasets` and CSV files leave it."""
    if isinstance(audio, dict):
        return all(audio.get(name) is None for name in ("path", "bytes", "array"))
    return audio is None or isinstance(audio, (str, list)) and not audio


def _file_of(clip: dict) -> tuple[Path | BytesIO, str]:
    """The file of a cell, and what to call it."""
    path, content = clip.get("path"), clip.get("bytes")
    if content is None:
        if not isinstance(path, (str, Path)):
            raise TypeError(f"`path` of `audio` must be a path, got {shorten(path)}.")
        return Path(path), shorten(str(path))
    if not isinstance(content, bytes):
        raise TypeError(f"`bytes` of `audio` must be the bytes of a file, got {type(content).__name__}.")
    return BytesIO(content), shorten(str(path)) if path else "bytes"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null character
        return False


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
    if _is_nothing(audio):
        return 0.0, "there is none"
    try:
        if isinstance(audio, str):
            audio = Path(audio)
        name = str(audio)
        if isinstance(audio, dict) and audio.get("array") is None:
            audio, name = _file_of(audio)
        if isinstance(audio, Path):
            if not _is_file(audio):
                return 0.0, "there is no such file"
            status = audio.stat()
            return _measure_file(str(audio), status.st_mtime_ns, status.st_size, max_audio_seconds())
        if isinstance(audio, BytesIO):
            return _measure(audio, name)
        return len(read_audio(audio)) / SAMPLING_RATE, None
    except (ValueError, TypeError) as error:
        return 0.0, str(error)


@lru_cache(maxsize=2**20)
def _measure_file(path: str, changed: int, size: int, longest: float) -> tuple[float, str | None]:
    return _measure(path, path)


def _measure(file: str | BytesIO, name: str) -> tuple[float, str | None]:
    try:
        return measure_file(file, name), None
    except ValueError as error:
        # whoever asks knows which clip it is
        return 0.0, str(error).removeprefix(f"`audio` {shorten(name)} ")
