# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Audio files of every format: libsndfile reads WAV, FLAC, OGG, MP3 and more; ffmpeg or torchcodec, where one of them is
installed, everything else. Checking a file needs no torch.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from audio_reading_salmonn import BLOCK_FRAMES, UnknownFormatError, check_length, check_samples, shorten
from data_salmonn.audio import SAMPLING_RATE, Recording, measure_audio, open_audio, read_audio


# By which clips in a folder are found. Those that libsndfile reads, and those that it does not.
SNDFILE_ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
OTHER_ENDINGS = (".m4a", ".mp4", ".webm", ".aac", ".wma", ".amr", ".mov", ".mkv", ".mka", ".3gp")
# How the problem begins of files that libsndfile does not read, but maybe another library does.
UNREADABLE = "is no audio that can be read"
AUDIO_ENDINGS = SNDFILE_ENDINGS + OTHER_ENDINGS


def check_clip(path: str | Path) -> None:
    """
    Looks at the beginning of an audio file. Raises `ValueError` if it does not exist, is no audio, holds no samples, or
    is of a format that nothing installed here reads.
    """
    _check_exists(path)
    _, problem = measure_audio(Path(path))
    if problem is None:
        return
    if not problem.startswith(UNREADABLE):
        raise ValueError(f"`audio` {path} {problem}")
    if _has_ffmpeg():
        for _ in _decode_with_ffmpeg(path, seconds=0.1):
            pass
    elif not _has_torchcodec():
        raise _unreadable(path, problem.removeprefix(UNREADABLE))


def open_clip(path: str | Path) -> Recording:
    """
    An audio file of any length as 16 kHz, channels averaged, which has been read to its end.

    Raises `ValueError` if the file does not exist, is no audio, is damaged or longer than six hours, or is of a format that
    nothing installed here reads.
    """
    _check_exists(path)
    try:
        return open_audio(Path(path))
    except UnknownFormatError as error:
        return Recording(_find_decoder(path, error))


def read_clip(path: str | Path) -> np.ndarray:
    """The samples of [`open_clip`], float32 of shape `(samples,)`. Raises the same."""
    _check_exists(path)
    try:
        return read_audio(Path(path))
    except UnknownFormatError as error:
        return np.concatenate(list(_find_decoder(path, error)()))


def _find_decoder(path: str | Path, error: UnknownFormatError) -> Callable[[], Iterable[np.ndarray]]:
    """What gives the samples of a file, in blocks, that libsndfile does not read."""
    if _has_ffmpeg():
        return partial(_decode_with_ffmpeg, path)
    if _has_torchcodec():
        samples = _decode_with_torchcodec(path)
        return lambda: [samples]
    raise _unreadable(path, error) from error


def _check_exists(path: str | Path) -> None:
    if os.path.isdir(path):
        raise ValueError(f"`audio` must be a file, got the folder {path}")
    if not os.path.isfile(path):
        raise ValueError(f"`audio` {shorten(str(path))} does not exist")


def _unreadable(path: str | Path, reason) -> ValueError:
    if Path(path).suffix.lower() in OTHER_ENDINGS:
        return ValueError(
            f"`audio` {path} is of a format that libsndfile does not read: install ffmpeg, or torchcodec with "
            "`pip install torchcodec`, or convert it to WAV, FLAC, OGG or MP3"
        )
    return ValueError(f"`audio` {path} is no audio file that can be read ({reason})")


def _has_ffmpeg() -> bool:
    return shutil.which("ffmpeg") is not None


def _has_torchcodec() -> bool:
    return importlib.util.find_spec("torchcodec") is not None


def _decode_with_ffmpeg(path: str | Path, seconds: float | None = None) -> Iterator[np.ndarray]:
    """The samples of a file, or of its first `seconds`, in blocks."""
    # `file:` keeps a name from being taken for an option or an address
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}"]
    command += [] if seconds is None else ["-t", str(seconds)]
    command += ["-vn", "-f", "f32le", "-ac", "1", "-ar", str(SAMPLING_RATE), "-"]
    num_samples = 0
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as ffmpeg,
    ):
        try:
            while content := ffmpeg.stdout.read(4 * BLOCK_FRAMES):
                block = np.frombuffer(content[: len(content) // 4 * 4], dtype="<f4")
                num_samples += len(block)
                check_length(num_samples / SAMPLING_RATE, str(path))
                yield check_samples(block.astype(np.float32), f"`audio` {path}")
        except BaseException:  # no more is wanted
            ffmpeg.kill()
            raise
        status = ffmpeg.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().split("\n")[-1]
    if status != 0 or not num_samples:
        raise ValueError(f"`audio` {path} is no audio file that can be read ({said or 'no audio in it'})")


def _decode_with_torchcodec(path: str | Path) -> np.ndarray:
    from transformers.audio_utils import load_audio

    try:
        samples = load_audio(str(path), sampling_rate=SAMPLING_RATE, backend="torchcodec")
    except Exception as error:  # its decoders have errors of their own
        raise ValueError(f"`audio` {path} is no audio file that can be read ({error})") from error
    check_length(len(samples) / SAMPLING_RATE, str(path))
    return check_samples(np.asarray(samples), f"`audio` {path}")
