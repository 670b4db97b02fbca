# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What the demo asks about: a spoken sentence, a sound and a piece of music, made on the spot.

The voice comes from a wheel, sound and instruments from small Debian packages. The sound is one of those that are kept
for tests, and sentence and tune are written for the demo: the model was trained on none of the three. They are chosen
among clips of what it was trained for, so that its answers are right; `demo.RATES` says how often they are not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


SAMPLING_RATE = 16000

SENTENCE = "She opened the letter slowly and read it twice before she answered."

SOUND = "minetest-data/usr/share/games/minetest/games/minetest_game/mods/fire/sounds/fire_fire.1.ogg"
SILENCE_SECONDS = 0.4  # before and after it, for it is short

VIOLIN = 40
WALTZ = [(74, 1), (78, 1), (81, 1), (79, 1), (76, 1), (73, 1), (74, 3)]
BEATS_PER_MINUTE = 72


@dataclass(frozen=True)
class DemoClip:
    """
    A clip and what is asked about it.

    `heard` says what is truly in it. `make` returns its samples, `(samples,)` of float32 at 16 kHz, and raises
    `ValueError` or `OSError` where its source is not to be had.
    """

    name: str
    heard: str
    questions: tuple[str, ...]
    make: Callable[[], np.ndarray]


def make_speech() -> np.ndarray:
    from demo_salmonn.speech import speak

    return speak(SENTENCE, SAMPLING_RATE)


def make_sound() -> np.ndarray:
    from nano_salmonn.data_makers.effects import read_effect

    return np.pad(read_effect(SOUND), round(SILENCE_SECONDS * SAMPLING_RATE))


def make_music() -> np.ndarray:
    from demo_salmonn.music import play_tune

    return play_tune(WALTZ, VIOLIN, BEATS_PER_MINUTE, SAMPLING_RATE)


DEMO_CLIPS = (
    DemoClip("speech", repr(SENTENCE), ("Transcribe the speech.",), make_speech),
    DemoClip("sound", "a fire crackles", ("Describe what you hear in one sentence.",), make_sound),
    DemoClip(
        "music",
        "a slow waltz in a major key on a violin",
        ("Describe this piece of music.", "Which instrument or instruments play?"),
        make_music,
    ),
)
