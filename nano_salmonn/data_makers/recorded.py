# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The maker of recorded speech: what people said before a microphone, with transcripts.

| source | who | prompts | split |
| --- | --- | --- | --- |
| `asterisk-core-sounds-en-wav` | a woman, Allison Smith, 8 kHz, an announcer of telephone systems | 500 | half for testing, a tenth for validation |
| `tuxpaint-stamps-default` | a speaker of names of animals | 65 | training |
| `flight-of-the-amazon-queen` | actors of a game's dialogues, 11 kHz | 2,000 | characters of a sixth of the dialogues are a test of their own, `test_dialogue` |
| `pocketsphinx-testdata` | a reader of LibriVox | 5 | a test of their own, `test_read` |

Which split a prompt belongs to follows from its words alone, or from who speaks. Clips for training are of one prompt or of some in a row,
by the speaker or by others that [`speakers`] makes of her, through a [`channel`]; those of the other splits are single
prompts as they were recorded, each once.
"""

import gzip
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.channels import draw_channel, pass_through
from nano_salmonn.data_makers.clips import check_count, row_rng, write_clips
from nano_salmonn.data_makers.debian import DebianPackage, fetch_package
from nano_salmonn.data_makers.dialogues import GAME, HERO, read_line, read_lines
from nano_salmonn.data_makers.speakers import change_speaker, persona
from nano_salmonn.data_makers.steel_sky import SKY, drop_stress, read_sky_line, read_sky_lines
from nano_salmonn.data_makers.texts import TEST_RECORDINGS, read_test_phrases, read_test_recordings, shares_phrase


ANNOUNCER = DebianPackage(
    "asterisk-core-sounds-en-wav", "announcements of a telephone system", "CC-BY-SA-3.0", "Allison Smith, Digium"
)
ANNOUNCER_TEXTS = DebianPackage(
    "asterisk-core-sounds-en", "transcripts of the announcements", "CC-BY-SA-3.0", "Allison Smith, Digium"
)
STAMPS = DebianPackage("tuxpaint-stamps-default", "spoken names of animals", "GPL-2", "Bill Kendrick and contributors")
PACKAGES = (ANNOUNCER, ANNOUNCER_TEXTS, STAMPS, GAME, SKY, TEST_RECORDINGS)
SPLITS = ("train", "validation", "test", "test_read", "test_dialogue")
TEST_PERCENT, VALIDATION_PERCENT = 50, 10
TEST_CHARACTERS_PERCENT = 17
# How often a training clip begins with a prompt of a source.
SHARES = {"allison": 0.2, "stamps": 0.03, "actors": 0.77}

SPEAKERS = 40  # made of the one speaker of a source
OWN_VOICE = 0.4  # share of training clips by the speaker herself
IN_A_ROW = {1: 0.6, 2: 0.25, 3: 0.15}  # prompts in a training clip: share of the clips
LONGEST_ROW, LONGEST_PROMPT = 25, 70  # words of prompts in a row, and of one: clips stay below 28 s
PAUSES = (0.1, 0.7)  # seconds between prompts, and at both ends

_DIGITS = "zero one two three four five six seven eight nine".split()


@dataclass(frozen=True)
class Prompt:
    """A recording, by its package and path, with its words in lower case; the speaker is empty where nobody knows who."""

    source: str
    text: str
    speaker: str
    gender: str
    only: str | None = None

    @property
    def split(self) -> str:
        """The split that it is for."""
        if self.only is not None:
            return self.only
        percent = int(hashlib.sha256(f"prompt {self.text}".encode()).hexdigest(), 16) % 100
        if percent < TEST_PERCENT:
            return "test"
        return "validation" if percent < TEST_PERCENT + VALIDATION_PERCENT else "train"


def make_recorded(folder: str | Path, split: str, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """
    Makes `count` clips of a split in `folder`; returns the path of `clips.jsonl`.

    Raises `ValueError` if there is no such split, or if one for testing has not that many prompts.
    """
    return write_clips(folder, plan_recorded(split, count, seed), render_recorded, workers)


def plan_recorded(split: str, count: int, seed: int = 0) -> list[dict]:
    """Which prompts are heard by whom: a row a clip."""
    check_count(count)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    rng = random.Random(f"recorded {split} {seed}")
    prompts = [prompt for prompt in read_prompts() if prompt.split == split]
    if split != "train":
        if count > len(prompts):
            raise ValueError(f"`count` must be at most {len(prompts)} for {split}, got {count}.")
        chosen = [[prompt] for prompt in rng.sample(prompts, count)]
    else:
        sources = defaultdict(list)
        for prompt in prompts:
            sources[prompt.speaker if prompt.speaker in SHARES else "actors"].append(prompt)
        shares = [SHARES[source] for source in sources]
        chosen = [_draw_prompts(rng.choices(list(sources.values()), shares)[0], rng) for _ in range(count)]
    return [_plan_clip(f"recorded-{split}-{number:06d}", seed, own, split, rng) for number, own in enumerate(chosen)]


def _draw_prompts(prompts: list[Prompt], rng: random.Random) -> list[Prompt]:
    first = rng.choice(prompts)
    number = rng.choices(list(IN_A_ROW), list(IN_A_ROW.values()))[0]
    chosen = [first]
    others = [prompt for prompt in prompts if prompt.speaker and prompt.speaker == first.speaker and prompt != first]
    for prompt in rng.sample(others, min(len(others), 3 * number)):
        words = sum(len(other.text.split()) for other in (*chosen, prompt))
        if len(chosen) < number and words <= LONGEST_ROW:
            chosen.append(prompt)
    return chosen


def _plan_clip(name: str, seed: int, prompts: list[Prompt], split: str, rng: random.Random) -> dict:
    train = split == "train"
    number = rng.randint(1, SPEAKERS) if train and rng.random() >= OWN_VOICE else 0
    speaker = prompts[0].speaker
    return {
        "id": name,
        "kind": "speech",
        "seed": seed,
        "text": " ".join(prompt.text for prompt in prompts),
        "persona": number,
        **({"speaker": f"{speaker}#{number}" if number else speaker} if speaker else {}),
        **({} if number else {"gender": prompts[0].gender}),
        "sources": [prompt.source for prompt in prompts],
        "rate": round(rng.uniform(0.9, 1.12), 3) if train else 1.0,
        "channel": draw_channel(rng, with_background=False) if train else [],
    }


def render_recorded(row: dict) -> np.ndarray:
    """The samples of a row of [`plan_recorded`], `(samples,)`, 16 kHz."""
    rng = row_rng(row)
    if "-train-" not in row["id"]:
        return read_recording(row["sources"][0])
    voice, parts = row.get("speaker", "").partition("#")[0], []
    for source in row["sources"]:
        parts += [pause(rng), read_recording(source)]
    parts.append(pause(rng))
    samples = change_speaker(np.concatenate(parts), persona(voice, row["persona"]), row["rate"])
    return pass_through(samples, row["channel"], rng)


def pause(rng: random.Random) -> np.ndarray:
    """The silence before, between or after prompts."""
    return np.zeros(round(rng.uniform(*PAUSES) * SAMPLING_RATE), dtype=np.float32)


@cache
def read_prompts() -> tuple[Prompt, ...]:
    """Every prompt that can be used, each text once, in a fixed order."""
    found: dict[str, Prompt] = {}
    for prompt in (*_read_announcements(), *_read_stamps(), *_read_dialogues(), *_read_sky(), *_read_novel()):
        found.setdefault(prompt.text, prompt)
    return tuple(found.values())


def _read_announcements() -> Iterator[Prompt]:
    root = "usr/share/asterisk/sounds/en_US_f_Allison"
    folder = fetch_package(ANNOUNCER)
    listed = fetch_package(ANNOUNCER_TEXTS) / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    for line in gzip.decompress(listed.read_bytes()).decode().splitlines():
        name, colon, written = line.partition(":")
        text = spell_prompt(written)
        # single letters are heard by their names, and written as such nowhere
        if (
            colon
            and 0 < len(text.split()) <= LONGEST_PROMPT
            and not name.startswith("letters/")
            and (folder / root / f"{name}.wav").is_file()
        ):
            yield Prompt(f"{ANNOUNCER.name}/{root}/{name}.wav", text, "allison", "woman")


def _read_stamps() -> Iterator[Prompt]:
    folder = fetch_package(STAMPS)
    for file in sorted((folder / "usr/share/tuxpaint/stamps").rglob("*_desc.ogg")):
        written = file.with_name(file.name.replace("_desc.ogg", ".txt"))
        if written.is_file():
            text = spell_prompt(written.read_text(encoding="utf-8").splitlines()[0])
            if text:
                source = f"{STAMPS.name}/{file.relative_to(folder).as_posix()}"
                yield Prompt(source, text, "stamps", "", only="train")


def _read_dialogues() -> Iterator[Prompt]:
    """Lines of at least two words. The hero, whom all talk with, is for training."""
    tested = read_test_phrases()
    for line in read_lines(fetch_package(GAME)):
        text = spell_prompt(line.text.replace("-", " "))
        if 2 <= len(text.split()) <= LONGEST_PROMPT and not shares_phrase(text, tested):
            percent = int(hashlib.sha256(f"character {line.speaker}".encode()).hexdigest(), 16) % 100
            is_test = line.speaker != HERO and percent < TEST_CHARACTERS_PERCENT
            split = "test_dialogue" if is_test else "train"
            yield Prompt(f"{GAME.name}/{line.name}", text, line.speaker, "man" if line.speaker == HERO else "", split)


def _read_sky() -> Iterator[Prompt]:
    """Lines of at least two words."""
    tested = read_test_phrases()
    for line in read_sky_lines(fetch_package(SKY)):
        text = spell_prompt(drop_stress(line.text))
        if 2 <= len(text.split()) <= LONGEST_PROMPT and not shares_phrase(text, tested):
            yield Prompt(f"{SKY.name}/{line.number}", text, "", "", "train")


def _read_novel() -> Iterator[Prompt]:
    folder = fetch_package(TEST_RECORDINGS)
    for file, text in read_test_recordings().items():
        yield Prompt(
            f"{TEST_RECORDINGS.name}/{file.relative_to(folder).as_posix()}", text, "librivox", "", "test_read"
        )


def spell_prompt(written: str) -> str:
    """
    The words of a transcript as they are trained: lower case, no punctuation, digits by name. Nothing for one that
    describes a sound, or whose words are not clear.

    >>> spell_prompt("Press 1, then press 0.")
    'press one then press zero'
    """
    written = written.replace("\u2019", "'")
    # a single letter is heard by its name, but for those of "don't" and "it's"
    if re.search(r"[\[\]*@#<>{}()/&]|\d\d|[A-Z]{2,}|(?<!')\b[b-hj-zB-HJ-Z]\b(?!')", written):
        return ""
    written = re.sub(r"\d", lambda digit: f" {_DIGITS[int(digit.group())]} ", written)
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", written.lower()))


@cache
def read_recording(source: str) -> np.ndarray:
    """Samples `(samples,)` of a prompt, 16 kHz, float32, read once a process."""
    name, path = source.split("/", maxsplit=1)
    if name == GAME.name:
        return read_line(path, fetch_package(GAME))
    if name == SKY.name:
        return read_sky_line(int(path), fetch_package(SKY))
    package = next(package for package in PACKAGES if package.name == name)
    samples, rate = soundfile.read(fetch_package(package) / path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, SAMPLING_RATE).astype(np.float32)
