# Copyright 2026 The SALMONN for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""
What a model is given, checked where it comes in: types and shapes always, values once for a prompt, since they wait for
the device. Nothing is looked at while a graph is compiled or exported.
"""

import torch


# More beams than anybody searches: each holds a cache of the prompt.
MAX_BEAMS = 256


def check_prompt(input_ids, attention_mask, has_past: bool, vocab_size: int) -> None:
    """
    Checks a prompt `(batch_size, sequence_length)` and its mask, which with a past is longer. Raises `TypeError` on what
    are no integers, and `ValueError` on other shapes, ids outside of the vocabulary, rows that are masked as a whole.
    """
    if input_ids is None:
        return
    _check_integers("input_ids", input_ids)
    if input_ids.ndim != 2:
        raise ValueError(f"`input_ids` must have shape (batch_size, sequence_length), got {tuple(input_ids.shape)}.")
    is_plain_mask = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
    if is_plain_mask and not has_past and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` must have the shape of `input_ids`, {tuple(input_ids.shape)}, got "
            f"{tuple(attention_mask.shape)}."
        )
    if has_past or not _can_look_at(input_ids) or not input_ids.numel():
        return
    lowest, highest = torch.aminmax(input_ids)
    if not 0 <= int(lowest) <= int(highest) < vocab_size:
        raise ValueError(
            f"`input_ids` must be from 0 to {vocab_size - 1}, the LLM's vocabulary, got {int(lowest)} to {int(highest)}."
        )
    if not is_plain_mask or attention_mask.device.type == "meta":
        return
    mask = attention_mask
    is_binary, has_tokens = torch.stack([((mask == 0) | (mask == 1)).all(), (mask != 0).any(-1).all()]).tolist()
    if not is_binary:
        raise ValueError("`attention_mask` must be 1 for tokens and 0 for padding, got other values.")
    if not has_tokens:
        raise ValueError("`attention_mask` must have a 1 in each row, got a row of padding only.")


def check_labels(labels, logits: torch.Tensor, vocab_size: int, is_share: bool) -> None:
    """
    Checks labels for `logits` of shape `(batch_size, sequence_length, vocab_size)`. Where the loss `is_share`, part of one
    over more rows, these may have no label.
    """
    _check_integers("labels", labels)
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"`labels` must have shape {tuple(logits.shape[:2])}, as the logits have, got {tuple(labels.shape)}."
        )
    if not _can_look_at(labels):
        return
    is_known = (labels == -100) | ((labels >= 0) & (labels < vocab_size))
    are_known, is_any = torch.stack([is_known.all(), (labels[:, 1:] != -100).any()]).tolist()
    if not are_known:
        raise ValueError(
            f"`labels` must be from 0 to {vocab_size - 1}, the LLM's vocabulary, or -100, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )
    if not is_any and not is_share:
        raise ValueError("`labels` must hold a token to predict behind the first, got -100 only.")


def check_audio_embeds(audio_embeds, width: int) -> None:
    """Raises `TypeError` or `ValueError` unless these are floats of shape `(audio_tokens, width)`."""
    if not isinstance(audio_embeds, torch.Tensor) or not audio_embeds.is_floating_point():
        kind = audio_embeds.dtype if isinstance(audio_embeds, torch.Tensor) else type(audio_embeds).__name__
        raise TypeError(f"`audio_embeds` must be a tensor of floats, got {kind}.")
    if audio_embeds.ndim != 2 or audio_embeds.shape[-1] != width:
        raise ValueError(
            f"`audio_embeds` must have shape (audio_tokens, {width}), the LLM's width, got {tuple(audio_embeds.shape)}."
        )
    if _can_look_at(audio_embeds) and not audio_embeds.isfinite().all():
        raise ValueError("`audio_embeds` must be finite, got NaN or inf.")


def check_generation(inputs, arguments: dict) -> None:
    """Raises `TypeError` or `ValueError` on arguments of `generate` that would end deep inside, or never."""
    for name, value in (
        ("inputs", inputs),
        *((name, arguments.get(name)) for name in ("attention_mask", "inputs_embeds")),
    ):
        if value is not None and not isinstance(value, torch.Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}.")
    most = {"num_beams": MAX_BEAMS, "num_return_sequences": MAX_BEAMS, "max_new_tokens": None, "max_length": None}
    config = arguments.get("generation_config")
    for name, limit in most.items():
        value = arguments.get(name, getattr(config, name, None))
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
        if limit is not None and value > limit:
            raise ValueError(f"`{name}` must be at most {limit} (`input_checks_salmonn.MAX_BEAMS`), got {value}.")


def _check_integers(name: str, ids) -> None:
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {type(ids).__name__}.")
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"`{name}` must be integers, of dtype int64 or int32, got {ids.dtype}.")


def _can_look_at(tensor: torch.Tensor) -> bool:
    return not torch.compiler.is_compiling() and tensor.device.type != "meta"
