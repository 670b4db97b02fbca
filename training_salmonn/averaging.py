# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The weighted mean of two adapters of one model, or of two BEATs with the same labels.

A model that went on training on something else has learnt that and forgotten some of the rest; somewhere between the two
lies one that is better than both (arXiv 2109.01903). How far to go is chosen on validation data.
"""

import shutil
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils import CONFIG_NAME as ADAPTER
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import CONFIG_NAME

from adapter_salmonn import find_different_parameters
from feature_extraction_beats import BeatsFeatureExtractor
from training_salmonn.beats_classifier import load_beats_classifier


def average(first: str | Path, second: str | Path, output: str | Path, weight: float = 0.5) -> Path:
    """
    Writes `(1 - weight) * first + weight * second`: of two adapters of one model, or of two models that
    `salmonn train-beats` trained. Settings, dtypes and the feature extractor are those of `first`. Returns `output`.

    Args:
        first: Folder of an adapter or of a BEATs.
        second: Folder of another one of the same kind, as a rule one that was trained on from `first`.
        output: Folder to write.
        weight: Share of `second`, from 0 to 1.

    Raises `ValueError` if `weight` is outside of [0, 1], if there is something in `output`, or if the two do not fit.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"`weight` must be in [0, 1], got {weight}.")
    if Path(output).exists() and any(Path(output).iterdir()):
        raise ValueError(f"`output` must be a new or empty folder, got {output}.")
    for name, folder in (("first", first), ("second", second)):
        if not any(Path(folder, file).is_file() for file in (ADAPTER, CONFIG_NAME)):
            raise ValueError(f"`{name}` must be the folder of an adapter or of a BEATs, got {folder}.")
    adapters = [Path(folder, ADAPTER).is_file() for folder in (first, second)]
    if adapters[0] != adapters[1]:
        raise ValueError(f"`first` and `second` must both be adapters or both be BEATs, got {first} and {second}.")
    return (_average_adapters if adapters[0] else _average_beats)(first, second, output, weight)


def _average_adapters(first: str | Path, second: str | Path, output: str | Path, weight: float) -> Path:
    """
    Writes the adapter `(1 - weight) * first + weight * second`, tensor by tensor, in the dtype of `first`. Returns `output`.

    Raises `ValueError` if the adapters belong to different models or have other tensors.
    """
    settings = PeftConfig.from_pretrained(str(first))
    others = PeftConfig.from_pretrained(str(second))
    for name in ("r", "lora_alpha", "target_modules", "modules_to_save"):
        if getattr(settings, name) != getattr(others, name):
            raise ValueError(
                f"`second` must have the {name} of `first`, {getattr(settings, name)}, got {getattr(others, name)}."
            )
    files = [Path(folder, SAFETENSORS_WEIGHTS_NAME) for folder in (first, second)]
    tensors, added = map(load_file, files)
    shapes, other_shapes = ({name: t.shape for name, t in part.items()} for part in (tensors, added))
    if shapes != other_shapes:
        different = sorted(set(shapes.items()) ^ set(other_shapes.items()))
        raise ValueError(f"`second` must have the tensors of `first`, but they differ in {different[0][0]}.")
    for name, tensor in tensors.items():
        if name.endswith("base_fingerprint"):
            if find_different_parameters(tensor.float(), added[name].float()).any():
                raise ValueError(f"`second` must be of the model of `first`, but {name} differs.")
        else:
            tensors[name] = tensor.float().lerp(added[name].float(), weight).to(tensor.dtype)
    with safe_open(files[0], framework="pt") as file:
        metadata = file.metadata()
    Path(output).mkdir(parents=True, exist_ok=True)
    for file in Path(first).glob("*.json"):
        shutil.copy(file, output)
    save_file(tensors, Path(output, SAFETENSORS_WEIGHTS_NAME), metadata=metadata)
    return Path(output)


def _average_beats(first: str | Path, second: str | Path, output: str | Path, weight: float) -> Path:
    """
    Writes the BEATs `(1 - weight) * first + weight * second`, tensor by tensor, in the dtype of `first`, with the labels
    of both and the feature extractor of `first`. Returns `output`.

    Raises `ValueError` if one is without a classifier, and if the two have other labels, or tensors of other shapes.
    """
    model, other = (load_beats_classifier(folder, dtype="auto") for folder in (first, second))
    if model.config.label2id != other.config.label2id:
        different = sorted(set(model.config.label2id.items()) ^ set(other.config.label2id.items()))
        raise ValueError(f"`second` must have the labels of `first`, but they differ in {different[0][0]!r}.")
    tensors, added = model.state_dict(), other.state_dict()
    for name, tensor in tensors.items():
        if name not in added or added[name].shape != tensor.shape:
            raise ValueError(f"`second` must have the tensors of `first`, but they differ in {name}.")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(tensor.float().lerp(added[name].float(), weight))
    model.save_pretrained(output)
    BeatsFeatureExtractor.from_pretrained(first).save_pretrained(output)
    return Path(output)
