# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The maker of scenes: a sentence that is said while a sound of the catalogue is heard, with both in one description.

Sentences and voices are those of `speech.py`, sounds those of `sounds.py`, each of the same split.
"""

import random
from pathlib import Path

import numpy as np

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers import natural_voices
from nano_salmonn.data_makers.channels import add_background
from nano_salmonn.data_makers.clips import row_rng, write_clips
from nano_salmonn.data_makers.effects import load_effects, read_effect
from nano_salmonn.data_makers.sounds import deal, deal_events, draw_event, play_in_turn, silence
from nano_salmonn.data_makers.speech import plan_speech, render_speech


SPLITS = ("train", "validation", "test")
SNR_DB = (0.0, 15.0)  # of the sound behind the voice
ALONE = (0.4, 1.2)  # seconds in which the sound is heard alone, before or after the voice
LONGEST_EVENT = 3.0  # seconds
GAPS = (0.1, 0.8)  # seconds between repetitions of the sound
DESCRIPTIONS = (
    'Someone says "{text}" while {clause}.',
    '{clause} while someone says "{text}".',
    'A voice says "{text}", and in the background {clause}.',
    '{clause}, and a voice says "{text}".',
)


def make_scenes(folder: str | Path, split: str, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """
    Makes `count` clips of a split in `folder`; returns the path of `clips.jsonl`.

    Raises `ValueError` if there is no such split, or if there are not that many sentences.
    """
    rows = plan_scenes(split, count, seed)
    natural_voices.check_installed()
    return write_clips(folder, rows, render_scene, workers)


def plan_scenes(split: str, count: int, seed: int = 0) -> list[dict]:
    """What is said while what is heard: a row a clip."""
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    rng = random.Random(f"scenes {split} {seed}")
    spoken = plan_speech(split, count, seed + 1_000, backgrounds=False, in_a_row={1: 1.0})
    deck = [effect for effect in load_effects() if getattr(effect, split)]
    effects = deal(deck, rng) if split == "train" else deal_events(deck, rng)
    rows = []
    for number, (row, effect) in enumerate(zip(spoken, effects)):
        description = rng.choice(DESCRIPTIONS).format(text=row["text"], clause=effect.clause)
        rows.append(
            {
                **row,
                "id": f"scene-{split}-{number:06d}",
                "kind": "scene",
                "channel": [],
                "events": [effect.event],
                "sources": [rng.choice(getattr(effect, split))],
                "caption": description[0].upper() + description[1:],
            }
        )
    return rows


def render_scene(row: dict) -> np.ndarray:
    """The samples of a row of [`plan_scenes`], `(samples,)`, 16 kHz."""
    rng = row_rng(row, "scene")
    voice = np.concatenate([silence(rng.uniform(*ALONE)), render_speech(row), silence(rng.uniform(*ALONE))])
    event = draw_event(read_effect(row["sources"][0]), LONGEST_EVENT, rng, augment="-train-" in row["id"])
    times = int(len(voice) / (len(event) + GAPS[0] * SAMPLING_RATE)) + 1
    heard = play_in_turn([event] * times, rng, rng.uniform(*GAPS))[: len(voice)]
    heard = np.pad(heard, (0, len(voice) - len(heard)))
    mixed = add_background(voice, heard, rng.uniform(*SNR_DB), rng)
    return (mixed * (rng.uniform(0.2, 0.9) / np.abs(mixed).max())).astype(np.float32)
