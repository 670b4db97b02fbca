# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The maker of speech: synthetic voices that read sentences, with transcripts, phones, genders, speakers and questions.

| split | sentences | voices |
| --- | --- | --- |
| `train` | for training | heard ones, with other pitches and rates, a part with noise or in a room |
| `validation`, `test` | their own | heard ones, clean |
| `test_unseen_voice` | those of `test` | voices that are in no other split, clean |
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from nano_salmonn.data_makers.clips import check_count, row_rng, write_clips
from nano_salmonn.data_makers.rooms import add_noise, add_room, scale_to
from nano_salmonn.data_makers.texts import DICTIONARY, NOVELS, Sentence, make_facts, read_sentences
from nano_salmonn.data_makers.voices import VOICES, pronounce, speak


PACKAGES = (NOVELS, DICTIONARY)
SPLITS = ("train", "validation", "test", "test_unseen_voice")
FACTS_SHARE = 0.1  # of the sentences


def make_speech(
    folder: str | Path,
    split: str,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    shuffle_words: bool = False,
) -> Path:
    """
    Makes `count` clips of a split in `folder`; returns the path of `clips.jsonl`.

    With `shuffle_words` the words of all sentences together are in random order, so that none follows from those
    before: an LLM that is trained on sentences alone guesses what it should hear. Nothing is asked about these clips.

    Raises `ValueError` if there is no such split, or if there are not that many sentences.
    """
    return write_clips(folder, plan_speech(split, count, seed, shuffle_words), render_speech, workers)


def plan_speech(split: str, count: int, seed: int = 0, shuffle_words: bool = False) -> list[dict]:
    """What is said by which voice: a row a clip."""
    check_count(count)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    part = "test" if split.startswith("test") else split
    rng = random.Random(f"speech {split} {seed}")
    facts = [sentence for sentence in make_facts(20_000, random.Random(f"facts {seed}")) if sentence.split == part]
    sentences = [sentence for sentence in read_sentences() if sentence.split == part]
    num_facts = round(FACTS_SHARE * count)
    if len(facts) < num_facts or len(sentences) < count - num_facts:
        raise ValueError(f"`count` must be at most about {len(sentences)} for {split}, got {count}.")
    chosen = rng.sample(sentences, count - num_facts) + rng.sample(facts, num_facts)
    rng.shuffle(chosen)
    if shuffle_words:
        chosen = shuffle_sentences(chosen, rng)
    voices = [voice for voice in VOICES if voice.heard == (split != "test_unseen_voice")]
    rows = []
    for number, sentence in enumerate(chosen):
        voice = rng.choices(voices, [voice.weight for voice in voices])[0]
        spread = 0.15 if split == "train" else 0.05
        rows.append(
            {
                "id": f"speech-{split}-{number:06d}",
                "kind": "speech",
                "seed": seed,
                "text": sentence.text,
                "phones": " ".join(map(pronounce, sentence.text.split())),
                "gender": voice.gender,
                "speaker": f"{voice.engine}/{voice.name}",
                "questions": [{"question": question, "answer": answer} for question, answer in sentence.questions],
                "rate": round(rng.uniform(1 - spread, 1 + spread), 3),
                "pitch": round(rng.uniform(1 - spread / 2, 1 + spread / 2), 3),
                "condition": rng.choices(("clean", "noise", "room"), (0.7, 0.2, 0.1))[0]
                if split == "train"
                else "clean",
            }
        )
    return rows


def shuffle_sentences(sentences: Sequence[Sentence], rng: random.Random) -> list[Sentence]:
    """As many sentences of as many words, and the words of all of them in random order."""
    words = [word for sentence in sentences for word in sentence.text.split()]
    rng.shuffle(words)
    words = iter(words)
    return [
        replace(sentence, text=" ".join(islice(words, len(sentence.text.split()))), questions=())
        for sentence in sentences
    ]


def render_speech(row: dict) -> np.ndarray:
    """The samples of a row of [`plan_speech`], `(samples,)`, 16 kHz."""
    rng = row_rng(row)
    noise = np.random.default_rng(rng.getrandbits(64))
    engine, voice = row["speaker"].split("/")
    samples = speak(row["text"], engine, voice, row["rate"], row["pitch"])
    if row["condition"] == "noise":
        samples = add_noise(samples, snr_db=rng.uniform(8, 25), slope=rng.choice((0, 1, 2)), rng=noise)
    elif row["condition"] == "room":
        samples = add_room(samples, seconds=rng.uniform(0.15, 0.5), wet=rng.uniform(0.1, 0.6), rng=noise)
    return scale_to(samples, peak=rng.uniform(0.2, 0.9))
