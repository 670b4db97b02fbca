# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Audio files of every format: libsndfile reads WAV, FLAC, OGG, MP3 and more; ffmpeg or torchcodec, where one of them is
installed, everything else. Checking a file needs no torch.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

from audio_reading_salmonn import UnknownFormatError, shorten
from data_salmonn.audio import SAMPLING_RATE, measure_audio, read_audio


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
        _decode_with_ffmpeg(path, seconds=0.1)
    elif not _has_torchcodec():
        raise _unreadable(path, problem.removeprefix(UNREADABLE))


def read_clip(path: str | Path) -> np.ndarray:
    """
    The samples of an audio file, float32 of shape `(samples,)`, 16 kHz, channels averaged.

    Raises `ValueError` if the file does not exist, is no audio, or is of a format that nothing installed here reads.
    """
    _check_exists(path)
    try:
        return read_audio(Path(path))
    except UnknownFormatError as error:
        if _has_ffmpeg():
            return _decode_with_ffmpeg(path)
        if _has_torchcodec():
            return _decode_with_torchcodec(path)
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


def _decode_with_ffmpeg(path: str | Path, seconds: float | None = None) -> np.ndarray:
    """The samples of a file, or of its first `seconds`."""
    # `file:` keeps a name from being taken for an option or an address
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}"]
    command += [] if seconds is None else ["-t", str(seconds)]
    command += ["-vn", "-f", "f32le", "-ac", "1", "-ar", str(SAMPLING_RATE), "-"]
    result = subprocess.run(command, capture_output=True)
    if result.returncode != 0 or not result.stdout:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(
            f"`audio` {path} is no audio file that can be read ({said[-1] if said else 'no audio in it'})"
        )
    return np.frombuffer(result.stdout, dtype="<f4").astype(np.float32)


def _decode_with_torchcodec(path: str | Path) -> np.ndarray:
    from transformers.audio_utils import load_audio

    try:
        return load_audio(str(path), sampling_rate=SAMPLING_RATE, backend="torchcodec")
    except Exception as error:  # its decoders have errors of their own
        raise ValueError(f"`audio` {path} is no audio file that can be read ({error})") from error
