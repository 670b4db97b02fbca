# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Sentences to be spoken: clauses of novels, usage examples of a dictionary, and small facts with questions about them.

All are lower case without punctuation, of words that occur often enough to be learnt. Which split a sentence belongs to
follows from its words alone, so that splits never share one.
"""

import hashlib
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nano_salmonn.data_makers.debian import DebianPackage, fetch_package


NOVELS = DebianPackage(
    "r-cran-janeaustenr", "sentences of six novels", "public domain, as a package MIT", "Jane Austen; Julia Silge"
)
DICTIONARY = DebianPackage(
    "wordnet-base", "usage examples", "WordNet 3.0 licence (permissive)", "Princeton University, WordNet 3.0"
)
# Its recordings are for testing alone, and read from one of the novels.
TEST_RECORDINGS = DebianPackage(
    "pocketsphinx-testdata", "five recordings of LibriVox, for testing alone", "public domain", "LibriVox, Carnegie Mellon University"
)  # fmt: skip

MIN_WORDS, MAX_WORDS = 3, 14
# What is heard, where the transcript of a recording is wrong.
TEST_TEXTS = {
    "had he married a more a amiable woman he might have been made still more respectable than he was": "had he married a "
    "more amiable woman he might have been made still more respectable than he was"
}
TEST_PHRASE = 5  # so many words in a row of a test recording are in no sentence
MIN_OCCURRENCES = 12  # of each word, in all sources together
# Percent of sentences in each split; the rest is for training.
VALIDATION_PERCENT, TEST_PERCENT = 2, 4

_ABBREVIATIONS = re.compile(r"\b(Mr|Mrs|Dr|St|Messrs)\.")
_CLAUSE_ENDS = re.compile(r"[.;:?!()\[\]\"“”]|--|—|,(?=\s)")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


@dataclass(frozen=True)
class Sentence:
    """A text to be spoken, and questions about it: pairs of question and answer."""

    text: str
    questions: tuple[tuple[str, str], ...] = field(default=())

    @property
    def split(self) -> str:
        """`train`, `validation` or `test`."""
        percent = int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % 100
        if percent < TEST_PERCENT:
            return "test"
        return "validation" if percent < TEST_PERCENT + VALIDATION_PERCENT else "train"


def read_sentences() -> list[Sentence]:
    """
    Every sentence of the novels and the dictionary that can be used, each once, in a fixed order. None says what a
    recording of `TEST_RECORDINGS` says.
    """
    tested, candidates = read_test_phrases(), {}
    for clause in _join_clauses(read_novels()):
        candidates.setdefault(clause, None)
    for example in read_examples():
        candidates.setdefault(" ".join(split_words(example)), None)
    texts = [
        text for text in candidates if MIN_WORDS <= len(text.split()) <= MAX_WORDS and not shares_phrase(text, tested)
    ]
    counts = Counter(word for text in texts for word in text.split())
    return [Sentence(text) for text in texts if all(counts[word] >= MIN_OCCURRENCES for word in text.split())]


def read_test_recordings() -> dict[Path, str]:
    """The recordings of `TEST_RECORDINGS`, raw 16-bit samples of 16 kHz or WAV files, with what is said."""
    folder = fetch_package(TEST_RECORDINGS) / "usr/share/pocketsphinx/test/data/librivox"
    found = {}
    for line in _read_text(folder / "transcription").splitlines():
        text, name = re.fullmatch(r"<s> (.*) </s> \((.*)\)", line.strip()).groups()
        found[folder / f"{name}.wav"] = TEST_TEXTS.get(text, text)
    return found


def read_test_phrases() -> frozenset[str]:
    """All `TEST_PHRASE` words in a row of the test recordings."""
    return frozenset(phrase for text in read_test_recordings().values() for phrase in _phrases(text))


def shares_phrase(text: str, phrases: frozenset[str]) -> bool:
    """Whether `text` has one of `phrases`, of `TEST_PHRASE` words each."""
    return not phrases.isdisjoint(_phrases(text))


def _phrases(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[start : start + TEST_PHRASE]) for start in range(len(words) - TEST_PHRASE + 1)}


def read_novels() -> Iterator[str]:
    """Paragraphs of the novels."""
    folder = fetch_package(NOVELS) / "usr/lib/R/site-library/janeaustenr/data"
    for lines in read_r_strings((folder / "Rdata.rdb").read_bytes()):
        paragraph = []
        for line in [*lines, ""]:
            if line.strip():
                paragraph.append(line.strip())
            elif paragraph:
                yield " ".join(paragraph)
                paragraph = []


def read_examples() -> Iterator[str]:
    """Usage examples of the dictionary: what stands in quotation marks in its entries."""
    folder = fetch_package(DICTIONARY) / "usr/share/wordnet"
    for file in sorted(folder.glob("data.*")):
        for line in _read_text(file).split("\n"):
            _, bar, gloss = line.partition(" | ")
            if bar:
                yield from re.findall(r"\"([^\"]+)\"", gloss)


def read_r_strings(data: bytes) -> Iterator[list[str]]:
    """
    The character vectors in a lazy-load file of R: zlib streams, each after its length, of R's serialisation format 3.

    Raises `ValueError` if `data` holds anything else.
    """
    try:
        while data:
            stream = zlib.decompressobj()
            raw = stream.decompress(data[4:])
            if not stream.eof:
                raise ValueError("the R data ends inside a stream")
            data = stream.unused_data
            # "X\n", format, two versions of R, then the name of the encoding with its length
            (name_length,) = struct.unpack_from(">i", raw, 14)
            kind, count = struct.unpack_from(">ii", raw, 18 + name_length)
            if kind & 0xFF != 16:
                raise ValueError(f"the R data should hold character vectors, got type {kind & 0xFF}")
            position, strings = 26 + name_length, []
            for _ in range(count):
                _, size = struct.unpack_from(">ii", raw, position)
                position += 8
                strings.append(raw[position : position + max(0, size)].decode())
                position += max(0, size)
            yield strings
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"the R data is damaged ({error})") from error


def _read_text(file: Path) -> str:
    return file.read_text(encoding="latin-1")


def _join_clauses(paragraphs: Iterator[str]) -> Iterator[str]:
    """Clauses of a length that is spoken in one breath, short ones joined with the next of their paragraph."""
    for paragraph in paragraphs:
        clause: list[str] = []
        for part in _CLAUSE_ENDS.split(_ABBREVIATIONS.sub(r"\1", paragraph)):
            words = split_words(part)
            # a length of its own for each clause, from its own words, so that clauses are short and long
            wanted = MIN_WORDS + int(hashlib.sha256(" ".join(words).encode()).hexdigest(), 16) % 7
            if clause and len(clause) + len(words) > MAX_WORDS:
                yield " ".join(clause)
                clause = []
            clause += words
            if len(clause) >= wanted:
                yield " ".join(clause)
                clause = []
        if clause:
            yield " ".join(clause)


def split_words(text: str) -> list[str]:
    """
    Words in lower case; nothing for a text with digits, other letters, capitals in a row, or several times 's, which
    mostly are quotation marks.
    """
    text = text.replace("’", "'").replace("_", " ").replace("-", " ")
    if re.search(r"[^A-Za-z',. ]|[A-Z]{2}|'s\b.*'s\b", text.rstrip("!?;:")):
        return []
    return _WORD.findall(text.lower())


# ----------------------------------------------------------------------------------------------------------------------
# Facts with questions

_SLOTS = {
    "name": "mary john anna peter susan david laura paul emma henry alice james martha robert kate george".split(),
    "friend": "sarah thomas julia mark lucy frank helen simon clara arthur nancy philip jane edward rose oliver".split(),
    "place": "the station|the market|the library|the church|the river|the school|the old bridge|the park|the hotel|"
    "the hospital|the theatre|the harbour".split("|"),
    "city": "london paris rome berlin boston dublin vienna madrid york oxford".split(),
    "day": "monday tuesday wednesday thursday friday saturday sunday".split(),
    "time": "morning afternoon evening night".split(),
    "number": "two three four five six seven eight nine ten twelve twenty".split(),
    "thing": "apples|books|chairs|candles|letters|flowers|horses|tickets|bottles|eggs|stones|boxes".split("|"),
    "object": "coat|lamp|hat|door|car|box|chair|boat|house|dress|table|bag".split("|"),
    "color": "red blue green yellow white black brown grey".split(),
    "animal": "dog cat horse cow bird sheep fox rabbit".split(),
    "work": "a doctor|a teacher|a farmer|a painter|a soldier|a lawyer|a baker|a sailor|a writer|a nurse".split("|"),
    "weather": "sunny rainy windy cloudy cold warm foggy".split(),
    "food": "bread|soup|fish|cheese|rice|cake|meat|fruit".split("|"),
}
# A sentence, and questions with the slot that answers them.
_FACTS = (
    ("{name} will meet {friend} at {place} on {day}",
     ("Who will {name} meet?", "friend"), ("Where will they meet?", "place"), ("On which day will they meet?", "day")),
    ("{name} bought {number} {thing} in {city}",
     ("Who bought the {thing}?", "name"), ("How many {thing} were bought?", "number"), ("In which city?", "city")),
    ("the {color} {object} belongs to {name}",
     ("What colour is the {object}?", "color"), ("Who owns the {object}?", "name")),
    ("{name} is {work} who lives in {city}",
     ("What is the job of {name}?", "work"), ("Where does {name} live?", "city")),
    ("the train to {city} leaves on {day} {time}",
     ("Where does the train go?", "city"), ("On which day does the train leave?", "day")),
    ("it will be {weather} in {city} on {day}",
     ("What will the weather be?", "weather"), ("Which city is the forecast for?", "city")),
    ("{name} and {friend} saw a {color} {animal} near {place}",
     ("Which animal did they see?", "animal"), ("What colour was the {animal}?", "color"),
     ("Where did they see it?", "place")),
    ("we ate {food} and {name} brought {number} {thing}",
     ("What did we eat?", "food"), ("What did {name} bring?", "thing"), ("Who brought something?", "name")),
    ("every {day} {name} goes to {place} with {friend}",
     ("Where does {name} go?", "place"), ("Who goes with {name}?", "friend"), ("On which day?", "day")),
    ("the {animal} sleeps under the {color} {object}",
     ("Which animal sleeps?", "animal"), ("What does the {animal} sleep under?", "object")),
    ("{name} paid {number} pounds for the {object}",
     ("What did {name} buy?", "object"), ("How many pounds did it cost?", "number"), ("Who paid?", "name")),
    ("please bring the {color} {object} to {place} in the {time}",
     ("What should be brought?", "object"), ("Where should it be brought?", "place")),
)  # fmt: skip


def make_facts(count: int, rng: random.Random) -> list[Sentence]:
    """`count` different small facts with questions about them. Raises `ValueError` if there are not that many."""
    found: dict[str, Sentence] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        template, *questions = rng.choice(_FACTS)
        values = {slot: rng.choice(words) for slot, words in _SLOTS.items()}
        text = template.format_map(values)
        pairs = tuple((question.format_map(values), values[slot]) for question, slot in questions)
        found.setdefault(text, Sentence(text, pairs))
    if len(found) < count:
        raise ValueError(f"`count` must be at most the number of different facts, got {count}.")
    return list(found.values())
