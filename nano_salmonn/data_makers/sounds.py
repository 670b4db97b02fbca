# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The maker of sound events: clips of one event, of some in turn or of two at once, with their labels and a caption.

Events are files of `effects.py`; those of validation and test are in no clip for training, and are rendered plainly.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.clips import check_count, row_rng, write_clips
from nano_salmonn.data_makers.effects import FRAME, SPLITS, Effect, frame_levels, load_effects, read_effect
from nano_salmonn.data_makers.rooms import add_noise, add_room


# (arrangement, number of events): share of the clips of a split
TRAIN_SHARES = {("single", 1): 0.5, ("sequence", 2): 0.23, ("sequence", 3): 0.07, ("mix", 2): 0.2}
TEST_SHARES = {("single", 1): 0.46, ("sequence", 2): 0.38, ("mix", 2): 0.16}
ARRANGEMENTS = tuple(dict.fromkeys(arrangement for arrangement, _ in TRAIN_SHARES))

CAPTIONS = {
    ("single", 1): ("{0}.", "{0}.", "{0}.", "you can hear that {0}.", "in this recording {0}."),
    ("sequence", 2): (
        "{0}, then {1}.",
        "{0}, and then {1}.",
        "first {0}, and after that {1}.",
        "first {0}, then {1}.",
        "{0}; after that {1}.",
    ),
    ("sequence", 3): (
        "{0}, then {1}, and then {2}.",
        "first {0}, then {1}, and finally {2}.",
        "{0}; after that {1}, and at the end {2}.",
    ),
    ("mix", 2): ("{0} while {1}.", "{0}, and at the same time {1}.", "{0} as {1}.", "at the same time {0} and {1}."),
}

SHORTEST_CLIP = 1.5  # seconds
LONGEST_EVENT = {1: 3.0, 2: 2.0, 3: 1.2}  # seconds by number of events, so that no clip is longer than 5 s
LONGEST_GAP = 0.45
FEWEST_TESTED = 2  # recordings for testing of an event that is tested: one says little about it
LOUDNESS, PEAK = 0.08, 0.9  # root mean square of the loud frames of an event, and largest sample of an event or a clip


def make_sounds(
    folder: str | Path,
    split: str,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    arrangement: str | None = None,
) -> Path:
    """
    Makes `count` clips of a split in `folder`, all of one `arrangement` if one is named; returns the path of
    `clips.jsonl`.

    Raises `ValueError` if there is no such split or arrangement.
    """
    rows = plan_sounds(split, count, seed, arrangement)
    return write_clips(folder, rows, partial(render_sound, augment=split == "train"), workers)


def plan_sounds(split: str, count: int, seed: int = 0, arrangement: str | None = None) -> list[dict]:
    """What is heard in which arrangement: a row a clip."""
    check_count(count)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    if arrangement not in (None, *ARRANGEMENTS):
        raise ValueError(f"`arrangement` must be one of {ARRANGEMENTS}, got {arrangement!r}.")
    rng = random.Random(f"sounds {split} {seed}")
    deck = [effect for effect in load_effects() if getattr(effect, split)]
    effects = deal(deck, rng) if split == "train" else deal_events(deck, rng)
    shares = TRAIN_SHARES if split == "train" else TEST_SHARES
    if arrangement is not None:
        shares = {kind: share for kind, share in shares.items() if kind[0] == arrangement}
    kinds = arrange(count, shares)
    rng.shuffle(kinds)
    rows = []
    for number, (how, num_events) in enumerate(kinds):
        chosen: list[Effect] = []
        while len(chosen) < num_events:
            effect = next(effects)
            if effect.event not in [other.event for other in chosen]:
                chosen.append(effect)
        rows.append(
            {
                "id": f"sound-{split}-{number:06d}",
                "kind": "sound",
                "seed": seed,
                "arrangement": how,
                "events": [effect.event for effect in chosen],
                "classes": [effect.label for effect in chosen],
                "caption": write_caption(how, [effect.clause for effect in chosen], rng),
                "sources": [rng.choice(getattr(effect, split)) for effect in chosen],
            }
        )
    return rows


def deal(effects: Sequence[Effect], rng: random.Random) -> Iterator[Effect]:
    """Endless turns of all classes in random order. Those with too few recordings for a test come half as often."""
    for turn in itertools.count():
        deck = [effect for effect in effects if effect.test or turn % 2]
        yield from rng.sample(deck, len(deck))


def deal_events(effects: Sequence[Effect], rng: random.Random) -> Iterator[Effect]:
    """Endless turns of one class of each event in random order, without events of too few recordings for a test."""
    classes = defaultdict(list)
    for effect in effects:
        classes[effect.event].append(effect)
    tested = [group for group in classes.values() if sum(len(effect.test) for effect in group) >= FEWEST_TESTED]
    if not tested:
        raise ValueError(f"no event of the catalogue has {FEWEST_TESTED} recordings for a test.")
    while True:
        yield from map(rng.choice, rng.sample(tested, len(tested)))


def arrange(count: int, shares: dict[tuple[str, int], float]) -> list[tuple[str, int]]:
    """`count` arrangements in proportion to `shares`, rounded; what rounding leaves is of the first one."""
    whole = sum(shares.values())
    kinds = [kind for kind, share in list(shares.items())[1:] for _ in range(round(share / whole * count))]
    return [next(iter(shares))] * (count - len(kinds)) + kinds


