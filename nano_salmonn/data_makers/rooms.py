# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What is between a source and a microphone: noise, and the echo of a room. Samples are `(samples,)`, float32."""

import numpy as np

from data_salmonn.audio import SAMPLING_RATE


def add_noise(samples: np.ndarray, snr_db: float, slope: float, rng: np.random.Generator) -> np.ndarray:
    """
    Adds noise whose power falls as `frequency ** -slope` (0 white, 1 pink, 2 brown), `snr_db` below the samples' power.
    """
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    noise = np.fft.irfft(spectrum * np.maximum(frequencies, 20.0) ** (-slope / 2), len(samples))
    gain = np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (samples + gain * noise).astype(np.float32)


def add_room(samples: np.ndarray, seconds: float, wet: float, rng: np.random.Generator) -> np.ndarray:
    """
    Adds the echo of a room in which sound falls by 60 dB in `seconds`, with `wet` of the energy of the direct sound. The
    echo after the end is cut, so the length stays.
    """
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    echo = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echo *= np.sqrt(wet / np.sum(echo**2))
    echo[0] = 1.0  # the direct sound
    size = len(samples) + len(echo)
    product = np.fft.rfft(samples, size) * np.fft.rfft(echo, size)
    return np.fft.irfft(product, size)[: len(samples)].astype(np.float32)


def scale_to(samples: np.ndarray, peak: float) -> np.ndarray:
    """Scales to a largest sample of `peak`."""
    return (samples * (peak / np.abs(samples).max())).astype(np.float32)
