# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
BEATs as others keep it, in the layout of Microsoft's release: `cfg` with all settings, tensors under its names, and a linear
head called `predictor`.

    BEATs       `cfg` and `model` in a .pt file                              microsoft/unilm
    OpenBEATs   the same, `cfg` with what differs from ESPnet's defaults     shikhar7ssu/OpenBEATs-*
    ESPnet      a bare .pth file, and a config.yaml beside it                espnet/OpenBEATS-*
    AVEX        safetensors, label_map.json and a YAML file beside it        EarthSpeciesProject/esp-aves2-*-beats*
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

from conversion_salmonn.checkpoint_io import TensorFolder, list_names, read_json, read_pickle


MULTI_LABEL, SINGLE_LABEL = "multi_label_classification", "single_label_classification"

# Settings that ESPnet's encoder has unless a file says otherwise, where Microsoft's files say all of them.
ESPNET_DEFAULTS = {
    "input_patch_size": 16,
    "embed_dim": 512,
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": False,
    "num_buckets": 320,
    "max_distance": 1280,
    "gru_rel_pos": False,
}
# Those that all BEATs of AVEX have.
AVEX_DEFAULTS = ESPNET_DEFAULTS | {
    "deep_norm": True,
    "encoder_layerdrop": 0.05,
    "max_distance": 800,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
# What ESPnet's encoder keeps beside its weights: two convolutions of ones that count padding.
PADS = ("patch_embedding_pad.weight", "raw2fbank_pad.weight")
# Settings of ESPnet that change what is heard, and what they must be here.
ESPNET_PLAIN = {
    "max_layer": None,
    "use_weighted_representation": False,
    "downsampling_rate": 1,
    "adapter_config": "",
    "add_positional_information": False,
}
AVEX_BUFFERS = re.compile(r"^fbank\.(window|mel_fb)$")
AVEX_PREFIX = "backbone."
MAX_YAML_BYTES = 10_000_000
WEIGHT_ENDINGS = (".pt", ".pth", ".ckpt", ".safetensors")


@dataclass
class BeatsSource:
    """A BEATs in the layout of Microsoft's release. `labels` are of its head, if it has one; `None` are without names."""

    family: str
    cfg: dict
    model: dict[str, torch.Tensor]
    is_fine_tuned: bool = False
    labels: Mapping[int, str] | None = None
    problem_type: str = MULTI_LABEL
    notes: list[str] = field(default_factory=list)


def read_source(path: str | os.PathLike, base: str | os.PathLike | None = None) -> BeatsSource:
    """
    The BEATs in the file `path`, or in a folder with one such file, of any of the layouts above.

    Args:
        path (`str` or `os.PathLike`): the file or folder.
        base (`str` or `os.PathLike`, *optional*): the BEATs that an ESPnet model was fine-tuned from, where its config.yaml
            does not say its architecture.

    Raises `ValueError`, which names the file, if it is none of them.
    """
    path = find_weights(path)
    content = read_weights(path)
    if isinstance(content, Mapping) and all(isinstance(content.get(key), Mapping) for key in ("cfg", "model")):
        return _read_beats(path, dict(content["cfg"]), dict(content["model"]), content.get("label_dict"))
    if isinstance(content, Mapping) and all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        if "encoder.patch_embedding.weight" in content:
            return _read_espnet(path, content, base)
        if any(f"{prefix}patch_embedding.weight" in content for prefix in (AVEX_PREFIX, "")):
            return _read_avex(path, content)
    found = list_names(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"checkpoint file {path} is no BEATs checkpoint: expected `cfg` and `model`, got {found}")


def find_weights(path: str | os.PathLike) -> Path:
    """The file of weights that `path` means. Raises `ValueError` if a folder has none or several."""
    path = Path(path)
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_ENDINGS)
    if len(files) != 1:
        found = list_names(file.name for file in files) or "none"
        raise ValueError(f"folder {path} must have one file of weights ({', '.join(WEIGHT_ENDINGS)}), got {found}")
    return files[0]


def read_weights(path: Path):
    """What is in a file of weights: tensors by name of safetensors, and else whatever was pickled."""
    if path.suffix != ".safetensors":
        return read_pickle(path)
    tensors = TensorFolder(path)
    return {name: tensors[name] for name in tensors}


def _read_beats(path: Path, cfg: dict, model: dict, label_dict: Mapping | None) -> BeatsSource:
    codebook = next((name for name in model if str(name).startswith("quantize")), None)
    if codebook is not None:
        raise ValueError(
            f"checkpoint file {path} is a BEATs tokenizer, with a codebook (`{codebook}`): it makes the targets that BEATs "
            "is trained on, and is no encoder of sounds. Take the BEATs of the same iteration"
        )
    if any(name in model for name in PADS):
        model = {name: tensor for name, tensor in model.items() if name not in PADS}
        return BeatsSource("OpenBEATs", ESPNET_DEFAULTS | cfg, model)
    return BeatsSource("BEATs", cfg, model, bool(cfg.get("finetuned_model", False)), label_dict)


