# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The precision of a recipe, on the machine at hand.

Recipes name bfloat16: accelerators and many CPUs multiply in it, in half of the memory. Other CPUs have no instructions
for it and take several times as long as in float32, so that recipes train in float32 there, unless the call or the
command names the field.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch


logger = logging.getLogger(__name__)

# What takes the place of bfloat16, by field of a recipe.
IN_FLOAT32 = {"bf16": (True, False), "model_dtype": ("bfloat16", "float32")}


def is_cpu_machine() -> bool:
    """Whether there is no accelerator, so that recipes train on a CPU unless they say otherwise."""
    return not torch.accelerator.is_available()


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 without converting them to float32 first."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def fit_precision(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """
    The fields of `recipe` with `given` in place of its own, and float32 in place of its bfloat16 where it trains on a CPU
    that is slow in it. What is `given` stays as it is.
    """
    fields = dict(recipe) | dict(given)
    if not fields.get("use_cpu", is_cpu_machine()) or has_fast_bfloat16():
        return fields
    slow = [name for name, (value, _) in IN_FLOAT32.items() if name not in given and fields.get(name) == value]
    if slow:
        if os.environ.get("RANK", "0") == "0":  # the processes do not know of each other yet
            logger.warning(
                "this CPU is slow in bfloat16, so training is in float32, with twice the memory: %s. Set the field in "
                "the command to keep bfloat16.",
                ", ".join(f"`{name}` is {IN_FLOAT32[name][1]}" for name in slow),
            )
        fields |= {name: IN_FLOAT32[name][1] for name in slow}
    return fields
