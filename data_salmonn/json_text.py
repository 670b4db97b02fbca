# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
JSON as text: errors that name the file, and every string there and back.

A line of JSON ends with a line feed, and nowhere else. `str.splitlines` also cuts at U+2028, U+0085 and others, which may
stand in a string as they are.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


# Half of a surrogate pair is no character: UTF-8 has none for it, JSON has `\ud800`.
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def to_json(content: Any, **options) -> str:
    """`content` as JSON with characters as they are, of which [`parse_json`] makes the same again."""
    text = json.dumps(content, ensure_ascii=False, **options)
    return _HALF_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def parse_json(text: str | bytes) -> Any:
    """What `text` holds, UTF-8 with or without a byte-order mark. Raises `ValueError` if it is no JSON, or nested too deeply."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str | Path) -> Any:
    """What the file `path` holds. Raises a `ValueError` that names the file if it is no JSON."""
    try:
        return parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it cannot be read as JSON ({error}).") from error


def read_object(path: str | Path) -> dict:
    """The JSON object in the file `path`. Raises a `ValueError` that names the file if it holds none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, got {type(content).__name__}.")
    return content


def read_object_lines(path: str | Path) -> Iterator[dict]:
    """The JSON objects in the lines of the file `path`. Raises a `ValueError` that names the line that is none."""
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, cannot be read as JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}, must hold an object, got {type(row).__name__}.")
        yield row


def digest_bytes(text: str) -> bytes:
    """`text` as bytes to take a hash of, whatever it holds."""
    return text.encode("utf-8", "surrogatepass")
