# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A base model and its adapter as one ordinary model: LoRA is added to the LLM's weights, and connector and norms are the
model's own. Such a folder needs no PEFT, and engines that know no adapters serve it.

    salmonn merge ./base OUT --adapter runs/instruct/adapter

With `keep_lora` LoRA stays what it is, in `OUT/lora`, for engines that add it themselves: they have adapters of linear layers
only, and connector and norms of the adapter are those of the model all the same.

`lora_scale` is gone with LoRA. What is merged cannot be taken apart again: keep the adapter.
"""

import json
import logging
import os
from pathlib import Path

import numpy as np
import torch
from peft import PeftType
from safetensors.torch import save_file
from transformers import AutoModelForMultimodalLM

from base_weights_salmonn import BASE_WEIGHTS, read_adapter
from conversion_salmonn.checkpoint_io import output_folder
from conversion_salmonn.folders import ADAPTER_FILES
from conversion_salmonn.loading import attach_adapter, choose_device, load_with_adapter
from conversion_salmonn.parts import parse_dtype, save_all
from data_salmonn.files import write_json
from data_salmonn.json_text import read_object


logger = logging.getLogger(__name__)

LORA = "lora"  # the folder of what is kept of an adapter
CHECKED_TOKENS = 32
CHECKED_QUESTIONS = (None, "Describe the audio.")


def merge(
    model: str | os.PathLike,
    output: str | os.PathLike,
    *,
    adapter: str | os.PathLike | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    overwrite: bool = False,
    keep_lora: bool = False,
) -> Path:
    """
    Writes a model with its adapter merged, its processor and its generation settings to the folder `output`, and checks
    that greedy answers about a synthetic clip are the same tokens before and after.

    Args:
        model (`str` or `os.PathLike`): folder or Hub id of a model with an adapter, of one without, or of an adapter.
        output (`str` or `os.PathLike`): folder to write.
        adapter (`str` or `os.PathLike`, *optional*): adapter for a model without one.
        dtype (`str` or `torch.dtype`, *optional*): of all weights. Unless given, the base model keeps its own.
        device (`str`, *optional*): where to compute. Unless given, a GPU if there is one.
        overwrite (`bool`): replace what is in `output`.
        keep_lora (`bool`): merge connector and norms only, and write LoRA to `output/lora`, an adapter of the model.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: if there is no adapter, if the model is quantized, if the adapter is no LoRA, and if answers are not
            the same. Nothing is written then.
    """
    dtype, device = parse_dtype(dtype), choose_device(device)
    with output_folder(output, overwrite) as folder:
        loaded, processor = load_with_adapter(model, adapter, dtype or "auto")
        check_mergeable(loaded, model, keep_lora)
        saved_dtype = dtype or loaded.dtype
        loaded = loaded.to(device)
        expected = answer_ids(loaded, processor)
        if keep_lora:
            save_lora(loaded, folder / LORA)
            with loaded._scale_lora(0):  # what is merged is zero, and weights are as they were
                loaded.merge_and_unload()
        else:
            loaded.merge_and_unload()
        save_all(loaded.to(saved_dtype), processor, folder, saved_dtype)
        del loaded  # before it is in memory a second time
        merged = AutoModelForMultimodalLM.from_pretrained(folder, dtype="auto").to(device).eval()
        if keep_lora:
            attach_adapter(merged, folder / LORA)
        _check_answers(expected, answer_ids(merged, processor), saved_dtype)
    return Path(output)


def check_mergeable(model, name: str | os.PathLike, keep_lora: bool = False) -> None:
    """Raises `ValueError` unless `model` has a LoRA adapter on weights that it can be added to, or kept apart from."""
    if not model._hf_peft_config_loaded:
        raise ValueError(f"`model` {name} has no adapter to merge, and `adapter` names none.")
    if getattr(model, "is_quantized", False):
        raise ValueError(f"`model` {name} is quantized: LoRA cannot be added to its weights. Merge, then quantize.")
    for config in model.peft_config.values():
        if config.peft_type != PeftType.LORA:
            raise ValueError(f"`adapter` must be LoRA to be merged, got {config.peft_type.value}.")
    if len(model.peft_config) != 1:
        raise ValueError(f"`model` must have one adapter to be merged, got {', '.join(model.peft_config)}.")
    if keep_lora and next(iter(model.peft_config.values())).use_dora:
        raise ValueError("`keep_lora` must be left out for DoRA, which belongs to the weights that it was trained on.")


def save_lora(model, folder: Path) -> None:
    """Writes LoRA of a model's adapter, without the modules that were trained as a whole, to a new folder, as PEFT does."""
    settings_file, weights_file = (folder / name for name in ADAPTER_FILES)
    folder.mkdir()
    model._save_adapter(folder, model.state_dict(), adapter_only=True, repo_id=None)
    tensors, recorded = read_adapter(folder)
    lora = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    save_file(lora, weights_file, metadata={"format": "pt", BASE_WEIGHTS: json.dumps(recorded)})
    write_json(settings_file, read_object(settings_file) | {"modules_to_save": None, "base_model_name_or_path": None})


@torch.no_grad()
def answer_ids(model, processor) -> list[list[int]]:
    """Greedy answers to several questions about a synthetic clip, as tokens."""
    answers = []
    for question in CHECKED_QUESTIONS:
        if question is None:
            inputs = processor.apply_transcription_request(_synthetic_clip(), return_tensors="pt")
        else:
            content = [{"type": "audio", "audio": _synthetic_clip()}, {"type": "text", "text": question}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                return_dict=True,
                add_generation_prompt=True,
                return_tensors="pt",
            )
        inputs = inputs.to(model.device)
        output = model.generate(**inputs, max_new_tokens=CHECKED_TOKENS, num_beams=1, do_sample=False)
        answers.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


def _synthetic_clip(seconds: float = 3.0) -> np.ndarray:
    """A tone that rises, in noise: `(samples,)` of 16 kHz."""
    time = np.arange(int(16000 * seconds)) / 16000
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.2 * np.sin(2 * np.pi * (200 + 300 * time) * time) + 0.02 * noise).astype(np.float32)


def _check_answers(expected: list[list[int]], found: list[list[int]], dtype: torch.dtype) -> None:
    for before, after in zip(expected, found):
        if before != after:
            same = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
            raise ValueError(
                f"The merged model answers a test clip otherwise after {same} of {len(before)} tokens: what LoRA learnt is "
                f"lost where weights are rounded to {str(dtype).removeprefix('torch.')}. Try `dtype` float32."
            )
    logger.info("merged: %d tokens of greedy answers are the same", sum(map(len, expected)))
