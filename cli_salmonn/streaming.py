# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Answers that appear while they are written."""

import sys
import unicodedata

import torch
from transformers.generation.streamers import BaseStreamer


class AnswerStreamer(BaseStreamer):
    """
    Prints an answer of [`~GenerationMixin.generate`] on standard output word by word: together the text that decoding it
    at once gives, without space around it. Answers that follow each other are on one line, until `finish`.
    """

    def __init__(self, processor):
        self.processor = processor
        self._is_begun = False  # whether something stands on the line
        self._restart()

    def _restart(self) -> None:
        self._ids: list[int] = []
        self._shown, self._prompt_is_next = "", True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_is_next:  # `generate` begins with the prompt
            self._prompt_is_next = False
            return
        self._ids += value.flatten().tolist()
        text = self._decode()
        self._show(text if _is_complete(text) else text[: _last_space(text)])

    def end(self) -> None:
        self._show(self._decode())
        self._restart()

    def write(self, text: str) -> None:
        """An answer that is there as a whole."""
        self._show(text)
        self._restart()

    def finish(self) -> None:
        """Ends the line."""
        print(flush=True)
        self._is_begun = False

    def _decode(self) -> str:
        return self.processor.decode(self._ids, skip_special_tokens=True).strip()

    def _show(self, text: str) -> None:
        """Prints what `text` has beyond what is shown already. What decoding changes afterwards stays as it is."""
        more = text[len(self._shown) :]
        if not more:
            return
        separator = " " if self._is_begun and not self._shown else ""
        sys.stdout.write(separator + more)
        sys.stdout.flush()
        self._shown, self._is_begun = text, True


def _last_space(text: str) -> int:
    """Where the last word, which may go on, begins, with the space before it."""
    return len(text) - len((text.split() or [""])[-1]) - 1 if text.split()[1:] else 0


def _is_complete(text: str) -> bool:
    """Whether the last character is a word by itself, as those of Chinese and Japanese are."""
    return bool(text) and unicodedata.east_asian_width(text[-1]) in "WF"
