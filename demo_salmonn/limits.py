# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What one visitor of the page can ask of the machine. The defaults of the command and of the Space stand here only."""

from dataclasses import dataclass

from data_salmonn.limits import PositiveLimits


@dataclass(frozen=True)
class Limits(PositiveLimits):
    """
    Raises `ValueError` unless all are numbers above 0.

    Args:
        upload_megabytes: largest file.
        clip_seconds: longest clip.
        clips: most clips that are kept for a visitor, and so in one question.
        question_characters: longest question.
        new_tokens: longest answer.
        answer_seconds: longest time that an answer may take.
        waiting: most questions that wait for their turn; the model answers one at a time.
    """

    upload_megabytes: float = 20.0
    clip_seconds: float = 120.0
    clips: int = 6
    question_characters: int = 500
    new_tokens: int = 128
    answer_seconds: float = 120.0
    waiting: int = 16
