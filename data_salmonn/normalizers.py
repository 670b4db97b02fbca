# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Text normalisation before transcriptions are compared: it decides word error rates as much as the model does."""

import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, files

from transformers.models.whisper.english_normalizer import EnglishTextNormalizer


# Whisper's normaliser knows the typewriter's apostrophe and one full stop; written text also has others.
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "…": " "})


@cache
def _british_to_american() -> dict[str, str]:
    """
    Whisper's spelling table, which Transformers ships with the checkpoints only: read from the installed
    `whisper-normalizer` package, as data. Without that package, which comes with `[eval]`, spellings stay as they are.
    """
    try:
        listed = files("whisper-normalizer") or []
    except PackageNotFoundError:
        return {}
    table = next((file for file in listed if file.name == "english.json"), None)
    return {} if table is None else json.loads(table.locate().read_text(encoding="utf-8"))


def has_spelling_table() -> bool:
    """Whether the English normaliser maps British to American spellings here; part of every result."""
    return bool(_british_to_american())


def _unify_typography(text: str) -> str:
    """Curly apostrophes as straight ones, and dots that only stand for a pause as spaces."""
    return re.sub(r"\.{2,}", " ", text.translate(_TYPOGRAPHY))


def _normalize_basic(text: str) -> str:
    """Lower case, and no brackets with what is in them; punctuation and symbols are spaces, marks of vowels are not."""
    text = re.sub(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)", "", text.lower())
    text = unicodedata.normalize("NFKC", text)
    return "".join(" " if unicodedata.category(character)[0] in "PS" else character for character in text)


def get_normalizer(name: str) -> Callable[[str], str]:
    """
    `"english"` is Whisper's (arXiv 2212.04356, appendix C), before which curly apostrophes become straight ones and
    ellipses spaces. `"basic"`, for any language, is as its basic one, but leaves words of Indic and other scripts whole,
    whose vowel signs Whisper's takes for punctuation. `"lower"` changes case only, and `"none"` leaves text as it is,
    apart from the amount of white space.

    Raises `ValueError` for any other name.
    """
    if name not in ("english", "basic", "lower", "none"):
        raise ValueError(f"`normalizer` must be 'english', 'basic', 'lower' or 'none', got {name!r}.")
    return _make_normalizer(name)


@cache
def _make_normalizer(name: str) -> Callable[[str], str]:
    if name == "english":
        whisper = EnglishTextNormalizer(_british_to_american())
        normalize = lambda text: whisper(_unify_typography(text))  # noqa: E731
    elif name == "basic":
        normalize = _normalize_basic
    elif name == "lower":
        normalize = str.lower
    else:
        normalize = str
    return lambda text: " ".join(normalize(text).split())
