# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What is in the folder of a model or an adapter, by its JSON and the headers of its safetensors: no weight is read."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from conversion_salmonn.folders import ADAPTER_FILES, check_adapter, check_model
from data_salmonn.json_text import read_object


# The parts, by the beginnings of the names of their tensors.
PARTS = {
    "Whisper": ("model.speech_encoder.",),
    "BEATs": ("model.beats.",),
    "Connector": ("model.connector.", "model.speech_layer_norm.", "model.beats_layer_norm."),
    "LLM": ("model.language_model.", "lm_head."),
}
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
# What bitsandbytes saves beside a weight that it has quantized, and which is no parameter.
QUANTIZATION_STATE = re.compile(r"\.(SCB|weight_format|weight\.(nested_)?(absmax|quant_map)|weight\.quant_state\..*)$")
# Bytes of a weight of the LLM's linear layers: NF4 has a float32 for each 64 weights. All else stays in 16 bits.
QUANTIZED_BYTES = {"8-bit": 1, "4-bit": 0.5 + 4 / 64}


@dataclass
class Part:
    """Tensors that belong together. `linear` counts the parameters that quantizing the LLM makes smaller."""

    name: str
    about: str = ""
    parameters: int = 0
    bytes: int = 0
    linear: int = 0
    dtypes: Counter = field(default_factory=Counter)

    def as_dict(self) -> dict:
        return {
            "name": self.name,
            "about": self.about,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "dtype": self.dtype,
        }

    @property
    def dtype(self) -> str | None:
        """That of most of its parameters."""
        return self.dtypes.most_common(1)[0][0] if self.dtypes else None


