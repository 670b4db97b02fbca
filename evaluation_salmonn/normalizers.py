# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Text normalisation before transcriptions are compared: it decides word error rates as much as the model does."""

import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, files

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer


@cache
def _british_to_american() -> dict[str, str]:
    """
    Whisper's spelling table, which Transformers ships with the checkpoints only: read from the installed
    `whisper-normalizer` package, as data. Without that package spellings stay as they are.
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


# Typography: how an apostrophe or an ellipsis is written is no matter of recognition.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"))
_ELLIPSIS = re.compile(r"\u2026|\.{2,}")


def _plain_typography(text: str) -> str:
    return _ELLIPSIS.sub(" ", text.translate(_APOSTROPHES))


def _remove_symbols(text: str) -> str:
    """Whisper's, but for marks: without its vowel signs a word of Hindi or Thai would be several."""
    normalized = unicodedata.normalize("NFKC", text)
    return "".join(" " if unicodedata.category(character)[0] in "SP" else character for character in normalized)


def _collapse_spaces(text: str) -> str:
    return " ".join(text.split())


@cache
def get_normalizer(name: str) -> Callable[[str], str]:
    """
    `"english"` and `"basic"` are Whisper's (arXiv 2212.04356, appendix C), with plain apostrophes and ellipses before
    the one, and with the vowel signs of scripts that have them kept by the other; `"lower"` changes case only, and
    `"none"` leaves text as it is, apart from the amount of white space.

    Raises `ValueError` for any other name.
    """
    if name == "english":
        whisper = EnglishTextNormalizer(_british_to_american())

        def normalize(text: str) -> str:
            return whisper(_plain_typography(text))

    elif name == "basic":
        normalize = BasicTextNormalizer()
        normalize.clean = _remove_symbols
    elif name == "lower":
        normalize = str.lower
    elif name == "none":
        normalize = str
    else:
        raise ValueError(f"`normalizer` must be 'english', 'basic', 'lower' or 'none', got {name!r}.")
    return lambda text: _collapse_spaces(normalize(text))
