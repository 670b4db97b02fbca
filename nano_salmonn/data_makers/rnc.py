# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Unpacks what was packed by method 1 of Rob Northen's ProPack, as games of the nineties keep their files.

    RNC | method (1) | unpacked size (4) | packed size (4) | two checksums (4) | 1 byte | blocks (1) | packed

A block has three Huffman codes, for the number of bytes that follow as they are, for how far back the bytes lie that are
repeated, and for how many of them; then the number of such turns (16 bits), the last of which repeats nothing. Bits are
read from words of 16, the lowest first; bytes that follow as they are begin after the words that bits were taken from.
"""

import struct


MAGIC = b"RNC\x01"
_HEADER = struct.Struct(">4sIIHHBB")
_WORD = 16
_LEAST_REPEATED = 2


def unpack(packed: bytes) -> bytes:
    """What was packed. Raises `ValueError` if it is not of this kind, or not whole."""
    if packed[:4] != MAGIC:
        raise ValueError(f"`packed` must begin with {MAGIC!r}, got {packed[:4]!r}.")
    if len(packed) < _HEADER.size:
        raise ValueError(f"`packed` must have a header of {_HEADER.size} bytes, got {len(packed)}.")
    _, size, packed_size, _, _, _, blocks = _HEADER.unpack_from(packed)
    if len(packed) < _HEADER.size + packed_size:
        raise ValueError(f"`packed` must have {_HEADER.size + packed_size} bytes, got {len(packed)}.")
    bits, unpacked = _Bits(packed[_HEADER.size : _HEADER.size + packed_size]), bytearray()
    bits.take(2)
    for _ in range(blocks):
        plain, distance, length = _read_code(bits), _read_code(bits), _read_code(bits)
        turns = bits.take(16)
        for turn in range(turns):
            count = _read_number(bits, plain)
            if count:
                unpacked += bits.take_bytes(count)
            if turn + 1 < turns:
                back, count = _read_number(bits, distance) + 1, _read_number(bits, length) + _LEAST_REPEATED
                _repeat(unpacked, back, count)
    if len(unpacked) != size:
        raise ValueError(f"`packed` must unpack to {size} bytes, got {len(unpacked)}.")
    return bytes(unpacked)


class _Bits:
    """Reads `data` by bits and by bytes."""

    def __init__(self, data: bytes):
        self.data, self.place, self.held, self.count = data, 0, 0, 0

    def take(self, count: int) -> int:
        """The next `count` bits, the first of which is the lowest."""
        while self.count < count:
            if self.place >= len(self.data):
                raise ValueError("`packed` ends too early.")
            self.held |= int.from_bytes(self.data[self.place : self.place + 2], "little") << self.count
            self.place, self.count = self.place + 2, self.count + _WORD
        value = self.held & ((1 << count) - 1)
        self.held, self.count = self.held >> count, self.count - count
        return value

    def take_bytes(self, count: int) -> bytes:
        taken = self.data[self.place : self.place + count]
        self.place += count
        return taken


def _read_code(bits: _Bits) -> dict[tuple[int, int], int]:
    """A Huffman code: the numbers by length and bits of their codes. Codes of a length follow each other."""
    lengths = [bits.take(4) for _ in range(bits.take(5))]
    code, numbers = 0, {}
    for length in range(1, 17):
        for number, own in enumerate(lengths):
            if own == length:
                # as it is read, the first bit lowest
                numbers[length, int(f"{code:0{length}b}"[::-1], 2)] = number
                code += 1
        code <<= 1
    return numbers


def _read_number(bits: _Bits, numbers: dict[tuple[int, int], int]) -> int:
    """0 and 1 as they are coded; of larger ones the code says how many bits follow the highest."""
    code = 0
    for length in range(1, 17):
        code |= bits.take(1) << (length - 1)
        number = numbers.get((length, code))
        if number is not None:
            return number if number < 2 else bits.take(number - 1) | 1 << (number - 1)
    raise ValueError("`packed` has a code that stands for nothing.")


def _repeat(unpacked: bytearray, back: int, count: int) -> None:
    """Appends `count` bytes, of which the first lies `back` bytes before the end: they may be among the new ones."""
    if back > len(unpacked):
        raise ValueError("`packed` repeats what is not there.")
    pattern = unpacked[len(unpacked) - back : len(unpacked) - back + count]
    unpacked += (pattern * -(-count // len(pattern)))[:count]
