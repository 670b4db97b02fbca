# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The maker of spoken questions of general knowledge, with their answers: a test of an instruction that is not trained, that a
question in the clip be answered and not written down. An LLM of 135 M parameters knows most of the answers.
"""

import random
from pathlib import Path

from nano_salmonn.data_makers import natural_voices
from nano_salmonn.data_makers.clips import check_count, write_clips
from nano_salmonn.data_makers.speech import choose_voices, render_speech


SPLITS = ("test",)
_CAPITALS = {
    "france": "paris", "england": "london", "italy": "rome", "germany": "berlin", "spain": "madrid", "russia": "moscow",
    "japan": "tokyo", "china": "beijing", "egypt": "cairo", "greece": "athens", "austria": "vienna", "ireland": "dublin",
    "portugal": "lisbon", "poland": "warsaw", "canada": "ottawa", "norway": "oslo", "sweden": "stockholm",
    "denmark": "copenhagen", "hungary": "budapest", "cuba": "havana", "peru": "lima", "india": "new delhi|delhi",
    "belgium": "brussels", "turkey": "ankara",
}  # fmt: skip
_OPPOSITES = {
    "hot": "cold", "big": "small|little|tiny", "up": "down", "black": "white", "day": "night", "old": "new|young",
    "fast": "slow", "happy": "sad|unhappy", "left": "right", "open": "closed|shut|close", "wet": "dry", "early": "late",
}  # fmt: skip
_OTHERS = {
    "what color is the sky": "blue", "what color is grass": "green", "what color is snow": "white",
    "how many days are in a week": "seven|7", "how many months are in a year": "twelve|12",
    "how many legs does a dog have": "four|4", "how many legs does a spider have": "eight|8",
    "how many hours are in a day": "twenty four|twenty-four|24", "how many minutes are in an hour": "sixty|60",
    "which animal says meow": "cat", "which animal barks": "dog", "what do bees make": "honey", "what do cows drink": "water",
    "who wrote romeo and juliet": "shakespeare", "what is frozen water called": "ice",
    "which planet do we live on": "earth", "which day comes after monday": "tuesday",
    "which month comes after january": "february", "what do we breathe": "air|oxygen", "where do fish live": "water|sea|ocean",
    "which star gives us light": "sun", "what is two plus two": "four|4", "what is one plus two": "three|3",
    "what is the largest ocean": "pacific", "what is the largest planet": "jupiter",
}  # fmt: skip
QUESTIONS = (
    {f"what is the capital of {country}": capital for country, capital in _CAPITALS.items()}
    | {f"what is the opposite of {word}": opposite for word, opposite in _OPPOSITES.items()}
    | _OTHERS
)


def make_questions(folder: str | Path, split: str, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """
    Makes `count` clips of the split `test` in `folder`, each question before any comes again by another voice; returns the
    path of `clips.jsonl`.

    Raises `ValueError` if there is no such split.
    """
    rows = plan_questions(split, count, seed)
    natural_voices.check_installed()
    return write_clips(folder, rows, render_speech, workers)


def plan_questions(split: str, count: int, seed: int = 0) -> list[dict]:
    """Which question by which voice: a row a clip."""
    check_count(count)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    rng = random.Random(f"questions {split} {seed}")
    cast = choose_voices(split, "natural")
    order = []
    while len(order) < count:
        order += rng.sample(sorted(QUESTIONS), len(QUESTIONS))
    rows = []
    for number, question in enumerate(order[:count]):
        voice = rng.choices(cast, [voice.weight for voice in cast])[0]
        rows.append(
            {
                "id": f"question-{split}-{number:06d}",
                "kind": "question",
                "seed": seed,
                "text": question,
                "sentences": [question],
                "answer": QUESTIONS[question],
                "speaker": f"{voice.engine}/{voice.name}",
                "gender": voice.gender,
                "rate": round(rng.uniform(0.95, 1.05), 3),
                "pitch": 1.0,
                "channel": [],
            }
        )
    return rows
