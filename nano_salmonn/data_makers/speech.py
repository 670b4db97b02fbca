# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The maker of speech: synthetic voices that read sentences, with transcripts, phones, genders, speakers and questions.

| split | sentences | voices |
| --- | --- | --- |
| `train` | for training, one or some in a row | heard ones and the speakers that are made of them, through rooms, noise, codecs |
| `validation`, `test` | their own | heard ones and the speakers that are made of them, clean |
| `test_unseen_voice` | those of `test` | voices that are in no other split, robotic ones, clean |
| `test_natural_voice` | those of `test` | voices that are in no other split, natural ones, clean |

What is written is what is trained: words in lower case without punctuation, numbers and names in words.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from nano_salmonn.data_makers import effects, everyday, natural_voices, texts
from nano_salmonn.data_makers.channels import draw_channel, pass_through
from nano_salmonn.data_makers.clips import check_count, row_rng, write_clips
from nano_salmonn.data_makers.effects import load_effects, read_effect
from nano_salmonn.data_makers.music import plan_piece, render_piece
from nano_salmonn.data_makers.soundfont import SOUNDFONT, check_installed
from nano_salmonn.data_makers.speakers import change_speaker, persona
from nano_salmonn.data_makers.texts import Sentence
from nano_salmonn.data_makers.voices import SAMPLING_RATE, VOICES, Voice, pronounce, speak


PACKAGES = (
    texts.NOVELS,
    texts.DICTIONARY,
    texts.TEST_RECORDINGS,
    *everyday.PACKAGES,
    *natural_voices.PACKAGES,
    *effects.PACKAGES,
    SOUNDFONT,
)
SPLITS = ("train", "validation", "test", "test_unseen_voice", "test_natural_voice")
VOICE_GROUPS = ("all", "natural", "robotic")
MUSIC, MUSIC_SHARE, PIECES = "music", 0.25, 100_000  # of what is behind voices
POSSIBLE_FACTS = 20_000
FACTS_SHARE = 0.1  # of the sentences
EVERYDAY_SHARE = 0.3  # of the others
SPEAKERS = 150  # that are made of a natural voice
OWN_VOICE = 0.3  # share of the clips of a natural voice by itself
IN_A_ROW = {1: 0.84, 2: 0.09, 3: 0.04, 5: 0.02, 8: 0.01}  # sentences in a training clip: share of the clips
LONGEST_ROW = 60  # words in a row, some 24 s
PAUSES = (0.15, 0.8)  # seconds between sentences
SILENCE = (0.0, 0.5)  # seconds before and after a training clip


def make_speech(
    folder: str | Path,
    split: str,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    shuffle_words: bool = False,
    voices: str = "all",
    backgrounds: bool = True,
) -> Path:
    """
    Makes `count` clips of a split in `folder`; returns the path of `clips.jsonl`.

    Args:
        folder: Where the split is to be.
        split: One of [`SPLITS`].
        count: How many clips.
        seed: Which sentences, voices and channels.
        workers: Processes, all cores by default.
        shuffle_words: The words of all sentences together are in random order, so that none follows from those before: an
            LLM that is trained on sentences alone guesses what it should hear. Nothing is asked about these clips.
        voices: `"all"`, `"natural"` or `"robotic"` ones, for splits with voices that are heard in training.
        backgrounds: Whether the sounds of the catalogue are behind some of the training clips: only those for training.

    Raises `ValueError` if there is no such split, or if there are not that many sentences, and `MissingPackageError` if
    natural voices are wanted without the extra `voices`.
    """
    rows = plan_speech(split, count, seed, shuffle_words, voices, backgrounds)
    if any(voice.natural for voice in choose_voices(split, voices)):
        natural_voices.check_installed()
    return write_clips(folder, rows, render_speech, workers)


def plan_speech(
    split: str,
    count: int,
    seed: int = 0,
    shuffle_words: bool = False,
    voices: str = "all",
    backgrounds: bool = True,
    in_a_row: dict[int, float] | None = None,
) -> list[dict]:
    """What is said by which voice: a row a clip. `in_a_row` is the share of clips of how many sentences."""
    check_count(count)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    if voices not in VOICE_GROUPS:
        raise ValueError(f"`voices` must be one of {VOICE_GROUPS}, got {voices!r}.")
    rng = random.Random(f"speech {split} {seed}")
    train = split == "train"
    in_a_row = in_a_row or (IN_A_ROW if train else {1: 1.0})
    said = _choose_texts("test" if split.startswith("test") else split, count, seed, rng, in_a_row)
    if shuffle_words:
        said = shuffle_sentences(said, rng)
    cast = choose_voices(split, voices)
    behind = [source for effect in load_effects() for source in effect.train] if train and backgrounds else []
    if behind:
        check_installed()  # now, and not in the middle of the clips
    rows = []
    for number, sentence in enumerate(said):
        voice = rng.choices(cast, [voice.weight for voice in cast])[0]
        spread = 0.15 if train else 0.05
        channel = draw_channel(rng, bool(behind)) if train else []
        rows.append(
            {
                "id": f"speech-{split}-{number:06d}",
                "kind": "speech",
                "seed": seed,
                "text": " ".join(sentence.text.split("\n")),
                "sentences": sentence.text.split("\n"),
                "phones": " ".join(map(pronounce, sentence.text.split())),
                **_draw_speaker(voice, rng),
                "questions": [{"question": question, "answer": answer} for question, answer in sentence.questions],
                "rate": round(rng.uniform(1 - spread, 1 + spread), 3),
                "pitch": round(rng.uniform(1 - spread / 2, 1 + spread / 2), 3),
                "channel": channel,
                **({"background": _draw_background(behind, rng)} if "background" in channel else {}),
            }
        )
    return rows


