# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Notes played on a General MIDI instrument, by FluidSynth in this process and with a freely licensed soundfont."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from data_salmonn.audio import SAMPLING_RATE
from data_salmonn.extras import install
from nano_salmonn.data_makers.debian import DebianPackage, fetch_package


SOUNDFONT = DebianPackage(
    name="timgm6mb-soundfont",
    used="instruments that play the music",
    licence="GPL-2",
    credit="Tim Brechbill, David Bolton",
)
SOUNDFONT_FILE = "usr/share/sounds/sf2/TimGM6mb.sf2"

DRUM_KIT = 128  # the program of the drums, whose keys are drums and not pitches
DRUM_CHANNEL = 9

# FluidSynth does not filter what it transposes above half of its sampling rate. It plays at twice the rate of the
# clip, and the resampler takes away most of what was mirrored.
SYNTHESISER_RATE = 2 * SAMPLING_RATE
SYNTHESISER_GAIN = 0.4


@dataclass(frozen=True)
class Note:
    """A key (MIDI number, 60 is middle C) held from `start` for `seconds`, struck with a `velocity` of 1 to 127."""

    start: float
    seconds: float
    key: int
    velocity: int


def check_installed() -> None:
    """Fetches the soundfont. Raises `ValueError` if that fails or FluidSynth is missing."""
    _import_fluidsynth()
    fetch_package(SOUNDFONT)


def play(notes: Sequence[Note], program: int, seconds: float) -> np.ndarray:
    """
    The samples `(samples,)` at 16 kHz of `notes` on an instrument, `seconds` long.

    Args:
        notes: In any order.
        program: General MIDI program, 0 to 127, or `DRUM_KIT`.
        seconds: Length of the clip. What sounds after it is cut.

    Raises `ValueError` if FluidSynth is not installed or the soundfont has no such `program`.
    """
    fluidsynth = _import_fluidsynth()
    # One that has played before still sounds of it, even after a reset. A new synthesiser for each clip costs a third
    # of the time, and gives samples that depend on the notes alone.
    synthesiser = fluidsynth.Synth(
        gain=SYNTHESISER_GAIN, samplerate=SYNTHESISER_RATE, channels=16, **{"synth.chorus.active": 0}
    )
    try:
        soundfont = synthesiser.sfload(str(fetch_package(SOUNDFONT) / SOUNDFONT_FILE))
        drums = program == DRUM_KIT
        channel = DRUM_CHANNEL if drums else 0
        if synthesiser.program_select(channel, soundfont, *((DRUM_KIT, 0) if drums else (0, program))) != 0:
            raise ValueError(f"`program` must be one of the soundfont's, 0 to 127 or {DRUM_KIT}, got {program}")
        samples = np.zeros((round(seconds * SYNTHESISER_RATE), 2), dtype=np.float32)
        position = 0
        for sample, velocity, key in _events(notes):
            _write(fluidsynth, synthesiser, samples[position:sample])
            position = sample
            if velocity:
                synthesiser.noteon(channel, key, velocity)
            else:
                synthesiser.noteoff(channel, key)
        _write(fluidsynth, synthesiser, samples[position:])
    finally:
        synthesiser.delete()
    return soxr.resample(samples.mean(axis=1), SYNTHESISER_RATE, SAMPLING_RATE)


def _events(notes: Sequence[Note]) -> list[tuple[int, int, int]]:
    """
    Sample, velocity (0 lets the key go) and key. Within a sample keys are let go before others are struck.

    Samples and not seconds are compared: a key that is struck again where its last note ends must not be silenced
    because the end came out a rounding error late.
    """
    struck = [(round(note.start * SYNTHESISER_RATE), note.velocity, note.key) for note in notes]
    let_go = [(round((note.start + note.seconds) * SYNTHESISER_RATE), 0, note.key) for note in notes]
    return sorted(struck + let_go)


def _write(fluidsynth, synthesiser, samples: np.ndarray) -> None:
    """
    Fills `samples` `(samples, 2)`, a part of a contiguous array, with what the synthesiser plays next.

    In floating point, which `Synth.get_samples` does not offer: its 16 bit are dithered with random numbers of the C
    library, which belong to the process and not to the clip.
    """
    write_float = fluidsynth.cfunc(
        "fluid_synth_write_float",
        ctypes.c_int,
        ("synth", ctypes.c_void_p, 1),
        ("len", ctypes.c_int, 1),
        ("lout", ctypes.c_void_p, 1),
        ("loff", ctypes.c_int, 1),
        ("lincr", ctypes.c_int, 1),
        ("rout", ctypes.c_void_p, 1),
        ("roff", ctypes.c_int, 1),
        ("rincr", ctypes.c_int, 1),
    )
    address = samples.ctypes.data
    write_float(synthesiser.synth, len(samples), address, 0, 2, address, 1, 2)


def _import_fluidsynth():
    try:
        import fluidsynth
    except (ImportError, OSError) as error:
        raise ValueError(
            f"music is played by FluidSynth, which is missing ({error}): {install('music')}, and "
            "get its library with `apt-get install libfluidsynth3` or `brew install fluid-synth`"
        ) from error
    return fluidsynth
