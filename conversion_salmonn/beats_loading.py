# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A BEATs and its feature extractor, from any of the places in which one is kept:

    load_beats("BEATs.pt")          a released checkpoint
    load_beats("./beats")           a converted or trained folder, or a Hub id
    load_beats("./salmonn-13b")     the BEATs inside a SALMONN; of its LLM nothing is read
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig

# Importing this one tells Transformers' Auto classes about SALMONN.
import configuration_salmonn  # noqa: F401
from conversion_salmonn.checkpoint_io import TensorFolder, check_fits, collect, find_folder
from conversion_salmonn.convert_beats import FINE_TUNED, load_beats_checkpoint
from conversion_salmonn.folders import ADAPTER_FILES, check_model
from conversion_salmonn.loading import find_base
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification, BeatsModel


IN_SALMONN = "model.beats."


def load_beats(
    source: str | os.PathLike,
) -> tuple[BeatsModel | BeatsForAudioClassification, BeatsFeatureExtractor]:
    """
    Loads a BEATs in eval mode and float32, with its classifier if it has one.

    Args:
        source (`str` or `os.PathLike`):
            A released `.pt` file, a folder or Hub id of a BEATs, or one of a SALMONN or of an adapter of one.

    Returns:
        A [`BeatsForAudioClassification`] if there is a classifier, which a SALMONN never has, or else a [`BeatsModel`];
        and the [`BeatsFeatureExtractor`] that belongs to it.

    Raises:
        ValueError: if the source is none of these, is a SALMONN without BEATs, or has an adapter that changes its BEATs,
            or if its tensors are missing, unknown or of another size than the configuration says.
    """
    if Path(source).is_file():
        config, state, kind = load_beats_checkpoint(source)
        return _build(config, state, kind == FINE_TUNED, source), BeatsFeatureExtractor.from_model_config(config)
    check_model(source)
    folder = find_folder(find_base(source) or source, "model")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`model` {folder} has no configuration that can be read: {reason}") from error
    if config.model_type == "salmonn":
        if config.beats_config is None:
            raise ValueError(f"`model` {source} is a SALMONN without BEATs: it hears with Whisper alone.")
        _check_adapter_leaves_beats(source)
        config, state = config.beats_config, _read_part(folder)
        return _build(config, state, False, source), BeatsFeatureExtractor.from_model_config(config)
    if config.model_type != "beats":
        raise ValueError(f"`model` must be a BEATs or a SALMONN, got {source} of type {config.model_type!r}.")
    state = TensorFolder(folder)
    return _build(config, state, "classifier.weight" in state, source), _load_extractor(folder, config)


def _build(config, state: Mapping[str, torch.Tensor], has_classifier: bool, source):
    model_class = BeatsForAudioClassification if has_classifier else BeatsModel
    with torch.device("meta"):
        model = model_class(config)
    check_fits(state, model, f"`model` {source}")
    model.load_state_dict({name: state[name].float() for name in state}, assign=True)
    return model.eval()


def _read_part(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the BEATs in the folder of a SALMONN."""
    weights = TensorFolder(folder)
    names = {name: name.removeprefix(IN_SALMONN) for name in weights if name.startswith(IN_SALMONN)}
    return collect(weights, names, "BEATs")


def _check_adapter_leaves_beats(source: str | os.PathLike) -> None:
    file = Path(source) / ADAPTER_FILES[1]
    if file.is_file() and any(".beats." in name for name in TensorFolder(file)):
        raise ValueError(
            f"`model` {source} has an adapter that changes its BEATs: write the two as one with `salmonn merge` first."
        )


def _load_extractor(folder: Path, config) -> BeatsFeatureExtractor:
    if (folder / "preprocessor_config.json").is_file():
        return BeatsFeatureExtractor.from_pretrained(folder)
    return BeatsFeatureExtractor.from_model_config(config)
