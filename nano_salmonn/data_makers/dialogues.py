# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The lines of an adventure game, spoken by actors, with the words of its script.

The game is one file: a table of its members, and these. Lines are MP3 of 11 kHz, named after where they stand in the
script: the number of a dialogue, that of the line, `J` for the hero or `P` for who answers, and which piece of the line.

    QTBL | version (6 bytes) | 2 bytes | compression (1) | count (2) | count x (name (12) | bundle (1) | offset (4) | size (4))

A dialogue is a header, a tree of choices of which nothing is needed, and the strings of the hero and of the other, each
2 bytes, its number (2), its length (1), and its text, padded to a multiple of 4. Codes such as `*15` end a piece, and say
how the speaker moves. Numbers have their high byte first.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.debian import DebianPackage


GAME = DebianPackage(
    "flight-of-the-amazon-queen", "spoken lines of a game and their texts", "free to distribute and modify (game's own)",
    "John Passfield and Steven Stamatiadis",
)  # fmt: skip
GAME_FILE = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
HERO = "joe-king"

_TABLE = 15  # bytes before the table
_MEMBER = struct.Struct(">12sBII")
_DIALOGUE_HEADER = 20  # bytes before what a dialogue's own numbers count from
_TREE, _CHOICES = 32, 96  # bytes before the tree, and of each level of it
_MOVE = re.compile(r"\*(?:[A-Z]{2}|\d\d)")


@dataclass(frozen=True)
class Line:
    """A piece of a line: the name of its recording, its words as they are written, and who speaks."""

    name: str
    text: str
    speaker: str


def read_lines(folder: Path) -> Iterator[Line]:
    """
    The lines of all dialogues that were recorded, in a fixed order.

    Args:
        folder: Of the unpacked package.

    Raises `ValueError` if the file of the game is another one.
    """
    data, members = _open_game(folder)
    for name, (start, size) in sorted(members.items()):
        if not name.endswith(".DOG"):
            continue
        dialogue = data[start + _DIALOGUE_HEADER : start + size]
        levels, _, number, hero_lines, other_lines = struct.unpack_from(">hhhhh", dialogue)
        (other_start,) = struct.unpack_from(">h", dialogue, 22)
        hero_start = _TREE + _CHOICES * abs(levels)
        for start, count, letter, speaker in (
            (hero_start, hero_lines, "J", HERO),
            (other_start, other_lines, "P", f"person-{number}"),
        ):
            for line, text in _read_strings(dialogue, start, count):
                for piece, said in enumerate(_MOVE.split(text), start=1):
                    recording = f"{number:02d}{line:04X}{letter}{piece}.SB"
                    if said.strip() and recording in members:
                        yield Line(recording, said.strip(), speaker)


def read_line(name: str, folder: Path) -> np.ndarray:
    """The samples of a recording, `(samples,)`, 16 kHz, float32."""
    data, members = _open_game(folder)
    start, size = members[name]
    samples, rate = soundfile.read(BytesIO(data[start : start + size]), dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, SAMPLING_RATE).astype(np.float32)


@cache
def _open_game(folder: Path) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """All of the file, and where its members are in it: start and size in bytes."""
    data = (folder / GAME_FILE).read_bytes()
    if data[:4] != b"QTBL":
        raise ValueError(f"{folder / GAME_FILE} must begin with QTBL, got {data[:4]!r}: another version of the game?")
    (count,) = struct.unpack_from(">H", data, _TABLE - 2)
    table = data[_TABLE : _TABLE + count * _MEMBER.size]
    return data, {
        name.rstrip(b"\0 ").decode("latin-1"): (start, size) for name, _, start, size in _MEMBER.iter_unpack(table)
    }


def _read_strings(dialogue: bytes, start: int, count: int) -> Iterator[tuple[int, str]]:
    """The numbers and texts of so many strings."""
    for _ in range(count):
        number, length = struct.unpack_from(">HB", dialogue, start + 2)
        text = dialogue[start + 5 : start + 5 + length].decode("latin-1")
        yield number, text
        start += 5 + length + -(5 + length + start) % 4