def _read_espnet(path: Path, content: Mapping[str, torch.Tensor], base: str | os.PathLike | None) -> BeatsSource:
    settings = _read_yaml(path.parent / "config.yaml", "an ESPnet model has its settings and labels there")
    encoder, decoder = settings.get("encoder_conf") or {}, settings.get("decoder_conf") or {}
    wrong = [f"{name}={encoder[name]!r}" for name, plain in ESPNET_PLAIN.items() if encoder.get(name, plain) != plain]
    wrong += [
        f"{name}={settings[name]!r}" for name in ("normalize", "preencoder", "text_encoder") if settings.get(name)
    ]
    if decoder.get("pooling", "mean") != "mean":
        wrong.append(f"pooling={decoder['pooling']!r}")
    if settings.get("encoder", "beats") != "beats":
        wrong.append(f"encoder={settings['encoder']!r}")
    if wrong:
        raise ValueError(f"checkpoint file {path} has what no BEATs here has: {', '.join(wrong)}")
    cfg = encoder.get("beats_config")
    if cfg is None and base is not None:
        cfg = read_source(base).cfg
    if cfg is None:
        raise ValueError(
            f"checkpoint file {path} has no `beats_config` in its config.yaml: give the BEATs that it was fine-tuned from, "
            "whose architecture it has, with --beats"
        )
    cfg = (
        ESPNET_DEFAULTS | dict(cfg) | {name: encoder[name] for name in ("fbank_mean", "fbank_std") if name in encoder}
    )
    model = {name.removeprefix("encoder."): content[name] for name in content if name.startswith("encoder.")}
    model = {name: tensor for name, tensor in model.items() if name not in PADS}
    rest = [name for name in content if not name.startswith("encoder.")]
    heads = {f"decoder.linear_out.{part}": f"predictor.{part}" for part in ("weight", "bias")}
    unknown = [name for name in rest if name not in heads]
    if unknown:
        raise ValueError(f"checkpoint file {path} holds tensors that no BEATs has: {list_names(unknown)}")
    if not rest:
        return BeatsSource("ESPnet", cfg, model)
    model |= {heads[name]: content[name] for name in rest}
    classes, tokens = len(content["decoder.linear_out.weight"]), settings.get("token_list")
    labels = None
    if isinstance(tokens, list):  # the two at its end, for what is unknown and blank, have no row
        if len(tokens) != classes + 2:
            raise ValueError(f"checkpoint file {path} has {classes} classes, but its config.yaml {len(tokens)} tokens")
        labels = {index: str(token) for index, token in enumerate(tokens[:classes])}
    kind = (settings.get("model_conf") or {}).get("classification_type", "multi-class")
    return BeatsSource(
        "ESPnet",
        cfg | {"finetuned_model": True, "predictor_class": classes},
        model,
        True,
        labels,
        MULTI_LABEL if kind == "multi-label" else SINGLE_LABEL,
    )


def _read_avex(path: Path, content: Mapping[str, torch.Tensor]) -> BeatsSource:
    prefix = AVEX_PREFIX if f"{AVEX_PREFIX}patch_embedding.weight" in content else ""
    model = {name.removeprefix(prefix): content[name] for name in content if name.startswith(prefix)}
    # computed buffers, and the head of the BEATs that training began with, which is not used
    unused = re.compile(rf"{AVEX_BUFFERS.pattern}|^predictor\.|^classifier\.")
    model = {name: tensor for name, tensor in model.items() if not unused.search(name)}
    unknown = [name for name in content if not name.startswith(prefix) and not name.startswith("classifier.")]
    if unknown:
        raise ValueError(f"checkpoint file {path} holds tensors that no BEATs has: {list_names(unknown)}")
    files, notes = sorted(path.parent.glob("*.y*ml")), []
    cfg = {}
    for file in files:
        spec = _read_yaml(file, "").get("model_spec")
        cfg = (spec.get("init_config") or {}) if isinstance(spec, Mapping) else cfg
    if not cfg:
        notes.append(
            "no YAML file with `init_config` is beside it: it is taken to have the settings of all BEATs of AVEX"
        )
    source = BeatsSource("AVEX", AVEX_DEFAULTS | dict(cfg) | {"finetuned_model": False}, model, notes=notes)
    if "classifier.weight" in content:
        classes = len(content["classifier.weight"])
        source.model |= {f"predictor.{part}": content[f"classifier.{part}"] for part in ("weight", "bias")}
        source.cfg |= {"finetuned_model": True, "predictor_class": classes}
        source.is_fine_tuned = True
        if (path.parent / "label_map.json").is_file():
            mapping = read_json(path.parent / "label_map.json")
            source.labels = {index: str(label) for label, index in mapping.items()}
        else:
            notes.append("no label_map.json is beside it: labels are numbers")
    return source


def _read_yaml(file: Path, why: str) -> dict:
    if not file.is_file():
        raise ValueError(f"{file} is missing: {why}")
    if file.stat().st_size > MAX_YAML_BYTES:
        raise ValueError(f"{file} is no configuration: it has {file.stat().st_size:,} bytes")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} should hold settings by name, got {type(content).__name__}")
    return content
