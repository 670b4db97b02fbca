# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The weighted mean of two BEATs with the same labels, as [`~training_salmonn.averaging.average_adapters`] has it."""

from pathlib import Path

import torch
from transformers.utils import CONFIG_NAME

from data_salmonn.files import output_folder
from feature_extraction_beats import BeatsFeatureExtractor
from nano_salmonn.beats_classifier import load_beats_classifier
from training_salmonn.averaging import check_average


def average_beats(first: str | Path, second: str | Path, output: str | Path, weight: float = 0.5) -> Path:
    """
    Writes the BEATs `(1 - weight) * first + weight * second`, tensor by tensor, in the dtype of `first`, with the labels
    of both and the feature extractor of `first`. Returns `output`.

    Raises `ValueError` if `weight` is outside of [0, 1], if there is something in `output`, if one of the two is without
    a classifier, and if they have other labels, or tensors of other shapes.
    """
    check_average(output, weight)
    for name, folder in (("first", first), ("second", second)):
        if not Path(folder, CONFIG_NAME).is_file():
            raise ValueError(f"`{name}` must be the folder of a BEATs, got {folder}.")
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
    extractor = BeatsFeatureExtractor.from_pretrained(first)
    with output_folder(output) as folder:
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
    return Path(output)
