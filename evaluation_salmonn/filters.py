# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Answer filters: what is cut off an answer before it is scored. A task names its filters, so a score says how it was read.
"""

import re
from collections.abc import Callable, Sequence


# A model that chats puts words around a transcription; up to this many characters before a colon are taken for such.
_LONGEST_PREAMBLE = 80
_QUOTES = "\"'“”‘’«»"


def strip(text: str) -> str:
    """Without white space around it."""
    return text.strip()


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return next((line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()), "")


def drop_preamble(text: str) -> str:
    """Without an announcement such as "The speaker says:", and without quotation marks around the whole."""
    text = text.strip()
    announced = re.match(rf"[^:\n]{{1,{_LONGEST_PREAMBLE}}}:\s*(?=[{_QUOTES}])", text)
    text = text[announced.end() :].strip() if announced else text
    if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text


def lower(text: str) -> str:
    """In lower case."""
    return text.lower()


def gigaspeech_tags(text: str) -> str:
    """Without GigaSpeech's punctuation and event tags, such as <COMMA>; it scores transcripts without them."""
    return " ".join(re.sub(r"<[A-Z_]+>", " ", text).split())


def phones(text: str) -> str:
    """Phones in upper case and without stress marks: "hh ah0 l OW1" becomes "HH AH L OW"."""
    return " ".join(re.sub(r"\d+$", "", phone) for phone in text.upper().split())


FILTERS: dict[str, Callable[[str], str]] = {
    function.__name__: function for function in (strip, first_line, drop_preamble, lower, gigaspeech_tags, phones)
}


def apply_filters(names: Sequence[str], text: str) -> str:
    """Applies the filters called `names` one after the other. Raises `ValueError` for an unknown name."""
    for name in names:
        if name not in FILTERS:
            raise ValueError(f"`filter` must be one of {sorted(FILTERS)}, got {name!r}.")
        text = FILTERS[name](text)
    return text