def choose_voices(split: str, voices: str) -> list[Voice]:
    """The voices of a split."""
    if split == "test_unseen_voice":
        return [voice for voice in VOICES if not voice.heard and not voice.natural]
    if split == "test_natural_voice":
        return [voice for voice in VOICES if not voice.heard and voice.natural]
    wanted = {"all": (True, False), "natural": (True,), "robotic": (False,)}[voices]
    return [voice for voice in VOICES if voice.heard and voice.natural in wanted]


def _draw_speaker(voice: Voice, rng: random.Random) -> dict:
    """A voice as it is, or somebody who is made of it; then it is not clear whether that is a man or a woman."""
    number = 0
    if voice.natural and voice.heard and rng.random() >= OWN_VOICE:
        number = rng.randint(1, SPEAKERS)
    name = f"{voice.engine}/{voice.name}"
    return {"speaker": f"{name}#{number}"} if number else {"speaker": name, "gender": voice.gender}


def _choose_texts(part: str, count: int, seed: int, rng: random.Random, in_a_row: dict[int, float]) -> list[Sentence]:
    """`count` texts of sentences of a part, those of a text in lines. Only sentences of every day may occur twice."""
    numbers = rng.choices(list(in_a_row), list(in_a_row.values()), k=count)
    needed = sum(numbers)
    there = {"facts": make_facts(seed), **read_all()}
    there = {name: [sentence for sentence in sentences if sentence.split == part] for name, sentences in there.items()}
    shares = {"facts": round(FACTS_SHARE * count), "everyday": round(EVERYDAY_SHARE * (1 - FACTS_SHARE) * needed)}
    if there["everyday"]:
        # they are few: some are said again, by others
        there["everyday"] *= -(-shares["everyday"] // len(there["everyday"]))
    shares["everyday"] = min(shares["everyday"], len(there["everyday"]))
    shares["read"] = needed - shares["facts"] - shares["everyday"]
    missing = [name for name in ("facts", "read") if len(there[name]) < shares[name]]
    if missing:
        most = min(count * len(there[name]) // shares[name] for name in missing)
        raise ValueError(f"`count` must be at most about {most} for {part}, got {count}.")
    facts = rng.sample(there["facts"], shares["facts"])
    plain = rng.sample(there["read"], shares["read"]) + rng.sample(there["everyday"], shares["everyday"])
    rng.shuffle(plain)
    rest = iter(plain)
    chosen = []
    for number in sorted(numbers):  # facts are alone: what is asked about them has one answer
        if number == 1 and len(chosen) < len(facts):
            chosen.append(facts[len(chosen)])
        else:
            chosen.append(_join(list(islice(rest, number))))
    rng.shuffle(chosen)
    return chosen


@cache
def make_facts(seed: int) -> list[Sentence]:
    """The facts that clips of this seed are drawn from."""
    return texts.make_facts(POSSIBLE_FACTS, random.Random(f"facts {seed}"))


@cache
def read_all() -> dict[str, list[Sentence]]:
    """All sentences: those that are `read`, and those of `everyday`. They are looked for once a process."""
    read = texts.read_sentences()
    return {"read": read, "everyday": everyday.read_everyday(read)}


def _join(sentences: list[Sentence]) -> Sentence:
    """Sentences as the lines of a text, as many as make a clip that is not too long."""
    lines: list[str] = []
    for sentence in sentences:
        if lines and len(" ".join([*lines, sentence.text]).split()) > LONGEST_ROW:
            break
        lines.append(sentence.text)
    return Sentence("\n".join(lines))


def shuffle_sentences(sentences: Sequence[Sentence], rng: random.Random) -> list[Sentence]:
    """As many sentences of as many words, and the words of all of them in random order."""
    words = [word for sentence in sentences for word in sentence.text.split()]
    rng.shuffle(words)
    words = iter(words)
    return [
        replace(sentence, text=" ".join(islice(words, len(sentence.text.split()))), questions=())
        for sentence in sentences
    ]


def _draw_background(sources: list[str], rng: random.Random) -> str:
    """A sound of the catalogue, or a piece of music by its number."""
    return f"{MUSIC}/{rng.randrange(PIECES)}" if rng.random() < MUSIC_SHARE else rng.choice(sources)


def read_background(name: str) -> np.ndarray:
    """The samples `(samples,)` of what is behind a voice."""
    kind, _, number = name.partition("/")
    if kind == MUSIC:
        return render_piece(plan_piece({"id": f"behind-{number}", "seed": 0, "split": "train"})).astype(np.float32)
    return read_effect(name)


def render_speech(row: dict) -> np.ndarray:
    """The samples of a row of [`plan_speech`], `(samples,)`, 16 kHz."""
    rng = row_rng(row)
    voice, _, number = row["speaker"].partition("#")
    engine, name = voice.split("/")
    parts = [_silence(SILENCE, rng)] if "-train-" in row["id"] else []
    for place, sentence in enumerate(row["sentences"]):
        if place:
            parts.append(_silence(PAUSES, rng))
        parts.append(speak(sentence, engine, name, row["rate"], row["pitch"], rng.getrandbits(31)))
    if "-train-" in row["id"]:
        parts.append(_silence(SILENCE, rng))
    samples = change_speaker(np.concatenate(parts), persona(voice, int(number or 0)))
    background = read_background(row["background"]) if "background" in row else None
    return pass_through(samples, row["channel"], rng, background)


def _silence(seconds: tuple[float, float], rng: random.Random) -> np.ndarray:
    return np.zeros(round(rng.uniform(*seconds) * SAMPLING_RATE), dtype=np.float32)