def summarize(folder: str | os.PathLike) -> dict:
    """
    What is known of a model or an adapter.

    Returns:
        A dict of `model`, the folder; `base_model`, where its base weights are, or were in training, for an adapter;
        `parts` with their `name`, `about`, `parameters`, `bytes` and `dtype`, and their sums `parameters` and `bytes`;
        `audio`; `adapter`; and `memory`, bytes of the weights in each precision. What is not known is `None`: of an
        adapter whose base model is not on this machine only `adapter` is.

    Raises:
        ValueError: if the folder is none of a SALMONN or an adapter of one, or its files cannot be read.
    """
    check_model(folder)
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`model` must be a folder on this machine, got {folder}.")
    adapter = _read_adapter(folder) if (folder / ADAPTER_FILES[0]).is_file() else None
    base = folder if (folder / "config.json").is_file() else None
    if base is None and adapter["base_model"] and Path(adapter["base_model"], "config.json").is_file():
        base = Path(adapter["base_model"])
    summary = {"model": str(folder), "base_model": adapter and adapter["base_model"], "adapter": adapter}
    if base is None:
        return summary | dict.fromkeys(("parts", "parameters", "bytes", "dtype", "audio", "memory"))
    config = read_object(base / "config.json")
    if config.get("model_type") != "salmonn":
        raise ValueError(f"`model` {base} must be a SALMONN, got a model of type {config.get('model_type')!r}.")
    try:
        parts, audio = _read_parts(base, config), _describe_audio(config)
    except KeyError as error:
        raise ValueError(f"{base / 'config.json'} is not complete: it lacks {error}.") from error
    extra = adapter["parameters"] if adapter else 0
    return summary | {
        "parts": [part.as_dict() for part in parts],
        "parameters": sum(part.parameters for part in parts) + extra,
        "bytes": sum(part.bytes for part in parts) + (adapter["bytes"] if adapter else 0),
        "dtype": sum((part.dtypes for part in parts), Counter()).most_common(1)[0][0],
        "audio": audio,
        "memory": _estimate_memory(parts, extra),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Tensors


def _list_tensors(files: Iterable[Path]) -> Iterator[tuple[str, list[int], str]]:
    """Name, shape and safetensors' dtype of each tensor."""
    for file in files:
        try:
            with safe_open(file, framework="numpy") as opened:
                for name in opened.keys():
                    header = opened.get_slice(name)
                    yield name, header.get_shape(), header.get_dtype()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read, it may be truncated ({error})") from error


def _find_weights(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        raise ValueError(f"`model` {folder} has no weights as safetensors, whose headers could be read.")
    return [folder / name for name in sorted(set(read_object(index)["weight_map"].values()))]


def _read_parts(folder: Path, config: dict) -> list[Part]:
    speech, beats, text = config["speech_config"], config["beats_config"], config["text_config"]
    parts = {
        "Connector": Part("Connector", _describe_connector(config)),
        "LLM": Part("LLM", _describe_llm(text)),
    }
    if speech is not None:
        parts["Whisper"] = Part("Whisper", f"{speech['encoder_layers']} layers of width {speech['d_model']}")
    if beats is not None:
        about = f"{beats['num_hidden_layers']} layers of width {beats['hidden_size']}"
        parts["BEATs"] = Part("BEATs", about)
    for name, shape, dtype in _list_tensors(_find_weights(folder)):
        owner = next((part for part, starts in PARTS.items() if name.startswith(starts)), "Other")
        _count(parts.setdefault(owner, Part(owner)), name, shape, dtype)
    return [parts[name] for name in (*PARTS, "Other") if name in parts]


def _count(part: Part, name: str, shape: list[int], dtype: str) -> None:
    dtype_name, size = DTYPES.get(dtype, (dtype.lower(), 1))
    count = math.prod(shape)
    part.bytes += count * size
    if QUANTIZATION_STATE.search(name):
        return
    if dtype == "U8" and name.endswith(".weight"):  # bitsandbytes packs two weights of 4 bits
        count *= 2
    part.parameters += count
    part.dtypes[dtype_name] += count
    if name.startswith("model.language_model.") and len(shape) == 2 and "embed" not in name:
        part.linear += count


def _describe_llm(text: dict) -> str:
    layers = text.get("num_hidden_layers", text.get("n_layer"))
    context = text.get("max_position_embeddings")
    about = f"{text['model_type']}, {layers} layers of width {text.get('hidden_size', text.get('n_embd'))}"
    return about + (f", context of {context} tokens" if context else "")


def _describe_connector(config: dict) -> str:
    window, tokens = config["window_seconds"], config["num_query_tokens"]
    where = "each segment" if window is None else f"each window of {window:.3g} s"
    return f"{config['connector_type']}, {tokens} token{'s' * (tokens > 1)} for {where}"


def _estimate_memory(parts: list[Part], adapter: int) -> dict[str, int]:
    """Bytes of all weights, those of an adapter among them, by precision."""
    parameters = sum(part.parameters for part in parts) + adapter
    linear = sum(part.linear for part in parts)
    memory = {"float32": 4 * parameters, "bfloat16": 2 * parameters}
    for name, size in QUANTIZED_BYTES.items():
        memory[name] = round(2 * (parameters - linear) + size * linear)
    return memory


# ----------------------------------------------------------------------------------------------------------------------
# Audio and adapters


def _describe_audio(config: dict) -> dict:
    tokens, seconds = count_segment_tokens(config), _segment_columns(config) / 100
    return {
        "tokens_per_second": round(tokens / seconds, 3),
        "tokens_per_segment": tokens,
        "segment_seconds": seconds,
        "max_audio_seconds": config["max_audio_seconds"],
        "fixed_length": config["fixed_length"],
    }


def _segment_columns(config: dict) -> int:
    """As `SalmonnConfig.segment_columns`."""
    speech = config["speech_config"]
    return 100 * config["segment_seconds"] if speech is None else 2 * speech["max_source_positions"]


def count_segment_tokens(config: dict) -> int:
    """Audio tokens of a whole segment, as `SalmonnConfig.num_audio_tokens`, which needs torch, counts them."""
    columns = _segment_columns(config)
    frames = columns // 2 if config["speech_config"] is not None else (columns - 2) // 16 * 8
    if config["window_seconds"] is None:
        return config["num_query_tokens"]
    window, stride = (round(1500 * config[f"{name}_seconds"] / 30) for name in ("window", "stride"))
    missing = frames - window
    further = -(-missing // stride) if config["pad_last_window"] else missing // stride
    return (max(further, 0) + 1) * config["num_query_tokens"]


def _read_adapter(folder: Path) -> dict:
    check_adapter(folder)
    settings, part = read_object(folder / ADAPTER_FILES[0]), Part("Adapter")
    for name, shape, dtype in _list_tensors([folder / ADAPTER_FILES[1]]):
        _count(part, name, shape, dtype)
    return {
        "kind": settings.get("peft_type"),
        "base_model": settings.get("base_model_name_or_path"),
        "rank": settings.get("r"),
        "alpha": settings.get("lora_alpha"),
        "target_modules": settings.get("target_modules"),
        "modules_to_save": settings.get("modules_to_save") or [],
        "parameters": part.parameters,
        "bytes": part.bytes,
        "dtype": part.dtype,
    }
