# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Qt resource archives (.rcc), in which some programs keep their sounds: a header, a tree of nodes, names and data."""

import struct


FOLDER, ZLIB, ZSTD = 2, 1, 4  # flags of a node


def qt_resources(content: bytes) -> dict[str, bytes]:
    """
    Files of an archive by their paths; those that are stored compressed are left out, as sounds never are.

    Raises `ValueError` if `content` is no such archive.
    """
    if content[:4] != b"qres":
        raise ValueError(f"`content` must be a Qt resource archive, which begins with b'qres', got {content[:4]!r}.")
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    node_size = 14 if version == 1 else 22  # since version 2 a node ends with the time of its last change
    files = {}
    nodes = [(0, "")]  # with the path of their folder; the first one is the root, which has no name
    while nodes:
        node, path = nodes.pop()
        start = tree + node * node_size
        name_start, flags = struct.unpack_from(">IH", content, start)
        if node:
            (length,) = struct.unpack_from(">H", content, names + name_start)
            first = names + name_start + 6  # after the length and a hash
            path = f"{path}/{content[first : first + 2 * length].decode('utf-16-be')}".lstrip("/")
        if flags & FOLDER:
            count, child = struct.unpack_from(">2I", content, start + 6)
            nodes += [(number, path) for number in range(child, child + count)]
        elif not flags & (ZLIB | ZSTD):
            (offset,) = struct.unpack_from(">I", content, start + 10)
            (length,) = struct.unpack_from(">I", content, data + offset)
            files[path] = content[data + offset + 4 : data + offset + 4 + length]
    return files
