# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A few bars of music, played on the spot by TinySoundFont.

Its library comes whole in the wheel of `tinysoundfont`, where FluidSynth would be one of the system. The instruments are
those of a soundfont in a Debian package, as for the clips of training.
"""

import numpy as np
import soxr

from nano_salmonn.data_makers.debian import fetch_package
from nano_salmonn.data_makers.soundfont import SOUNDFONT, SOUNDFONT_FILE, SYNTHESISER_RATE


GAIN_DB = -8.0
VELOCITY = 95
RING_SECONDS = 0.6  # in which the last note fades
PEAK = 0.5


def play_tune(tune: list[tuple[int, float]], program: int, tempo: float, sampling_rate: int = 16000) -> np.ndarray:
    """
    A tune on one instrument: float32 samples of shape `(samples,)` in [-1, 1] at `sampling_rate`.

    `tune` is a list of keys (MIDI numbers, 60 is middle C) and their beats, one after the other, `program` a General
    MIDI program of 0 to 127, and `tempo` in beats per minute.

    Raises `ValueError` if there is no TinySoundFont, or if the soundfont cannot be fetched.
    """
    try:
        import tinysoundfont
    except ImportError as error:
        raise ValueError("no player of music: pip install --no-deps tinysoundfont") from error
    synthesiser = tinysoundfont.Synth(gain=GAIN_DB, samplerate=SYNTHESISER_RATE)
    soundfont = synthesiser.sfload(str(fetch_package(SOUNDFONT) / SOUNDFONT_FILE))
    synthesiser.program_select(0, soundfont, 0, program)
    parts = []
    for key, beats in tune:
        synthesiser.noteon(0, key, VELOCITY)
        parts.append(_next_samples(synthesiser, beats * 60 / tempo))
        synthesiser.noteoff(0, key)
    parts.append(_next_samples(synthesiser, RING_SECONDS))
    samples = soxr.resample(np.concatenate(parts), SYNTHESISER_RATE, sampling_rate)
    return samples * (PEAK / np.abs(samples).max())


def _next_samples(synthesiser, seconds: float) -> np.ndarray:
    """What is heard in the next `seconds`, `(samples,)` at the synthesiser's rate, both channels averaged."""
    stereo = np.frombuffer(synthesiser.generate(round(seconds * SYNTHESISER_RATE)), dtype=np.float32)
    return stereo.reshape(-1, 2).mean(axis=1)
