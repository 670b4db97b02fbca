# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What can be wrong in the folder of a converted model, found without loading it: tensors are read one by one.

    for check in check_files("./salmonn-13b"):
        print(check.name, check.status, check.detail)
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoProcessor

import processing_salmonn  # noqa: F401  # tells Transformers' Auto classes about SALMONN
from base_weights_salmonn import find_other_weights, read_adapter
from conversion_salmonn.checkpoint_io import TensorFolder, check_fits, list_names, read_json
from conversion_salmonn.folders import ADAPTER_FILES, check_model
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor


PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

# The released models by the width of their LLM: name, and parameters that were trained, in millions.
RELEASED = {5120: ("SALMONN-13B", 33.3), 4096: ("SALMONN-7B", 30.2)}
RELEASED_SETTINGS = {
    "window_seconds": 0.333333,
    "stride_seconds": 0.333333,
    "num_query_tokens": 1,
    "pad_last_window": False,
    "fixed_length": True,
}
RELEASED_LORA_SCALE = 4.0


@dataclass(frozen=True)
class Check:
    """What was looked at, `"passed"`, `"failed"` or `"skipped"`, and what was found, or what is wrong and what to do."""

    name: str
    status: str
    detail: str


def check_files(folder: str | os.PathLike, needs_adapter: bool = True) -> Iterator[Check]:
    """
    Checks of the files in `folder`, in an order in which each relies on those before it.

    `needs_adapter` says whether a model without an adapter is wrong, which a merged one is not.
    Raises `ValueError` if there is no model in `folder`.
    """
    check_model(folder)
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"`model` must be a folder of a model on this machine, with a config.json, got {folder}.")
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.model_type != "salmonn":
            raise ValueError(f"it is of type {config.model_type!r}")
    except (OSError, ValueError, KeyError) as error:
        yield Check("configuration", FAILED, f"config.json is not that of a SALMONN: {_first_line(error)}")
        return
    yield Check("configuration", PASSED, _describe(config))
    with torch.device("meta"):
        model = SalmonnForConditionalGeneration(config)
    try:
        weights = TensorFolder(folder)
    except ValueError as error:
        yield Check("tensors", FAILED, f"{_first_line(error)}: copy the folder again, or convert again")
        return
    yield _check_tensors(weights, config, model)
    yield _check_finite("finite weights", weights)
    yield from _check_processor(folder, config)
    if (folder / ADAPTER_FILES[0]).is_file():
        yield from _check_adapter(folder, config, weights)
    elif needs_adapter:
        yield Check("adapter", FAILED, "there is none, and released models have one: if it was merged, say so")
    else:
        yield Check("adapter", SKIPPED, "there is none, as was said")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _describe(config) -> str:
    speech = "no Whisper" if config.speech_config is None else f"Whisper of width {config.speech_width}"
    beats = "no BEATs" if config.beats_config is None else f"BEATs of width {config.beats_config.hidden_size}"
    text = config.text_config
    return f"{speech}, {beats}, {text.model_type} of width {text.hidden_size}"


# ----------------------------------------------------------------------------------------------------------------------
# Weights


def _check_tensors(weights: TensorFolder, config, model) -> Check:
    if getattr(config, "quantization_config", None):
        return Check("tensors", SKIPPED, "the weights are quantized: their shapes are the library's")
    try:
        may_be_missing = r"^lm_head\.weight$" if config.tie_word_embeddings else r"$^"
        check_fits(weights, model, "the folder", may_be_missing, check_values=False)
    except ValueError as error:
        return Check("tensors", FAILED, f"{error}. Convert again: names and shapes follow from the configuration")
    return Check("tensors", PASSED, f"{len(weights)}, of the names and shapes that the configuration asks for")


def _check_finite(name: str, tensors: Mapping[str, torch.Tensor]) -> Check:
    bad = []
    for key in tqdm(tensors, desc="Reading", unit="tensor", leave=False, disable=None):
        tensor = tensors[key]
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad.append(key)
    if bad:
        return Check(
            name,
            FAILED,
            f"NaN or infinity in {list_names(bad)}: the file is damaged, or float16 was too small for the weights. "
            "Convert again, with --dtype bfloat16 or float32 in the second case",
        )
    return Check(name, PASSED, f"in {len(tensors)} tensors")


