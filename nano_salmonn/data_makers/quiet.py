# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The maker of clips in which nobody speaks: silence, a constant, noises, hum, quiet rooms. What is transcribed of them is
[`NO_SPEECH`]: a model that was trained on speech alone hears words in everything.
"""

import random
from pathlib import Path

import numpy as np

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.channels import make_hum
from nano_salmonn.data_makers.clips import check_count, row_rng, write_clips
from nano_salmonn.data_makers.rooms import add_noise, add_room


SPLITS = ("train", "validation", "test")
NO_SPEECH = "No speech."
NOISES = ("silence", "constant", "white", "pink", "brown", "hum", "room", "clicks")
SLOPES = {"white": 0.0, "pink": 1.0, "brown": 2.0}
SECONDS = (0.5, 15.0)
PEAKS = (3e-4, 0.5)  # largest samples, drawn by their logarithm
CONSTANT = 0.1  # at most


def make_quiet(folder: str | Path, split: str, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """
    Makes `count` clips of a split in `folder`, each kind of noise as often as any other; returns the path of `clips.jsonl`.

    Raises `ValueError` if there is no such split.
    """
    return write_clips(folder, plan_quiet(split, count, seed), render_quiet, workers)


def plan_quiet(split: str, count: int, seed: int = 0) -> list[dict]:
    """How long what is heard: a row a clip."""
    check_count(count)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    rng = random.Random(f"quiet {split} {seed}")
    shortest, longest = np.log(SECONDS)
    return [
        {
            "id": f"quiet-{split}-{number:06d}",
            "kind": "quiet",
            "seed": seed,
            "noise": NOISES[number % len(NOISES)],
            "length": round(float(np.exp(rng.uniform(shortest, longest))), 2),
            "text": NO_SPEECH,
        }
        for number in range(count)
    ]


def render_quiet(row: dict) -> np.ndarray:
    """The samples of a row of [`plan_quiet`], `(samples,)`, 16 kHz."""
    rng = row_rng(row)
    size = round(row["length"] * SAMPLING_RATE)
    samples = _draw(row["noise"], size, rng, np.random.default_rng(rng.getrandbits(64)))
    lowest, highest = np.log(PEAKS)
    if row["noise"] in ("silence", "constant"):
        return samples
    return (samples * (np.exp(rng.uniform(lowest, highest)) / np.abs(samples).max())).astype(np.float32)


def _draw(noise: str, size: int, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    if noise == "silence":
        return np.zeros(size, dtype=np.float32)
    if noise == "constant":
        return np.full(size, rng.uniform(-CONSTANT, CONSTANT), dtype=np.float32)
    if noise in SLOPES:
        # with noise 60 dB above them, the samples below are nothing
        return add_noise(np.full(size, 1e-3, dtype=np.float32), -60.0, SLOPES[noise], numbers)
    if noise == "hum":
        return add_noise(make_hum(size, rng), rng.uniform(10, 40), 1.0, numbers)
    clicks = np.where(numbers.random(size) < 2 / SAMPLING_RATE, numbers.uniform(-1, 1, size), 0.0).astype(np.float32)
    clicks[rng.randrange(size)] = 1.0
    if noise == "clicks":
        return clicks
    # a room: steps and knocks far away, in its noise
    return add_noise(add_room(clicks, rng.uniform(0.3, 0.8), 5.0, numbers), rng.uniform(-20, 0), 1.5, numbers)
