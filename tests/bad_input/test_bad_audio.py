# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Audio in every form that it comes in: damaged files, impossible rates, bombs, and what is no audio at all."""

import base64
import socket
import struct
import tracemalloc
import urllib.request

import numpy as np
import pytest
import soundfile
import soxr
from local_http import QuietHandler, answering
from refusals import refuses

import audio_reading_salmonn
from audio_reading_salmonn import MAX_HOURS_VARIABLE, load_clip
from cli_salmonn.audio_files import check_clip, read_clip
from data_salmonn.audio import measure_audio, read_audio
from tiny_salmonn import noise


CLIP = noise(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good files, and bad ones by what is wrong with them."""
    folder = tmp_path_factory.mktemp("audio")
    for ending in ("wav", "flac", "mp3", "ogg", "aiff", "au", "w64"):
        soundfile.write(folder / f"good.{ending}", CLIP, 16000)
    wav, flac, mp3 = ((folder / f"good.{ending}").read_bytes() for ending in ("wav", "flac", "mp3"))
    files = {
        "empty.wav": b"",
        "text.wav": b"This is no audio.",
        "header_only.wav": wav[:12],
        "half.wav": wav[: len(wav) // 2],
        "half.aiff": (folder / "good.aiff").read_bytes()[:16000],
        "half.au": (folder / "good.au").read_bytes()[:16000],
        "half.flac": flac[: len(flac) // 2],
        "end.flac": flac[:-200],
        "half.mp3": mp3[: len(mp3) // 2],
        "zeros.mp3": bytes(1000),
        "huge.flac": _with_flac_frames(flac, 2**36 - 1),
        "stream.wav": _with_wav_size(wav, 0xFFFFFFFF),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    soundfile.write(folder / "nothing.wav", CLIP[:0], 16000)
    soundfile.write(folder / "rate1.wav", CLIP, 1)
    soundfile.write(folder / "rate999.wav", CLIP, 999)
    soundfile.write(folder / "rate2e9.wav", CLIP, 2**31 - 1)
    soundfile.write(folder / "channels.wav", np.zeros((4, 300)), 16000)
    for name, value in (("nan", np.nan), ("inf", -np.inf), ("int16", 20000.0), ("1e30", 1e30)):
        soundfile.write(folder / f"{name}.wav", np.append(CLIP, value), 16000, subtype="FLOAT")
    soundfile.write(folder / "silence.flac", np.zeros(16000 * 60, dtype=np.int16), 16000)
    return folder


def _with_wav_size(wav: bytes, size: int) -> bytes:
    place = wav.index(b"data") + 4
    return wav[:place] + struct.pack("<I", size) + wav[place + 4 :]


def _with_flac_frames(flac: bytes, frames: int) -> bytes:
    """The number of samples is the last 36 bits of the 8 bytes at 18."""
    (word,) = struct.unpack(">Q", flac[18:26])
    return flac[:18] + struct.pack(">Q", word >> 36 << 36 | frames) + flac[26:]


# What is wrong, and whether the header tells.
BAD_FILES = {
    "empty.wav": ("no audio that can be read", True),
    "text.wav": ("no audio that can be read", True),
    "header_only.wav": ("audio", True),
    "half.wav": ("is cut off", True),
    "half.aiff": ("is cut off", True),
    "half.au": ("is cut off", True),
    "half.flac": ("", True),
    "end.flac": ("", True),
    "half.mp3": ("is cut off", False),
    "zeros.mp3": ("audio", True),
    "huge.flac": (MAX_HOURS_VARIABLE, True),
    "nothing.wav": ("holds no samples", True),
    "rate1.wav": ("from 1000 to 768000 Hz, got 1.", True),
    "rate999.wav": ("got 999.", True),
    "rate2e9.wav": ("got 2147483647.", True),
    "channels.wav": ("at most 64 channels, got 300", True),
    "nan.wav": ("NaN", False),
    "inf.wav": ("inf", False),
    "int16.wav": ("Divide 16-bit PCM by 32768", False),
    "1e30.wav": ("[-1, 1)", False),
    "missing.wav": ("", True),
    f"{'long' * 500}.wav": ("", True),
    "nul\0.wav": ("", True),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files(folder, name):
    words, in_header = BAD_FILES[name]
    path = f"{folder}/{name}"
    for source in (path, {"path": path, "bytes": None}, [path]):
        with refuses("`audio`", name[:3], words):
            read_audio(source)
    with refuses("`audio`", name[:3], words):
        load_clip(path, 16000)
    assert (measure_audio(path)[1] is not None) is in_header
    if in_header:
        with refuses("`audio`", name[:3]):
            check_clip(path)
    with refuses("`audio`", name[:3]):
        read_clip(path)


@pytest.mark.parametrize("name", [name for name in BAD_FILES if not name.startswith(("missing", "long", "nul"))])
def test_bytes(folder, name):
    words, _ = BAD_FILES[name]
    content = (folder / name).read_bytes()
    encoded = base64.b64encode(content).decode()
    with refuses("`audio`", words):
        read_audio({"bytes": content, "path": None})
    with refuses("`audio`", words):
        load_clip(content, 16000)
    with refuses("`audio`"):
        load_clip(f"data:audio/wav;base64,{encoded}", 16000)


@pytest.mark.parametrize(
    "name", ["good.wav", "good.flac", "good.mp3", "good.ogg", "good.aiff", "good.w64", "stream.wav"]
)
def test_good_files_in_every_form(folder, name):
    """Also under an ending that is not theirs, and of which the size was not known when they were begun."""
    content = (folder / name).read_bytes()
    (folder / "voice.m4a").write_bytes(content)
    encoded = base64.b64encode(content).decode()
    expected = read_audio(str(folder / name))
    assert len(expected) == 16000 and np.abs(expected - CLIP).max() < 0.5
    forms = (content, encoded, f"data:audio/x;base64,{encoded}", f"{folder}/voice.m4a", folder / name)
    for form in forms:
        assert np.array_equal(load_clip(form, 16000), expected)


ARRAYS = {
    "NaN": {"array": np.array([0.1, np.nan]), "sampling_rate": 16000},
    "inf": {"array": np.array([0.1, np.inf]), "sampling_rate": 16000},
    "float64 beyond float32": {"array": np.array([1e300]), "sampling_rate": 16000},
    "int16": {"array": np.array([20000], dtype=np.int16), "sampling_rate": 16000},
    "int16 as floats": {"array": np.array([20000.0]), "sampling_rate": 16000},
    "bool": {"array": np.ones(9, dtype=bool), "sampling_rate": 16000},
    "complex": {"array": np.ones(9, dtype=np.complex64), "sampling_rate": 16000},
    "objects": {"array": np.array([None, 1]), "sampling_rate": 16000},
    "text": {"array": "abc", "sampling_rate": 16000},
    "three axes": {"array": np.ones((1, 2, 3)), "sampling_rate": 16000},
    "no axis": {"array": np.float32(0.5), "sampling_rate": 16000},
    "empty": {"array": np.ones(0), "sampling_rate": 16000},
    "no rate": {"array": CLIP},
    "rate None": {"array": CLIP, "sampling_rate": None},
    "rate 0": {"array": CLIP, "sampling_rate": 0},
    "rate -1": {"array": CLIP, "sampling_rate": -1},
    "rate 1": {"array": CLIP, "sampling_rate": 1},
    "rate NaN": {"array": CLIP, "sampling_rate": float("nan")},
    "rate inf": {"array": CLIP, "sampling_rate": float("inf")},
    "rate as text": {"array": CLIP, "sampling_rate": "16000"},
    "rate True": {"array": CLIP, "sampling_rate": True},
    "NaN alone": np.array([np.nan]),
    "int16 alone": np.ones(5, dtype=np.int16),
    "two axes alone": np.ones((2, 5)),
    "empty alone": np.ones(0),
    "a number": 5,
    "bytes as text": {"bytes": "abc"},
    "path as number": {"path": 5},
    "nothing": None,
    "empty dict": {},
    "empty list": [],
    "a list of nothing": [None],
    "a set": {1, 2},
    "empty string": "",
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(case):
    with refuses("audio"):
        read_audio(ARRAYS[case])
    assert measure_audio(ARRAYS[case])[1]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, 1e9])
def test_silence_between_clips(seconds):
    with refuses("silence_seconds"):
        read_audio([CLIP, CLIP], seconds)


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "many"])
def test_limits_that_are_none(folder, hours, monkeypatch):
    monkeypatch.setenv(MAX_HOURS_VARIABLE, hours)
    with refuses(MAX_HOURS_VARIABLE, repr(hours)):
        read_audio(str(folder / "good.wav"))


def test_the_limit_can_be_moved(folder, monkeypatch):
    monkeypatch.setenv(MAX_HOURS_VARIABLE, str(59 / 3600))
    for source in (str(folder / "silence.flac"), {"array": np.zeros(60 * 8000), "sampling_rate": 8000}):
        with refuses("`audio`", MAX_HOURS_VARIABLE):
            read_audio(source)
    assert measure_audio(folder / "silence.flac")[1]
    monkeypatch.setenv(MAX_HOURS_VARIABLE, "0.02")
    assert len(read_audio(str(folder / "silence.flac"))) == 60 * 16000


def test_memory_is_that_of_the_result(tmp_path):
    """Eight channels of 96 kHz are never in memory as a whole, and their blocks are resampled as the whole would be."""
    frames, channels = 96_000 * 10, 8
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)
    soundfile.write(tmp_path / "wide.wav", samples, 96_000, subtype="FLOAT")
    tracemalloc.start()
    read = read_audio(str(tmp_path / "wide.wav"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < samples.nbytes / 2
    assert np.array_equal(read, soxr.resample(samples.mean(axis=-1), 96_000, 16000, quality="soxr_hq"))


@pytest.mark.parametrize(
    "text", ["data:audio/wav;base64,!!!", "data:;base64,", "data:", "A" * 4_000_001, "Ab+/" * 100, "no/such/file", "."]
)
def test_strings_that_are_no_audio(text):
    """None comes back whole in the message."""
    with refuses("`audio`"):
        load_clip(text, 16000)


@pytest.mark.parametrize("url", ["http://", "https://", "http://127.0.0.1:1/a.wav", "HTTP://[::1", "http://a b/c.wav"])
def test_addresses_without_audio(url):
    with refuses("`audio`"):
        load_clip(url, 16000)


class _Response:
    """What an address answers: `blocks` of bytes, and a header."""

    def __init__(self, blocks, length=None):
        self.blocks, self.headers = iter(blocks), {} if length is None else {"Content-Length": length}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read1(self, size):
        return next(self.blocks, b"")


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (lambda: _Response([], "5"), "broke off after 0 of 5"),
        (lambda: _Response([b"ab"], "5"), "broke off after 2 of 5"),
        (lambda: _Response([b"ab"], "many"), "cannot be had"),
        (lambda: _Response([b"x"], "999999999999"), "larger than"),
        (lambda: _Response(b"x" * 600 for _ in range(10**9)), "larger than"),
    ],
)
def test_addresses_within_bounds(response, words, monkeypatch):
    monkeypatch.setattr(audio_reading_salmonn, "MAX_BYTES", 5000)
    monkeypatch.setattr(audio_reading_salmonn, "open_url", lambda *_, **__: response())
    with refuses("`audio` https://example.org/a.wav", words):
        load_clip("https://example.org/a.wav", 16000)


def test_an_address_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(audio_reading_salmonn, "MAX_SECONDS", 0)
    monkeypatch.setattr(audio_reading_salmonn, "open_url", lambda *_, **__: _Response(b"x" for _ in range(10**9)))
    with refuses("`audio`", "was not there after 0 s"):
        load_clip("https://example.org/a.wav", 16000)


@pytest.fixture
def redirecting(monkeypatch):
    """A server whose addresses point to others: /N to /N-1, /0 to nowhere but an error, /to/X to X."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(QuietHandler):
        def do_GET(self):
            if self.path == "/0":
                return self.send_error(404)
            self.send_response(302)
            number = self.path.removeprefix("/")
            self.send_header("Location", f"/{int(number) - 1}" if number.isdecimal() else number.removeprefix("to/"))
            self.end_headers()

    with answering(Handler) as address:
        yield address


def test_redirects_are_counted(redirecting):
    with refuses("`audio`", "HTTP Error 404"):
        load_clip(f"{redirecting}/{audio_reading_salmonn.MAX_REDIRECTS}", 16000)
    with refuses("`audio`", "would lead to an infinite loop"):
        load_clip(f"{redirecting}/{audio_reading_salmonn.MAX_REDIRECTS + 1}", 16000)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("ftp://example.org/a.wav", "which is neither http nor https"), ("file:///etc/passwd", "cannot be had")],
)
def test_redirects_never_leave_the_web(redirecting, target, reason):
    with refuses("`audio`", reason):
        load_clip(f"{redirecting}/to/{target}", 16000)


@pytest.mark.parametrize("private", ["127.0.0.1", "10.0.0.8", "169.254.169.254", "::1", "192.168.1.1"])
def test_a_public_address_points_to_no_machine_of_this_network(monkeypatch, private):
    hosts = {"public.example": "93.184.215.14", "inside.example": private}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: [(0, 0, 0, "", (hosts[host], 0))])
    follow = audio_reading_salmonn._Redirects().redirect_request
    request = urllib.request.Request("https://public.example/a.wav")
    with pytest.raises(OSError, match="points to http://inside.example/b, a machine of this network"):
        follow(request, None, 302, "Found", {}, "http://inside.example/b")
    assert follow(request, None, 302, "Found", {}, "https://public.example/b").full_url.endswith("/b")
    own = urllib.request.Request("http://inside.example/a.wav")  # which the user typed
    assert follow(own, None, 302, "Found", {}, "http://inside.example/b").host == "inside.example"
