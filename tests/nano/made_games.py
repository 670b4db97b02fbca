# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Files as games have them, made of little: packed bytes, and a game with a few spoken lines."""

from pathlib import Path

import numpy as np

from nano_salmonn.data_makers import steel_sky


class PackedBits:
    """Bits in words of 16, the first bit lowest, with bytes between them where the words have come to."""

    def __init__(self):
        self.data, self.word, self.free = bytearray(), 0, 0

    def put(self, value: int, count: int) -> None:
        for place in range(count):
            if self.free == 0:
                self.word, self.free = len(self.data), 16
                self.data += bytes(2)
            bit = (value >> place & 1) << (16 - self.free)
            word = int.from_bytes(self.data[self.word : self.word + 2], "little") | bit
            self.data[self.word : self.word + 2] = word.to_bytes(2, "little")
            self.free -= 1

    def put_bytes(self, data: bytes) -> None:
        self.data += data


def pack(turns: list[tuple[bytes, int, int]], size: int, blocks: int = 1) -> bytes:
    """
    RNC, method 1, in blocks of equal turns: bytes as they are, then how many bytes are repeated from how far back. The last
    turn of a block repeats nothing.
    """
    bits = PackedBits()
    bits.put(0, 2)
    each = len(turns) // blocks
    for block in range(blocks):
        for _ in range(3):  # three codes for numbers of at most 5 bits: 00, 01, 100, 101, 110, 111
            bits.put(6, 5)
            for length in (2, 2, 3, 3, 3, 3):
                bits.put(length, 4)
        bits.put(each, 16)
        for number, (plain, back, count) in enumerate(turns[block * each : (block + 1) * each]):
            _put_number(bits, len(plain))
            bits.put_bytes(plain)
            if number + 1 < each:
                _put_number(bits, back - 1)
                _put_number(bits, count - 2)
    header = b"RNC\x01" + size.to_bytes(4, "big") + len(bits.data).to_bytes(4, "big") + bytes(5) + bytes([blocks])
    return header + bytes(bits.data)


def _put_number(bits: PackedBits, value: int) -> None:
    codes = ("00", "01", "100", "101", "110", "111")
    length = value.bit_length() if value > 1 else value
    for bit in codes[length]:
        bits.put(int(bit), 1)
    if value > 1:
        bits.put(value & ((1 << (length - 1)) - 1), length - 1)


def write_sky(folder: Path, sections: dict[int, list[str]], seconds: float = 0.2) -> None:
    """A game in `folder`: texts of some sections, of which every second one was recorded. The first recording is packed."""
    samples = (128 + 60 * np.sin(np.arange(round(steel_sky.RATE * seconds)))).astype(np.uint8).tobytes()
    header, members = bytes(22), {}
    for section in range(len(steel_sky.SECTIONS)):
        texts = sections.get(section, [])
        members[steel_sky.TEXTS + section] = (_write_texts(texts), 2)
        for number in range(0, len(texts), 2):
            members[steel_sky.SECTIONS[section][1] + number] = (header + samples, 2)
    first = min(number for number in members if number < steel_sky.TEXTS)
    members[first] = (header + pack([(samples[:31], 31, 31), (samples[31:50], 0, 0)], 31 + 31 + 19), 0)
    table, data = len(members).to_bytes(4, "little"), b""
    for number, (content, flags) in members.items():
        data += bytes(-len(data) % 16)
        table += number.to_bytes(2, "little") + (len(data) >> 4 | 1 << 23).to_bytes(3, "little")
        table += (len(content) | flags << 22).to_bytes(3, "little")
        data += content
    for name, content in ((steel_sky.TABLE_FILE, table), (steel_sky.MEMBERS_FILE, data)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _write_texts(texts: list[str]) -> bytes:
    codes = {character: code for code, character in steel_sky._read_tree().items()}
    units, bits = [], ""
    for text in texts:
        own = "".join(codes[character] for character in text + "\0")
        unit = 2 if len(own) < 256 else 16  # longer ones are counted in eights of two bits
        own += "0" * (-len(own) % unit)
        units.append(len(own) // 2)
        bits += own
    bits += "0" * (-len(bits) % 8)
    groups = [sum(units[start : start + 32]) for start in range(0, len(units), 32)]
    sizes = [unit if unit < 128 else 0x80 | unit >> 3 for unit in units]
    start = 4 + 2 * len(groups)
    content = start.to_bytes(2, "little") + (start + len(sizes)).to_bytes(2, "little")
    content += b"".join(group.to_bytes(2, "little") for group in groups) + bytes(sizes)
    return content + bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))
