# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The voices that read sentences: robotic ones of flite and eSpeak NG, which are programs of the system, and the natural ones
of `natural_voices.py`.
"""

import io
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.debian import DebianPackage
from nano_salmonn.data_makers.natural_voices import AMERICANS, BRITISH, HIBARI, KOKORO, PIPER, speak_naturally


PROGRAMS = (
    DebianPackage("flite", "voices, pronunciations", "CMU Flite licence (permissive)", "Carnegie Mellon University"),
    DebianPackage("espeak-ng", "voices", "GPL-3+", "Jonathan Duddington, Reece Dunn and contributors"),
)
SILENCE = 0.01  # of the loudest sample: what is below at both ends is cut, apart from a margin
MARGIN_SECONDS = 0.05


@dataclass(frozen=True)
class Voice:
    """
    A voice. `weight` is its share among those of its group; `name` is what the synthesiser calls it. Voices that were not
    `heard` in training are for tests.
    """

    engine: str
    name: str
    gender: str
    weight: float
    heard: bool = True

    @property
    def natural(self) -> bool:
        """Whether it sounds like somebody."""
        return self.engine in (PIPER, HIBARI, KOKORO)


# For tests alone, two women and two men of America and of Britain.
UNHEARD = ("nova", "river", "michael", "onyx", "lily", "alice", "george", "lewis")

# Kokoro is slow, so that its voices are seldom heard.
NATURAL_VOICES = (
    Voice(PIPER, "joe", "man", 0.7),
    Voice(HIBARI, "heart", "woman", 1.2),
    *(
        Voice(
            KOKORO, f"{country}{letter}_{name}", gender, 0.125 if name in UNHEARD else 0.003, heard=name not in UNHEARD
        )
        for country, people in (("a", AMERICANS), ("b", BRITISH))
        for letter, gender, names in (("f", "woman", people[0]), ("m", "man", people[1]))
        for name in names
    ),
)
VOICES = (
    *NATURAL_VOICES,
    Voice("flite", "slt", "woman", 0.26),
    Voice("flite", "awb", "man", 0.20),
    Voice("flite", "kal16", "man", 0.12),
    Voice("espeak-ng", "en-us", "man", 0.04),
    Voice("espeak-ng", "en-us+m3", "man", 0.04),
    Voice("espeak-ng", "en-us+m7", "man", 0.03),
    Voice("espeak-ng", "en-us+f2", "woman", 0.05),
    Voice("espeak-ng", "en-us+f4", "woman", 0.05),
    Voice("espeak-ng", "en-gb", "man", 0.04),
    Voice("espeak-ng", "en-gb+f3", "woman", 0.05),
    Voice("espeak-ng", "en-gb-x-rp", "man", 0.03),
    Voice("espeak-ng", "en-gb-x-rp+f5", "woman", 0.05),
    Voice("espeak-ng", "en-gb-scotland+m5", "man", 0.04),
    Voice("flite", "rms", "man", 0.50, heard=False),
    Voice("espeak-ng", "en-us+f1", "woman", 0.35, heard=False),
    Voice("espeak-ng", "en-gb+m2", "man", 0.15, heard=False),
)


def speak(text: str, engine: str, voice: str, rate: float = 1.0, pitch: float = 1.0, seed: int = 0) -> np.ndarray:
    """
    Speech of 16 kHz `(samples,)`, float32, its ends without silence.

    Args:
        text: What is said.
        engine: `"flite"`, `"espeak-ng"`, `"piper"`, `"hibari"` or `"kokoro"`.
        voice: A voice of that engine.
        rate: Words a second, against those of the voice.
        pitch: Pitch against that of the voice. With flite all of the spectrum moves along, as with another speaker. Natural
            voices have a pitch of their own: see `speakers.py`.
        seed: What a natural voice draws.

    Raises `ValueError` if the synthesiser is not there or says nothing.
    """
    if engine == "flite":
        # resampling changes pitch and rate alike: the synthesiser makes up for the rate
        samples, sampling_rate = _flite(text, voice, stretch=pitch / rate)
        sampling_rate *= pitch
    elif engine == "espeak-ng":
        samples, sampling_rate = _espeak(text, voice, words_per_minute=round(160 * rate), pitch=round(50 * pitch))
    else:
        samples, sampling_rate = speak_naturally(text, engine, voice, rate, seed)
    if not np.abs(samples).max(initial=0) > 0:
        raise ValueError(f"{engine} says nothing for {text!r} with the voice {voice}.")
    samples = soxr.resample(samples, sampling_rate, SAMPLING_RATE).astype(np.float32)
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    margin = round(MARGIN_SECONDS * SAMPLING_RATE)
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]


def _flite(text: str, voice: str, stretch: float) -> tuple[np.ndarray, int]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        _run(["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}", "-t", text, "-o", file.name])
        return soundfile.read(file.name, dtype="float32")


def _espeak(text: str, voice: str, words_per_minute: int, pitch: int) -> tuple[np.ndarray, int]:
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", "--stdin"]
    return soundfile.read(io.BytesIO(_run(command, text.encode())), dtype="float32")


@cache
def pronounce(word: str) -> str:
    """
    Phones of a word by flite's American lexicon and letter-to-sound rules, such as `hh ax l ow`, without stress.

    Words are looked up one by one: what one word does to the next when spoken is not in them.
    """
    phones = _run(["t2p", word]).decode().split()
    return " ".join(phone.rstrip("012") for phone in phones if phone != "pau")


def _run(command: list[str], stdin: bytes | None = None) -> bytes:
    if shutil.which(command[0]) is None:
        raise ValueError(f"speech is made with flite and espeak-ng, and {command[0]} is not there: install both")
    result = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if result.returncode != 0:
        raise ValueError(f"{command[0]} failed: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout
