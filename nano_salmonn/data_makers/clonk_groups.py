# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Packed groups of OpenClonk (`.ocg`), in which its package has the sounds."""

import struct
import zlib


def clonk_group(content: bytes) -> dict[str, bytes]:
    """The files in a group of OpenClonk, by their paths: gzip with other first bytes, groups in groups."""
    if content[:2] != b"\x1e\x8c":
        raise ValueError("this is no packed group of OpenClonk")
    return _clonk_files(zlib.decompress(b"\x1f\x8b" + content[2:], wbits=31))


def _clonk_files(group: bytes) -> dict[str, bytes]:
    # the header is disguised: all bytes are XORed, and the first and third of each three are swapped
    header = bytearray(byte ^ 237 for byte in group[:204])
    header[:-2:3], header[2::3] = header[2::3], header[:-2:3]
    (count,) = struct.unpack_from("<i", header, 36)
    files = {}
    for number in range(count):
        name, _, is_group, size, _, offset = struct.unpack_from("<260s5i", group, 204 + 316 * number)
        path = name.split(b"\0")[0].decode("latin-1")
        start = 204 + 316 * count + offset
        content = group[start : start + size]
        if is_group:
            files |= {f"{path}/{inner}": file for inner, file in _clonk_files(content).items()}
        else:
            files[path] = content
    return files
