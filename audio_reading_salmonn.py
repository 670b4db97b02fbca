# Copyright 2026 The SALMONN for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""
Audio from files, bytes, base64 and addresses, within bounds that hold before any memory is taken.

Samples are decoded, averaged over channels and resampled block by block: what is in memory is 16 kHz mono, or with
[`read_blocks`] a block of it.
"""

import base64
import binascii
import http.client
import ipaddress
import math
import os
import re
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np


try:
    import soundfile
    import soxr
except ImportError:  # Transformers' own loaders read files then
    soundfile = soxr = None


# A file of 200 kB can hold 24 hours of silence. This variable raises the limit.
MAX_HOURS_VARIABLE = "SALMONN_MAX_AUDIO_HOURS"
MAX_HOURS = 6.0
# From the slowest recorders of animals to ultrasound. A second at 1 Hz becomes 16000 samples.
MIN_RATE, MAX_RATE = 1000, 768_000
MAX_CHANNELS = 64
# Full scale is 1. Louder happens, by resampling and in float files; this loud are 16-bit numbers only.
MAX_AMPLITUDE = 16.0
# Of an address.
MAX_BYTES = 500 * 2**20
MAX_SECONDS = 300
CONNECT_SECONDS = 20  # without any byte
MAX_REDIRECTS = 5

BLOCK_FRAMES = 2**18
BLOCK_BYTES = 2**16
# Of a writer that could not go back to say how long the data became.
_UNKNOWN_SIZE = 2**31 - 2**20
# Encoders of MP3 count the frames that they begin with, decoders leave them out.
_LOOSE_FRAMES = 4 * 1152


def max_audio_seconds() -> float:
    """The longest audio that is read, in seconds. Raises `ValueError` if the environment holds no number of hours."""
    text = os.environ.get(MAX_HOURS_VARIABLE)
    try:
        hours = MAX_HOURS if not text else float(text)
    except ValueError:
        hours = math.nan
    if not hours > 0:
        raise ValueError(f"`{MAX_HOURS_VARIABLE}` must be a number of hours above 0, got {text!r}.")
    return 3600 * hours


def check_rate(sampling_rate) -> float:
    """`sampling_rate` in Hz as a number. Raises `ValueError` if audio cannot be of it."""
    is_number = isinstance(sampling_rate, (int, float, np.number)) and not isinstance(sampling_rate, bool)
    if not is_number or not MIN_RATE <= sampling_rate <= MAX_RATE:
        raise ValueError(
            f"`sampling_rate` of `audio` must be from {MIN_RATE} to {MAX_RATE} Hz, got {shorten(sampling_rate)}."
        )
    return sampling_rate


def check_length(seconds: float, name: str, longest: float | None = None) -> None:
    """Raises `ValueError` if `name` is longer than `longest` seconds, or than what is read."""
    if longest is not None and seconds > longest:
        raise ValueError(f"`audio` {shorten(name)} must be at most {longest:g} s long, got {seconds:.1f} s.")
    longest = max_audio_seconds()
    if seconds > longest:
        raise ValueError(
            f"`audio` {shorten(name)} must be at most {longest / 3600:g} hours long, got {seconds / 3600:.1f}: cut it, or "
            f"set the environment variable {MAX_HOURS_VARIABLE}."
        )


def check_samples(samples: np.ndarray, name: str = "`audio`") -> np.ndarray:
    """`samples` of any shape. Raises `TypeError` or `ValueError` if they are not floats, not finite or beyond full scale."""
    if not np.issubdtype(samples.dtype, np.floating):
        hint = " Divide 16-bit PCM by 32768." if samples.dtype.kind in "iu" else ""
        raise TypeError(f"{name} must be floating-point samples in [-1, 1), got {samples.dtype}.{hint}")
    # without the absolute values of all of them, which take as much memory again; NaN is in both
    loudest = float(max(samples.max(initial=0), -samples.min(initial=0)))
    if not math.isfinite(loudest):
        raise ValueError(f"{name} must hold finite samples, got NaN or inf.")
    if loudest > MAX_AMPLITUDE:
        raise ValueError(f"{name} must be samples in [-1, 1), got {loudest:g}. Divide 16-bit PCM by 32768.")
    return samples


def shorten(value, longest: int = 200) -> str:
    """`value` for a message: base64 and long paths do not come back whole."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def to_mono(samples: np.ndarray, sampling_rate: float, target_rate: int) -> np.ndarray:
    """Samples in memory, `(samples,)` or `(samples, channels)`, as float32 of `target_rate`, `(samples,)`."""
    check_rate(sampling_rate)
    check_samples(samples)
    if samples.ndim not in (1, 2):
        raise ValueError(f"`audio` must be samples of shape (samples,) or (samples, channels), got {samples.shape}.")
    check_length(len(samples) / sampling_rate, "of an array")
    blocks = (samples[start : start + BLOCK_FRAMES] for start in range(0, len(samples), BLOCK_FRAMES))
    expected = _resampled_length(len(samples), sampling_rate, target_rate)
    return _collect(_resample(blocks, sampling_rate, target_rate), expected)


