# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Tones for tests of the makers of clips, and how much of a clip lies in a band."""

import numpy as np


RATE = 16_000


def tone(seconds: float, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def level(samples: np.ndarray, low: float, high: float) -> float:
    """Share of the energy between two frequencies."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return power[(frequencies >= low) & (frequencies < high)].sum() / power.sum()
