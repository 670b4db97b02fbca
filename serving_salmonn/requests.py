# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the vLLM plugin decides by itself, apart from vLLM."""

import os

from transformers.utils import find_adapter_config_file


def check_merged(model: str | os.PathLike) -> None:
    """Raises `ValueError` if a folder or Hub id has an adapter, without which vLLM would serve the base model alone."""
    if find_adapter_config_file(str(model)) is not None:
        raise ValueError(
            f"`model` {model} has an adapter, which vLLM does not know: `salmonn merge {model} OUT` makes one model of both"
        )


def check_placeholders(placeholders: int, clips: int) -> None:
    """Raises `ValueError` unless a prompt has one placeholder for each clip: one more would be text typed by a user."""
    if placeholders != clips:
        raise ValueError(
            f"the prompt must hold one audio placeholder for each clip, got {placeholders} for {clips} clips: the text of a "
            "message must not hold the placeholder"
        )


def longest_piece(extractor) -> float | None:
    """
    The longest piece, in seconds, in which recordings are transcribed by a model with this feature extractor; `None` if it
    reads recordings whole.
    """
    longest = extractor.max_audio_seconds
    return None if longest is None else min(longest, extractor.chunk_length)


def profiled_segments(config, max_tokens: int, clips: int) -> int:
    """
    Segments of each of `clips` clips by which to measure memory: as many as the encoders read at once, or as a prompt of
    `max_tokens` has room for, and at least one.
    """
    tokens = config.num_audio_tokens(config.segment_columns // 2)
    most = min(config.max_segments_at_once, max_tokens // tokens)
    return max(most // max(clips, 1), 1)