def _resampled_length(frames: int, sampling_rate: float, target_rate: int) -> int:
    return -(-frames * target_rate // int(sampling_rate))


def _resample(blocks: Iterable[np.ndarray], sampling_rate: float, target_rate: int) -> Iterator[np.ndarray]:
    """
    Blocks `(frames,)` or `(frames, channels)`, averaged over channels and resampled one by one: together they are what
    resampling all at once gives.
    """
    stream = None
    if sampling_rate != target_rate:
        if soxr is None:
            raise ImportError(f"Resampling `audio` of {sampling_rate} Hz needs `pip install soxr`.")
        stream = soxr.ResampleStream(sampling_rate, target_rate, 1, dtype="float32", quality="soxr_hq")
    taken = given = 0
    for block in blocks:
        taken += len(block)
        block = block.astype(np.float32, copy=False)
        block = block.mean(axis=-1) if block.ndim == 2 else block
        block = block if stream is None else stream.resample_chunk(block)
        given += len(block)
        yield block
    if stream is not None:  # which lags behind what it was given
        last = stream.resample_chunk(np.zeros(0, np.float32), last=True)
        missing = max(0, _resampled_length(taken, sampling_rate, target_rate) - given)
        yield np.pad(last[:missing], (0, max(0, missing - len(last))))


def _collect(blocks: Iterable[np.ndarray], expected: int) -> np.ndarray:
    """Blocks as one array, which is not copied where they are at most `expected` samples, as a header says."""
    samples, length = np.empty(expected, np.float32), 0
    for block in blocks:
        end = length + len(block)
        if end > len(samples):
            samples.resize(max(end, 2 * length), refcheck=False)
        samples[length:end] = block
        length = end
    return samples[:length]


# ----------------------------------------------------------------------------------------------------------------------
# Files


class UnknownFormatError(ValueError):
    """A file that libsndfile does not read, but maybe another one does."""


def measure_file(file: str | Path | BytesIO, name: str) -> float:
    """Seconds of audio by the header of `file`. Raises what [`read_file`] raises, as far as a header tells."""
    with _open(file, name) as opened:
        if opened.format == "FLAC":  # whose header says how long it is, and whose end is found at once
            try:
                opened.seek(opened.frames - 1)
                whole = len(opened.read(1))
            except RuntimeError:
                whole = False
            if not whole:
                raise ValueError(f"`audio` {shorten(name)} is cut off: its last sample cannot be read.")
        return opened.frames / opened.samplerate


def read_file(file: str | Path | BytesIO, target_rate: int, name: str, longest: float | None = None) -> np.ndarray:
    """
    The samples of a file that libsndfile reads, float32 of shape `(samples,)` and `target_rate`. `longest` are the most
    seconds that it may have, those of [`max_audio_seconds`] unless given.

    Raises:
        UnknownFormatError: if it is of another format.
        ValueError: if it holds no samples, ends before its header says, is longer than [`max_audio_seconds`], of an
            impossible rate, or holds NaN, inf or numbers far beyond full scale.
    """
    with _open(file, name) as opened:
        check_length(opened.frames / opened.samplerate, name, longest)
        blocks = _resample(_blocks(opened, name, longest), opened.samplerate, target_rate)
        return _collect(blocks, _resampled_length(opened.frames, opened.samplerate, target_rate))


def read_blocks(file: str | Path | BytesIO, target_rate: int, name: str) -> Iterator[np.ndarray]:
    """
    What [`read_file`] reads, block by block: however long the file is, one of them is in memory. Raises what that raises,
    as soon as it comes to it.
    """
    with _open(file, name) as opened:
        yield from _resample(_blocks(opened, name), opened.samplerate, target_rate)


def _open(file: str | Path | BytesIO, name: str):
    """The opened file, its header checked."""
    try:
        opened = soundfile.SoundFile(file)
    except (RuntimeError, OSError, TypeError) as error:  # soundfile's errors are RuntimeErrors
        reason = re.sub(r"^Error opening .*?: ", "", str(error), flags=re.DOTALL)
        raise UnknownFormatError(
            f"`audio` {shorten(name)} is no audio that can be read ({shorten(reason)})"
        ) from error
    try:
        if not MIN_RATE <= opened.samplerate <= MAX_RATE:
            raise ValueError(
                f"`audio` {shorten(name)} must have a sampling rate from {MIN_RATE} to {MAX_RATE} Hz, got "
                f"{opened.samplerate}."
            )
        if opened.channels > MAX_CHANNELS:
            raise ValueError(
                f"`audio` {shorten(name)} must have at most {MAX_CHANNELS} channels, got {opened.channels}."
            )
        check_length(opened.frames / opened.samplerate, name)
        cut = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", opened.extra_info)
        if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_SIZE:
            raise ValueError(
                f"`audio` {shorten(name)} is cut off: its header says {cut[1]} bytes of samples, there are {cut[2]}."
            )
        if not opened.frames:
            raise ValueError(f"`audio` {shorten(name)} holds no samples.")
    except ValueError:
        opened.close()
        raise
    return opened


def _blocks(opened, name: str, longest: float | None = None) -> Iterator[np.ndarray]:
    """The decoded blocks `(frames, channels)` of an opened file, each checked."""
    claimed, frames = opened.frames, 0
    size = max(1, BLOCK_FRAMES // opened.channels)
    while True:
        try:
            block = opened.read(size, dtype="float32", always_2d=True)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"`audio` {shorten(name)} is damaged: it cannot be decoded after {frames / opened.samplerate:.1f} s "
                f"({shorten(str(error))})"
            ) from error
        if not len(block):
            break
        frames += len(block)
        check_length(frames / opened.samplerate, name, longest)
        yield check_samples(block, f"`audio` {shorten(name)}")
    if not frames:
        raise ValueError(f"`audio` {shorten(name)} holds no samples.")
    if frames < 0.99 * claimed - _LOOSE_FRAMES:
        raise ValueError(
            f"`audio` {shorten(name)} is cut off: its header says {claimed / opened.samplerate:.1f} s, there are "
            f"{frames / opened.samplerate:.1f} s."
        )


# ----------------------------------------------------------------------------------------------------------------------
# Strings and bytes


def is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def load_clip(clip: str | Path | bytes, target_rate: int) -> np.ndarray:
    """
    The samples of a file, an address, base64 (as a `data:` URI or alone) or the bytes of a file, float32 of shape
    `(samples,)` and `target_rate`.

    Raises a `ValueError` that names the clip if it is none of these, cannot be read, or is larger than the bounds here.
    """
    name, file = "bytes", clip
    if isinstance(clip, bytes):
        file = BytesIO(clip)
    elif isinstance(clip, str) and is_url(clip):
        name, file = clip, BytesIO(fetch(clip))
    elif isinstance(clip, str) and clip[:5].lower() == "data:":
        name, file = clip, BytesIO(_decode_base64(clip.partition(",")[2], clip))
    elif _is_file(clip):
        name = str(clip)
    elif isinstance(clip, str) and re.fullmatch(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*", clip):
        name, file = clip, BytesIO(_decode_base64(clip, clip))
    else:
        raise ValueError(f"`audio` {shorten(str(clip))!r}: there is no such file.")
    if soundfile is not None:
        try:
            return read_file(file, target_rate, name)
        except UnknownFormatError as error:
            return _load_with_transformers(file, target_rate, name, error)
    return _load_with_transformers(file, target_rate, name, None)


def _is_file(path: str | Path) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a null character
        return False


def _load_with_transformers(file, target_rate: int, name: str, failure: Exception | None) -> np.ndarray:
    """What torchcodec reads, or what Transformers says is missing."""
    from transformers.audio_utils import load_audio

    source = str(file)
    if isinstance(file, BytesIO):
        source = "data:;base64," + base64.b64encode(file.getvalue()).decode()
    try:
        samples = load_audio(source, sampling_rate=target_rate)
    except Exception as error:  # its loaders have errors of their own
        if failure is None:
            raise ValueError(f"`audio` {shorten(name)} cannot be read ({shorten(str(error))})") from error
        raise ValueError(f"{failure}. Formats such as M4A need torchcodec with FFmpeg.") from failure
    check_length(len(samples) / target_rate, name)
    return check_samples(np.asarray(samples))


def _decode_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"`audio` {shorten(name, 60)} is no base64 ({error}).") from error


def open_url(url: str, timeout: float):
    """
    The response of an http or https address, which may point to others, at most `MAX_REDIRECTS` of them in a row.

    Raises `OSError` if there is none, if it points to more, to what is neither http nor https, or from the public network
    to a machine of this one.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "salmonn"})
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        target = urllib.parse.urlsplit(newurl)
        if target.scheme not in ("http", "https"):
            raise OSError(f"it points to {shorten(newurl)}, which is neither http nor https")
        if is_private(target.hostname) and not is_private(urllib.parse.urlsplit(req.full_url).hostname):
            raise OSError(f"it points to {shorten(newurl)}, a machine of this network")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_private(host: str | None) -> bool:
    """Whether one of the addresses of `host` is not of the public network. What has none here, only a proxy can reach."""
    try:
        found = socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return not all(ipaddress.ip_address(address[0].partition("%")[0]).is_global for *_, address in found)


def fetch(url: str) -> bytes:
    """What is at an http or https address. Raises `ValueError` if it cannot be had, is too large or takes too long."""
    start, parts, size = time.monotonic(), [], 0
    try:
        with open_url(url, CONNECT_SECONDS) as response:
            expected = int(response.headers.get("Content-Length") or 0)
            while expected <= MAX_BYTES and (block := response.read1(BLOCK_BYTES)):
                parts.append(block)
                size += len(block)
                if size > MAX_BYTES:
                    break
                if time.monotonic() - start > MAX_SECONDS:
                    raise ValueError(f"`audio` {shorten(url)} was not there after {MAX_SECONDS} s.")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, ValueError) and "`audio`" in str(error):
            raise
        raise ValueError(f"`audio` {shorten(url)} cannot be had ({shorten(str(error))}).") from error
    if max(size, expected) > MAX_BYTES:
        raise ValueError(f"`audio` {shorten(url)} is larger than {MAX_BYTES >> 20} MB.")
    if size < expected:
        raise ValueError(f"`audio` {shorten(url)} broke off after {size} of {expected} bytes.")
    return b"".join(parts)
