# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
From a connector that was trained on speech alone to one that also hears BEATs.

The speech encoder's part of the joint stream comes first, so the connector of a speech-only model fits into that of a
model with BEATs: the weights on what BEATs gives start at zero, and the wider model answers as the narrow one did until
it is trained further. The warm-up on speech can then run before, or while, BEATs is trained.

The LoRA of a model with another connector or another BEATs can come along: connectors that were warmed up write tokens
that all look alike to the LLM, so what it has learnt about them holds.
"""

import shutil
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils import load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForMultimodalLM

# Importing it tells Transformers' Auto classes about SALMONN.
import salmonn_transformers  # noqa: F401
from data_salmonn.files import check_output, output_folder
from training_salmonn.alignment import HEAD_FILE


PREFIX = "base_model.model."


@torch.no_grad()
def widen_adapter(model: str | Path, adapter: str | Path, output: str | Path, lora: str | Path | None = None) -> Path:
    """
    Writes the adapter of a speech-only model as one of `model`, a model of the same speech encoder, LLM and connector
    with BEATs. Returns `output`.

    Args:
        model: Folder of the model with BEATs.
        adapter: Folder of the speech-only model's adapter.
        output: New folder to write.
        lora: Folder of an adapter for the same LLM, whose LoRA takes the place of that of `adapter`.

    Raises `ValueError` if `output` holds anything, if `model` has no BEATs, if a tensor of `adapter` is anything but narrower than its own, or if
    the LoRA of `lora` is not one for the same modules and of the same rank and scale.
    """
    check_output(output)
    settings = PeftConfig.from_pretrained(str(adapter))
    if lora is not None:
        check_same_lora(settings, PeftConfig.from_pretrained(str(lora)))
    wide = AutoModelForMultimodalLM.from_pretrained(str(model), dtype="auto")
    if wide.config.beats_config is None:
        raise ValueError(f"`model` must have BEATs, got the speech-only {model}.")
    # as the model would have it, which names BEATs' norm too
    config = wide.lora_config(r=settings.r, lora_alpha=settings.lora_alpha)
    config.target_modules = settings.target_modules
    wide.add_adapter(config)
    name = wide.active_adapters()[0]
    weights = wide.get_adapter_state_dict(name)
    narrow = load_peft_weights(str(adapter), "cpu")
    for key, tensor in narrow.items():
        key = key.removeprefix(PREFIX)
        # which base an adapter belongs to is written when it is saved
        if not key.endswith("base_fingerprint"):
            weights[key] = pad_inputs(key, tensor, weights.get(key))
    if lora is not None:
        weights |= {
            key.removeprefix(PREFIX): tensor
            for key, tensor in load_peft_weights(str(lora), "cpu").items()
            if ".lora_" in key
        }
    set_peft_model_state_dict(wide, weights, adapter_name=name)
    with output_folder(output) as folder:
        wide.save_pretrained(str(folder), adapter_only=True)
        # the head of a warm-up that is not over
        if Path(adapter, HEAD_FILE).is_file():
            shutil.copyfile(Path(adapter, HEAD_FILE), folder / HEAD_FILE)
    return Path(output)


def check_same_lora(settings: PeftConfig, others: PeftConfig) -> None:
    """Raises `ValueError` if `others` are not for the same LoRA as `settings`."""
    for name in ("r", "lora_alpha", "target_modules"):
        ours, theirs = getattr(settings, name), getattr(others, name)
        if ours != theirs:
            raise ValueError(f"`lora` must have the {name} of `adapter`, {ours}, got {theirs}.")


def pad_inputs(name: str, narrow: torch.Tensor, wide: torch.Tensor | None) -> torch.Tensor:
    """`narrow` with zeros for the inputs, along the second axis, that only `wide` has."""
    sizes = None if wide is None else (narrow.shape[:1] + narrow.shape[2:], wide.shape[:1] + wide.shape[2:])
    if wide is None or narrow.ndim != wide.ndim or sizes[0] != sizes[1] or narrow.shape[1:2] > wide.shape[1:2]:
        found = "none" if wide is None else tuple(wide.shape)
        raise ValueError(f"`adapter` must fit into the model, but {name} has {tuple(narrow.shape)} for {found}.")
    if narrow.shape == wide.shape:
        return narrow.to(wide)
    padded = torch.zeros_like(wide)
    padded[:, : narrow.shape[1]] = narrow
    return padded
