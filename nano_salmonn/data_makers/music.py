# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Short pieces of music with all that is known of them: instruments, tempo, mode and style, a caption, and questions.

    make_music("music/train", split="train", count=4000, seed=0)

A piece is a melody over a chord progression, for one instrument or for a melody and its accompaniment. What a piece may
be is in `music_facts.py`, its notes are made by `music_notes.py` and its words by `music_words.py`.
"""

import random
from pathlib import Path

import numpy as np
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.clips import check_count, row_rng, write_clips
from nano_salmonn.data_makers.music_facts import INSTRUMENTS, SCALES, STYLES, TEMPOS, Instrument
from nano_salmonn.data_makers.music_notes import compose
from nano_salmonn.data_makers.music_words import draw_caption, draw_questions
from nano_salmonn.data_makers.soundfont import check_installed, play


SPLITS = ("train", "validation", "test")

RING_SECONDS = 0.6  # in which the last note fades
MAX_SECONDS = 6.0
FADE_SECONDS = 0.1
PEAK_DB = (-12.0, -1.0)

DUO_PROBABILITY = 0.4
ACCOMPANIMENT_DB = -3.0  # level of the accompaniment, as heard, under the melody

STRETCH = (0.97, 1.03)
SNR_DB = (25.0, 50.0)


def make_music(folder: str | Path, split: str, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """
    Makes `count` pieces of a split in `folder` and returns the path of its `clips.jsonl`.

    Args:
        folder: Of the split; see `clips.py` for what is in it. An interrupted run goes on where it was.
        split: "train", "validation" or "test". Each has pieces of its own; those of "train" are augmented.
        count: Number of clips.
        seed: Another seed gives other pieces.
        workers: Processes, all cores by default.

    Raises `ValueError` if `split` is unknown, `count` is not positive, `folder` belongs to another plan, FluidSynth is
    missing or the soundfont cannot be fetched.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}")
    if count < 1:
        raise ValueError(f"`count` must be at least 1, got {count}")
    check_installed()
    return write_clips(folder, plan_music(split, count, seed), render_piece, workers)


def plan_music(split: str, count: int, seed: int = 0) -> list[dict]:
    """The facts of the pieces of a split, without their samples."""
    check_count(count)
    return [plan_piece({"id": f"music-{split}-{number:06d}", "seed": seed, "split": split}) for number in range(count)]


def render_piece(row: dict) -> np.ndarray:
    """The samples `(samples,)` of a planned piece, 16 kHz."""
    parts = compose(row)
    seconds = max(note.start + note.seconds for part in parts for note in part) + RING_SECONDS
    samples = 0.0
    for label, notes, level in zip(row["instruments"], parts, (0.0, ACCOMPANIMENT_DB)):
        part = play(notes, INSTRUMENTS[label].program, min(seconds, MAX_SECONDS))
        # The instruments of a soundfont differ by 20 dB: as they are, one would drown the other.
        samples = samples + part * (10 ** (level / 20) / np.sqrt(np.mean(part**2)))

    rng = row_rng(row, "recording")
    if row["split"] == "train":
        samples = _augment(samples, rng)
    fade = round(FADE_SECONDS * SAMPLING_RATE)
    samples[-fade:] *= np.linspace(1, 0, fade)
    return samples * (10 ** (rng.uniform(*PEAK_DB) / 20) / np.abs(samples).max())


def _augment(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """A slightly different pitch and speed, which leaves tempos far from each other, and noise."""
    samples = soxr.resample(samples, SAMPLING_RATE, SAMPLING_RATE * rng.uniform(*STRETCH))
    samples = samples[: round(MAX_SECONDS * SAMPLING_RATE)]
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(len(samples))
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(*SNR_DB) / 20)
    return samples + noise * level


def plan_piece(row: dict) -> dict:
    """The facts of one piece, of which `row` has `id`, `seed` and `split`."""
    rng = row_rng(row, "plan")
    tempo = rng.choice(tuple(TEMPOS))
    mode = rng.choice(tuple(SCALES))
    players = _draw_instruments(rng)
    chords = any(player.role == "chords" for player in players) or len(players) == 2
    style = rng.choice(
        [name for name, style in STYLES.items() if tempo in style.tempos and (chords or not style.needs_chords)]
    )
    facts = {"instruments": [player.label for player in players], "tempo": tempo, "mode": mode, "style": style}
    return {
        **row,
        "kind": "music",
        **facts,
        "caption": draw_caption(players, tempo, mode, style, rng),
        "questions": draw_questions(players, tempo, mode, rng),
    }


def _draw_instruments(rng: random.Random) -> list[Instrument]:
    def one_of(*roles: str) -> Instrument:
        return rng.choice([instrument for instrument in INSTRUMENTS.values() if instrument.role in roles])

    if rng.random() >= DUO_PROBABILITY:
        return [one_of("chords", "line", "bass")]
    melodist = one_of("chords", "line")
    while (accompanist := one_of("chords", "bass", "drums")) is melodist:
        pass
    return [melodist, accompanist]
