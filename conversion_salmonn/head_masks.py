# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Masks of attention heads, each of which says a task to SALMONN without an instruction (AHAMask, arXiv 2509.01787).

    mask = load_head_mask("legacy_checkpoints/gender_librispeech/checkpoint.pth", model.config.text_config)
    model.generate(**inputs, head_mask=mask)     # inputs of a question that is empty
"""

import os
from collections.abc import Mapping

import torch
from transformers import PreTrainedConfig

from conversion_salmonn.checkpoint_io import read_pickle


def load_head_mask(path: str | os.PathLike, text_config: PreTrainedConfig) -> torch.Tensor:
    """
    The heads that a published mask leaves on.

    Args:
        path (`str` or `os.PathLike`): the `checkpoint.pth`, whose only tensor is `(layers * (heads + 1),)`: logits of the
            heads of each layer, and one of its feed-forward part, which is of no effect.
        text_config (`PreTrainedConfig`): that of the LLM.

    Returns:
        `torch.BoolTensor` of shape `(layers, heads)`, for `generate(..., head_mask=...)`: `True` where the logit is not
        negative.

    Raises:
        ValueError: if the file is no such mask, or of an LLM with other numbers of layers and heads.
    """
    content = read_pickle(path)
    content = content.get("model") if isinstance(content, Mapping) else None
    logits = content.get("tensor") if isinstance(content, Mapping) else None
    if not isinstance(logits, torch.Tensor) or logits.ndim != 1 or not logits.is_floating_point():
        raise ValueError(f"`head_mask` {path} is no AHAMask: expected one tensor of logits, `tensor`, under 'model'")
    layers, heads = text_config.num_hidden_layers, text_config.num_attention_heads
    if len(logits) != layers * (heads + 1):
        raise ValueError(
            f"`head_mask` {path} has {len(logits)} logits, but the LLM has {layers} layers of {heads} heads and one "
            f"feed-forward part, {layers * (heads + 1)} in all: it is of another model"
        )
    if logits.isnan().any():
        raise ValueError(f"`head_mask` {path} holds NaN")
    return logits.view(layers, heads + 1)[:, :-1] >= 0


__all__ = ["load_head_mask"]
