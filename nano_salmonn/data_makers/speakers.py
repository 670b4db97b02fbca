# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Many speakers of one voice: formants, pitch and intonation changed one without the other, with Praat.

Formants say how long a throat is, pitch how thick the cords in it: moved apart they make a voice somebody else's. A
[`Persona`] has both for good, so that it is one speaker in all its clips.
"""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np

from data_salmonn.audio import SAMPLING_RATE
from data_salmonn.extras import needs_extra


# Ranges in which Whisper tiny.en hears each natural voice about as well as unchanged (at most 3 points of WER more).
FORMANTS = (0.86, 1.2)  # times those of the voice
PITCH = (0.75, 1.4)  # times that of the voice
INTONATION = (0.7, 1.3)  # times the range of its pitch
LOWEST_PITCH, HIGHEST_PITCH = 75.0, 500.0  # Hz, between which pitch is looked for


@dataclass(frozen=True)
class Persona:
    """A speaker: factors of the formants, of the median pitch and of the range of pitch of a voice."""

    formants: float = 1.0
    pitch: float = 1.0
    intonation: float = 1.0


@cache
def persona(voice: str, number: int) -> Persona:
    """
    The speaker `number` of a voice; 0 is the voice itself.

    Pitch follows the formants in part, as in people: shorter throats have thinner cords.
    """
    if number == 0:
        return Persona()
    rng = random.Random(f"persona {voice} {number}")
    formants = rng.uniform(*FORMANTS)
    pitch = formants ** rng.uniform(0, 2) * rng.uniform(0.85, 1.18)
    low, high = PITCH
    return Persona(round(formants, 3), round(min(max(pitch, low), high), 3), round(rng.uniform(*INTONATION), 3))


def change_speaker(samples: np.ndarray, who: Persona, rate: float = 1.0) -> np.ndarray:
    """
    `samples` `(samples,)` of 16 kHz as `who` says them.

    Args:
        samples: Speech.
        who: The speaker.
        rate: Words a second, against those of `samples`. Pitch stays.
    """
    if who == Persona() and rate == 1.0:
        return samples
    with needs_extra("voices"):
        import parselmouth
        from parselmouth.praat import call

    sound = parselmouth.Sound(samples.astype(np.float64), SAMPLING_RATE)
    pitch = sound.to_pitch(pitch_floor=LOWEST_PITCH, pitch_ceiling=HIGHEST_PITCH).selected_array["frequency"]
    voiced = pitch[pitch > 0]
    if not len(voiced):
        return samples  # a whisper has no pitch to change
    settings = (
        LOWEST_PITCH,
        HIGHEST_PITCH,
        who.formants,
        float(np.median(voiced)) * who.pitch,
        who.intonation,
        1 / rate,
    )
    changed = call(sound, "Change gender", *settings).values[0]
    return changed.astype(np.float32)