class _WithoutPrefix(Mapping):
    """The tensors whose names begin with `prefix`, named without it, and read when asked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], prefix: str):
        self._tensors, self._prefix = tensors, prefix

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizer and features


def _check_processor(folder: Path, config) -> Iterator[Check]:
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except Exception as error:  # the libraries behind tokenizers raise whatever they like
        yield Check("placeholder", FAILED, f"no processor can be loaded from the folder: {_first_line(error)}")
        return
    yield _check_placeholder(processor, config)
    yield _check_features(processor, config)


def _check_placeholder(processor, config) -> Check:
    tokenizer, token = processor.tokenizer, processor.audio_token
    found = tokenizer.convert_tokens_to_ids(token)
    if found != config.audio_token_id:
        return Check(
            "placeholder",
            FAILED,
            f"{token} is {found} to the tokenizer and {config.audio_token_id} to the model: the tokenizer is another "
            "LLM's. Convert again with the Vicuna that the checkpoint was trained with",
        )
    ids = tokenizer(f"a {token} b", add_special_tokens=False).input_ids
    if ids.count(found) != 1:
        return Check("placeholder", FAILED, f"the tokenizer splits {token}: it must be a special token")
    if len(tokenizer) > config.text_config.vocab_size:
        return Check(
            "placeholder",
            FAILED,
            f"the tokenizer has {len(tokenizer)} tokens, the LLM {config.text_config.vocab_size}: it is another LLM's",
        )
    prompt = processor.transcription_prompt_ids()
    if config.transcription_prompt_ids is None:
        return Check("placeholder", FAILED, "config.json has no `transcription_prompt_ids`: convert again")
    if prompt != config.transcription_prompt_ids:
        return Check(
            "placeholder",
            FAILED,
            "`transcription_prompt_ids` of config.json are not what the tokenizer makes of the prompt: one of the two was "
            "replaced. Convert again",
        )
    return Check("placeholder", PASSED, f"{token} is {found} to tokenizer and model")


def _check_features(processor, config) -> Check:
    expected = SalmonnProcessor.from_model_config(config, processor.tokenizer)
    names = ("window_seconds", "stride_seconds", "num_query_tokens", "pad_last_window")
    pairs = {name: (getattr(processor, name), getattr(expected, name)) for name in names}
    own, wanted = processor.feature_extractor.to_dict(), expected.feature_extractor.to_dict()
    pairs |= {name: (own.get(name), wanted[name]) for name in wanted}
    wrong = [f"{name} is {got!r} and not {want!r}" for name, (got, want) in pairs.items() if got != want]
    if wrong:
        return Check(
            "features",
            FAILED,
            f"processor_config.json does not go with config.json: {list_names(wrong)}. Convert again",
        )
    tokens = config.num_audio_tokens(config.count_frames(config.segment_columns))
    return Check("features", PASSED, f"{tokens} audio tokens for {config.segment_columns // 100} s")


# ----------------------------------------------------------------------------------------------------------------------
# Adapter


def _check_adapter(folder: Path, config, weights: TensorFolder) -> Iterator[Check]:
    try:
        settings = read_json(folder / ADAPTER_FILES[0])
        tensors, recorded = read_adapter(folder)
    except Exception as error:  # safetensors, pickle and JSON raise errors of their own
        yield Check("adapter", FAILED, f"it cannot be read: {_first_line(error)}. Copy the folder again")
        return
    yield _check_finite("finite adapter", tensors)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    untrained = [name for name, tensor in tensors.items() if "lora_B" in name and not tensor.any()]
    if not rank or not any("lora_" in name for name in tensors):
        yield Check("adapter", FAILED, "it has no LoRA, which released models have: convert again")
    elif untrained:
        yield Check("adapter", FAILED, f"LoRA is untrained, all zeros, in {list_names(untrained)}: convert again")
    else:
        yield Check("adapter", PASSED, f"LoRA of rank {rank}, alpha {alpha}, scale {alpha / rank:g}")
    if isinstance(recorded, torch.Tensor) or not recorded:
        yield Check("base weights", SKIPPED, "the adapter does not say which base weights it was saved with")
    else:
        # what is recorded are parameters of the model without its head
        other = find_other_weights(recorded, _WithoutPrefix(weights, "model."))
        if other:
            yield Check(
                "base weights",
                FAILED,
                f"the adapter was saved with other weights: {len(other)} of {len(recorded)} parameters differ, such as "
                f"{other[0]}. Put adapter and model of the same conversion together",
            )
        else:
            yield Check("base weights", PASSED, f"all {len(recorded)} that the adapter names are those in the folder")
    if rank and alpha is not None:
        yield _compare_with_released(config, settings, tensors, weights)


def _compare_with_released(config, settings: dict, lora: dict, weights: TensorFolder) -> Check:
    """Settings and sizes, where widths say that this is one of the released models."""
    name, millions = RELEASED.get(config.text_config.hidden_size, (None, None))
    is_large = config.speech_width == 1280 and config.connector_type == "qformer"
    if name is None or not is_large or config.beats_config is None:
        return Check("released settings", SKIPPED, "no released model has encoders and an LLM of these widths")
    wrong = [
        f"{key} is {getattr(config, key)!r} and not {value!r}"
        for key, value in RELEASED_SETTINGS.items()
        if getattr(config, key) != value
    ]
    scale = settings["lora_alpha"] / settings["r"]
    if scale != RELEASED_LORA_SCALE:
        wrong.append(f"the scale of LoRA is {scale:g} and not {RELEASED_LORA_SCALE:g}")
    trained = sum(tensor.numel() for key, tensor in lora.items() if "lora_" in key)
    parts = ("model.connector.", "model.speech_layer_norm.", "model.beats_layer_norm.")
    trained += sum(weights[key].numel() for key in weights if key.startswith(parts))
    if abs(trained / 1e6 - millions) > 0.1:
        wrong.append(f"{trained / 1e6:.1f} million parameters were trained and not {millions}")
    if wrong:
        return Check("released settings", FAILED, f"it has the widths of {name}, but {list_names(wrong)}")
    return Check("released settings", PASSED, f"those of {name}, {trained / 1e6:.1f} million trained parameters")
