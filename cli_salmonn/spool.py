# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Clips that are no files yet, from standard input and from the web, written to files within bounds."""

import http.client
import sys
import time
import urllib.parse
from pathlib import Path

from tqdm.auto import tqdm

from audio_reading_salmonn import open_url


MAX_BYTES = 500 * 2**20
MAX_SECONDS = 300
CONNECT_SECONDS = 20  # without any byte
BLOCK = 2**16


def is_url(word: str) -> bool:
    return word.lower().startswith(("http://", "https://"))


def save_input(folder: str | Path) -> Path:
    """The bytes of standard input, as a file in `folder`. Raises `ValueError` if there are none, or too many."""
    if sys.stdin.isatty():
        raise ValueError("`audio` - is standard input, which is a terminal: pipe the bytes of a file into it")
    target = Path(folder, "stdin")
    _save(sys.stdin.buffer, target, "-")
    return target


def download(url: str, folder: str | Path) -> Path:
    """
    What is at an http or https address, as a file in `folder`, which must not be there yet.

    Raises `ValueError` if it cannot be had, is larger than 500 MB or takes longer than five minutes.
    """
    target = Path(folder, "clip" + Path(urllib.parse.urlsplit(url).path).suffix[:8])
    try:
        with open_url(url, CONNECT_SECONDS) as response:
            _save(response, target, url, int(response.headers.get("Content-Length") or 0))
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"`audio` {url} cannot be had ({error})") from error
    return target


def _save(source, target: Path, name: str, expected: int = 0) -> None:
    """Copies the stream `source`. `expected` is how many bytes it says to have, 0 if it does not say."""
    too_large = f"`audio` {name} is larger than {MAX_BYTES >> 20} MB"
    if expected > MAX_BYTES:
        raise ValueError(too_large)
    start, size = time.monotonic(), 0
    with (
        target.open("xb") as file,
        tqdm(desc=f"Reading {name}", total=expected or None, unit="B", unit_scale=True, delay=2, disable=None) as bar,
    ):
        while block := source.read1(BLOCK):
            size += file.write(block)
            bar.update(len(block))
            if size > MAX_BYTES:
                raise ValueError(too_large)
            if time.monotonic() - start > MAX_SECONDS:
                raise ValueError(f"`audio` {name} was not there after {MAX_SECONDS} s")
    if size < expected:
        raise ValueError(f"`audio` {name} broke off after {size} of {expected} bytes")
    if size == 0:
        raise ValueError(f"`audio` {name} is empty")