def write_caption(arrangement: str, clauses: Sequence[str], rng: random.Random) -> str:
    """A sentence of the clauses of the events, in their order."""
    caption = rng.choice(CAPTIONS[arrangement, len(clauses)]).format(*clauses)
    return caption[0].upper() + caption[1:]


def render_sound(row: dict, augment: bool) -> np.ndarray:
    """Samples `(samples,)` of a row. `augment` changes speed, timbre and room, and adds noise."""
    rng = row_rng(row, "render")
    longest = LONGEST_EVENT[len(row["sources"])]
    events = [draw_event(read_effect(source), longest, rng, augment) for source in row["sources"]]
    if row["arrangement"] == "mix":
        clip = play_at_once(events, rng)
    else:
        clip = play_in_turn([repeat(event, longest, rng) for event in events], rng)
    before = rng.uniform(0.02, 0.3)
    after = max(rng.uniform(0.05, 0.2), SHORTEST_CLIP - before - len(clip) / SAMPLING_RATE)
    clip = np.concatenate([silence(before), clip, silence(after)])
    if augment:
        clip = augment_clip(clip, rng)
    return clip * min(1.0, PEAK / max(np.abs(clip).max(), 1e-9))


def draw_event(samples: np.ndarray, longest: float, rng: random.Random, augment: bool) -> np.ndarray:
    """A piece of an effect of at most `longest` seconds, at a common loudness give or take some dB."""
    if augment:
        speed = rng.uniform(0.85, 1.18)
        samples = soxr.resample(samples, round(SAMPLING_RATE * speed), SAMPLING_RATE)
    samples = cut(samples, round(longest * SAMPLING_RATE), rng)
    levels = frame_levels(samples)
    level = np.sqrt(np.mean(levels[levels > 0.1 * levels.max()] ** 2))
    spread = 4.0 if augment else 1.5
    gain = min(LOUDNESS / level, PEAK / np.abs(samples).max())
    return samples * (gain * 10 ** (rng.uniform(-spread, spread) / 20))


def cut(samples: np.ndarray, size: int, rng: random.Random) -> np.ndarray:
    """At most `size` samples that begin where something is heard, faded at the cuts."""
    if len(samples) <= size:
        return samples
    levels = frame_levels(samples)
    start = FRAME * int(rng.choice(np.flatnonzero(levels > 0.3 * levels.max())))
    start = min(max(0, start - 5 * FRAME), len(samples) - size)
    piece = samples[start : start + size].copy()
    fade_in, fade_out = 2 * FRAME, 15 * FRAME
    if start:
        piece[:fade_in] *= np.linspace(0, 1, fade_in)
    piece[-fade_out:] *= np.linspace(1, 0, fade_out)
    return piece


def repeat(event: np.ndarray, longest: float, rng: random.Random) -> np.ndarray:
    """An event up to three times with gaps, in `longest` seconds at most."""
    times = rng.randint(1, 3)
    gap = rng.uniform(0.08, LONGEST_GAP)
    period = len(event) / SAMPLING_RATE + gap
    times = max(1, min(times, int((longest + gap) / period)))
    return play_in_turn([event] * times, rng, gap)


def play_in_turn(events: Sequence[np.ndarray], rng: random.Random, gap: float | None = None) -> np.ndarray:
    """Events one after the other, `gap` seconds apart, or random gaps, of which some are tiny overlaps."""
    starts, end = [], 0
    for event in events:
        pause = rng.uniform(-0.08, LONGEST_GAP) if gap is None else gap
        starts.append(max(0, end + round(pause * SAMPLING_RATE)) if starts else 0)
        end = max(end, starts[-1] + len(event))
    clip = np.zeros(end, dtype=np.float32)
    for start, event in zip(starts, events):
        clip[start : start + len(event)] += event
    return clip


def play_at_once(events: Sequence[np.ndarray], rng: random.Random) -> np.ndarray:
    """Two events at once, the second a little later. The shorter one is repeated while the longer one lasts."""
    size = max(map(len, events))
    late = round(rng.uniform(0.05, 0.3) * SAMPLING_RATE)
    clip = np.zeros(size + late, dtype=np.float32)
    for start, event in zip((0, late), events):
        gap = round(rng.uniform(0.08, LONGEST_GAP) * SAMPLING_RATE)
        for begin in range(start, start + size - len(event) + 1, len(event) + gap):
            clip[begin : begin + len(event)] += event
    return clip


def augment_clip(clip: np.ndarray, rng: random.Random) -> np.ndarray:
    """A clip through another microphone, in part in a room and with noise."""
    noise = np.random.default_rng(rng.getrandbits(32))
    clip = tilt(clip, rng.uniform(-3, 3))
    if rng.random() < 0.3:
        clip = add_room(clip, rng.uniform(0.15, 0.5), rng.uniform(0.05, 0.3), noise)
    if rng.random() < 0.4:
        clip = add_noise(clip, rng.uniform(15, 35), rng.uniform(0, 2), noise)
    return clip


def tilt(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Raises each octave by `decibels` over the one below, from 250 Hz to 4 kHz around 1 kHz."""
    octaves = np.log2(np.clip(np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE), 250, 4000) / 1000)
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (decibels * octaves / 20), len(samples)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    """Zeros `(samples,)`."""
    return np.zeros(round(seconds * SAMPLING_RATE), dtype=np.float32)
