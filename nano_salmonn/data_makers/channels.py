# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What happens to speech on its way: a room, other sounds, a microphone, a telephone, a codec, a level too high.

A row of a plan has `channel`, the names of [`EFFECTS`] in their order, and perhaps `background`, what is heard behind.
How strong an effect is, is drawn when a clip is rendered.
"""

import io
import random
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.rooms import add_noise, add_room


TELEPHONE_RATE = 8_000
CLEAN = 0.25  # share of clips that nothing happens to
SNR_DB = (0.0, 30.0)  # of what is behind speech; steady noise is at least this loud
LOWEST_NOISE_SNR_DB = 5.0
MP3_DELAY = 1105  # samples that encoder and decoder add in front
LEVELS = (0.03, 0.95)  # largest sample of a clip

Effect = Callable[[np.ndarray, random.Random], np.ndarray]


def draw_channel(rng: random.Random, with_background: bool = True) -> list[str]:
    """Names of effects of a training clip, in their order."""
    if rng.random() < CLEAN:
        return []
    behind = {"background": 0.3 if with_background else 0.0, "noise": 0.25, "hum": 0.05, None: 0.4}
    codecs = {"telephone": 0.12, "gsm": 0.04, "narrow": 0.1, "mp3": 0.08, "opus": 0.12, None: 0.54}
    names = [
        "room" if rng.random() < 0.35 else None,
        rng.choices(list(behind), list(behind.values()))[0],
        "microphone" if rng.random() < 0.4 else None,
        "clipping" if rng.random() < 0.05 else None,
        rng.choices(list(codecs), list(codecs.values()))[0],
    ]
    return [name for name in names if name is not None]


def pass_through(
    samples: np.ndarray, channel: list[str], rng: random.Random, background: np.ndarray | None = None
) -> np.ndarray:
    """
    `samples` `(samples,)` of 16 kHz after the effects of `channel`, at a level drawn at random; as long as they were.

    `background` is heard behind them, repeated or cut to their length, if `channel` has the effect of that name.
    """
    size = len(samples)
    for name in channel:
        if name == "background":
            samples = add_background(samples, background, rng.uniform(*SNR_DB), rng)
        else:
            samples = EFFECTS[name](samples, rng)
    low, high = np.log(LEVELS)
    level = np.exp(rng.uniform(low, high))
    samples = np.pad(samples[:size], (0, max(0, size - len(samples))))
    return (samples * (level / max(np.abs(samples).max(), 1e-9))).astype(np.float32)


def add_background(samples: np.ndarray, background: np.ndarray, snr_db: float, rng: random.Random) -> np.ndarray:
    """`background` behind `samples`, from a random place in it on, `snr_db` below their power."""
    behind = np.resize(background, max(len(background), len(samples)))
    start = rng.randrange(len(behind) - len(samples) + 1)
    behind = behind[start : start + len(samples)]
    power = np.mean(behind**2)
    if power == 0:
        return samples
    gain = np.sqrt(np.mean(samples**2) / power) * 10 ** (-snr_db / 20)
    return (samples + gain * behind).astype(np.float32)


def _room(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    noise = np.random.default_rng(rng.getrandbits(64))
    return add_room(samples, rng.uniform(0.15, 0.8), rng.uniform(0.05, 0.8), noise)


def _noise(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    noise = np.random.default_rng(rng.getrandbits(64))
    return add_noise(samples, rng.uniform(LOWEST_NOISE_SNR_DB, SNR_DB[1]), rng.uniform(0, 2), noise)


def _hum(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Mains hum, and what a microphone adds to silence."""
    noise = np.random.default_rng(rng.getrandbits(64))
    hum = make_hum(len(samples), rng)
    gain = np.sqrt(np.mean(samples**2) / np.mean(hum**2)) * 10 ** (-rng.uniform(10, 30) / 20)
    return add_noise((samples + gain * hum).astype(np.float32), rng.uniform(25, 40), 1, noise)


def make_hum(size: int, rng: random.Random) -> np.ndarray:
    """Hum of the mains `(size,)`: 50 or 60 Hz and some of its multiples."""
    time = np.arange(size) / SAMPLING_RATE
    mains = rng.choice((50, 60))
    return sum(
        np.sin(2 * np.pi * (mains * order * time + rng.random())) * rng.uniform(0, 1) / order
        for order in (1, 2, 3, 5, 7)
    ).astype(np.float32)


def _microphone(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another balance of low and high, and a low end that is cut."""
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    octaves = np.log2(np.clip(frequencies, 125, 8000) / 1000)
    gain = 10 ** (rng.uniform(-4, 4) * octaves / 20)
    lowest = rng.uniform(20, 200)
    gain *= frequencies**2 / (frequencies**2 + lowest**2)
    return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples)).astype(np.float32)


def _clipping(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    ceiling = np.abs(samples).max() * rng.uniform(0.15, 0.6)
    return np.clip(samples, -ceiling, ceiling)


def _narrow(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """What is left of a recording of a lower sampling rate."""
    rate = rng.choice((6_000, 8_000, 11_025))
    return _resample(_resample(samples, SAMPLING_RATE, rate), rate, SAMPLING_RATE)


def _telephone(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """300 to 3400 Hz, in 8 bits of the mu-law."""
    narrow = _resample(samples, SAMPLING_RATE, TELEPHONE_RATE)
    frequencies = np.fft.rfftfreq(len(narrow), 1 / TELEPHONE_RATE)
    band = frequencies**4 / (frequencies**4 + 250.0**4) / (1 + (frequencies / 3_400) ** 12)
    narrow = np.fft.irfft(np.fft.rfft(narrow) * band, len(narrow)).astype(np.float32)
    return _resample(_encode(narrow, TELEPHONE_RATE, "WAV", "ULAW"), TELEPHONE_RATE, SAMPLING_RATE)


def _gsm(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    narrow = _resample(samples, SAMPLING_RATE, TELEPHONE_RATE)
    return _resample(_encode(narrow, TELEPHONE_RATE, "WAV", "GSM610"), TELEPHONE_RATE, SAMPLING_RATE)


def _mp3(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """16 to 32 kilobits a second."""
    quality = {"bitrate_mode": "CONSTANT", "compression_level": rng.uniform(0.83, 0.95)}
    return _encode(samples, SAMPLING_RATE, "MP3", "MPEG_LAYER_III", **quality)[MP3_DELAY:]


def _opus(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """9 to 30 kilobits a second."""
    return _encode(samples, SAMPLING_RATE, "OGG", "OPUS", compression_level=rng.uniform(0.9, 1.0))


def _resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    return soxr.resample(samples, rate, wanted).astype(np.float32)


def _encode(samples: np.ndarray, rate: int, container: str, codec: str, **quality) -> np.ndarray:
    """`samples` after they were written by a codec and read again."""
    peak = max(np.abs(samples).max(), 1e-9)
    file = io.BytesIO()
    soundfile.write(file, samples * (0.9 / peak), rate, format=container, subtype=codec, **quality)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return decoded * (peak / 0.9)


EFFECTS: dict[str, Effect] = {
    "room": _room,
    "noise": _noise,
    "hum": _hum,
    "microphone": _microphone,
    "clipping": _clipping,
    "telephone": _telephone,
    "gsm": _gsm,
    "narrow": _narrow,
    "mp3": _mp3,
    "opus": _opus,
}
