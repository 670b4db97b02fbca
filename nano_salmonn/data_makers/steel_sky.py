# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The lines of an adventure game whose actors have accents of Britain, with the words of its texts.

The game is two files: a table of members, each 8 bytes, and the members.

    number (2) | start (24 bits, with the highest in units of 16 bytes) | size (22 bits) | header is left out (1) | is stored (1)

Members are packed behind a header of 22 bytes unless they are stored. Texts have numbers by section, and so have their
recordings: 8 bits without sign, 11,025 Hz. A section of texts begins with where sizes and texts are in it, then a size for
each 32 texts, then one for each: both in units of two bits. Characters are a Huffman code. Words in capitals are stressed.
Numbers have their low byte first.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.debian import DebianPackage
from nano_salmonn.data_makers.rnc import MAGIC, unpack


SKY = DebianPackage(
    "beneath-a-steel-sky", "spoken lines of a game and their texts", "free to distribute and modify (game's own)",
    "Revolution Software",
)  # fmt: skip
TABLE_FILE, MEMBERS_FILE = (f"usr/share/scummvm/beneath-a-steel-sky/sky.{ending}" for ending in ("dnr", "dsk"))
RATE = 11025
# Texts of each section, and the number of the first one's recording.
SECTIONS = ((553, 50000), (488, 50600), (1303, 51100), (922, 52430), (1140, 53380), (531, 54530), (150, 55080))
TEXTS = 60600  # number of the first section of British texts

_HEADER = 22  # bytes
_GROUP = 32  # texts
# The code in preorder: `^` where it forks, `~` for characters that English has not.
_TREE = (
    "^^^ ^ea^^^os^tn^^.ir^^^^^\0Eu^mA^^^lI^dR^^NST^^^^^Ohc^Dg^^^LC^pU^^!yM^^^^^PvH^?b^^^'f,^GB^^^^^VkF^qw^^^K-W^J*"
    '^^^^zY^j+^^^Q~)^^Z~<^^^^^~~~^~:^^^~]#^^xX~^^^^^~`2^^0~1^^^/(=^~~^^^^39^~4^^^}8\\^"~^^^^&~^56^^~~^~~^^^^~7~~~'
)


@dataclass(frozen=True)
class SkyLine:
    """A line: the number of its recording, and its words as they are written."""

    number: int
    text: str


def read_sky_lines(folder: Path) -> Iterator[SkyLine]:
    """
    The lines that were recorded, in a fixed order.

    Args:
        folder: Of the unpacked package.

    Raises `ValueError` if the files of the game are other ones.
    """
    _, table = _open_game(folder)
    for section, (count, first) in enumerate(SECTIONS):
        texts = _read_member(folder, TEXTS + section)
        for number in range(count):
            if first + number in table:
                yield SkyLine(first + number, _read_text(texts, number))


def read_sky_line(number: int, folder: Path) -> np.ndarray:
    """The samples of a recording, `(samples,)`, 16 kHz, float32."""
    samples = np.frombuffer(_read_member(folder, number)[_HEADER:], dtype=np.uint8)
    return soxr.resample((samples.astype(np.float32) - 128) / 128, RATE, SAMPLING_RATE).astype(np.float32)


def drop_stress(text: str) -> str:
    """
    A line without the capitals of stress, and the game's own word as it is spoken; nothing if a word is spelt, or a sound.

    >>> drop_stress("Don't TOUCH the LINC terminal...")
    "don't touch the link terminal..."
    """
    text = re.sub(r"\bLINC\b", "link", text.replace("-", " "))
    return "" if re.search(r"(?<!')\b[B-DF-HJ-NP-TV-XZ]{2,}\b", text) else text.lower()


@cache
def _open_game(folder: Path) -> tuple[bytes, dict[int, tuple[int, int, int]]]:
    """All members, and where each is: start, size, and flags."""
    rows = (folder / TABLE_FILE).read_bytes()
    count = int.from_bytes(rows[:4], "little")
    if len(rows) != 4 + 8 * count:
        raise ValueError(f"{folder / TABLE_FILE} must have {count} rows of 8 bytes: another version of the game?")
    table = {}
    for row in (rows[start : start + 8] for start in range(4, len(rows), 8)):
        number, start, size = (int.from_bytes(row[part], "little") for part in (slice(2), slice(2, 5), slice(5, 8)))
        start = (start & 0x7FFFFF) << 4 if start >> 23 else start
        table[number] = (start, size & 0x3FFFFF, size >> 22)
    return (folder / MEMBERS_FILE).read_bytes(), table


def _read_member(folder: Path, number: int) -> bytes:
    """A member as it was before it was packed."""
    data, table = _open_game(folder)
    start, size, flags = table[number]
    member = data[start : start + size]
    if flags & 2 or member[_HEADER : _HEADER + len(MAGIC)] != MAGIC:
        return member
    return (b"" if flags & 1 else member[:_HEADER]) + unpack(member[_HEADER:])


def _read_text(section: bytes, number: int) -> str:
    """The text of that number in a section."""
    sizes, texts = (int.from_bytes(section[start : start + 2], "little") for start in (0, 2))
    group, place = divmod(number, _GROUP)
    offset = sum(int.from_bytes(section[start : start + 2], "little") for start in range(4, 4 + 2 * group, 2))
    own = section[sizes + _GROUP * group :][:place]
    offset += sum((size & 0x7F) << 3 if size & 0x80 else size for size in own)
    bit, code, text, characters = 8 * texts + 2 * offset, "", "", _read_tree()
    while "\0" not in text:
        code += str(section[bit >> 3] >> (7 - bit % 8) & 1)
        bit += 1
        if code in characters:
            text, code = text + characters[code], ""
    return text[:-1]


@cache
def _read_tree() -> dict[str, str]:
    """The characters by their codes."""
    characters, rest = {}, iter(_TREE)

    def walk(code: str) -> None:
        sign = next(rest)
        if sign == "^":
            walk(code + "0")
            walk(code + "1")
        else:
            characters[code] = sign

    walk("")
    return characters
