# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Convert published BEATs checkpoints: `BEATs_iter3_plus_AS2M.pt` (self-supervised) to a [`BeatsModel`] folder, and
`BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt` (fine-tuned on AudioSet) to a [`BeatsForAudioClassification`] folder; and
those of others, see [`beats_sources`].

>>> from conversion_salmonn.convert_beats import convert_beats
>>> convert_beats("BEATs_iter3_plus_AS2M.pt", "beats-iter3-plus")
"""

import logging
import os
import re
from pathlib import Path

import torch

from configuration_beats import MAX_WIDTH, BeatsConfig
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification, BeatsModel

from .beats_card import save_beats_card
from .beats_sources import BeatsSource, read_source
from .checkpoint_io import check_fits, list_names, output_folder


logger = logging.getLogger(__name__)

# The two kinds of released checkpoints.
FINE_TUNED = "fine-tuned"
SELF_SUPERVISED = "self-supervised"

# Our name of a setting -> the released one. Their values are needed to build the model.
ARCHITECTURE = {
    "patch_size": "input_patch_size",
    "patch_embed_dim": "embed_dim",
    "conv_bias": "conv_bias",
    "hidden_size": "encoder_embed_dim",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_embed_dim",
    "hidden_act": "activation_fn",
    "num_conv_pos_embeddings": "conv_pos",
    "num_conv_pos_embedding_groups": "conv_pos_groups",
    "num_buckets": "num_buckets",
    "max_bucket_distance": "max_distance",
    "deep_norm": "deep_norm",
}
# These matter in training only: the defaults of `BeatsConfig` will do where a checkpoint is silent.
REGULARISATION = {
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "dropout_input",
    "layerdrop": "encoder_layerdrop",
    "classifier_dropout": "predictor_dropout",
}
# Of the filter banks, where a checkpoint has its own.
FEATURES = {"fbank_mean": "fbank_mean", "fbank_std": "fbank_std"}
# What every released checkpoint has and `BeatsModel` is built for.
FIXED = {"layer_norm_first": False, "relative_position_embedding": True, "gru_rel_pos": True}

# Released names -> ours, applied in this order to each tensor.
RENAMED = [
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.weight_g$", "pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.", "pos_conv_embed.conv."),
    (r"^encoder\.layers\.0\.self_attn\.relative_attention_bias\.", "relative_attention_bias."),
    (r"^encoder\.", ""),
    (r"\.self_attn\.grep_linear\.", ".self_attn.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".self_attn.gru_rel_pos_const"),
]
SHARED_BIAS = re.compile(r"^encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight$")
FIRST_BIAS = "encoder.layers.0.self_attn.relative_attention_bias.weight"
CLASSIFIER = {"predictor.weight": "classifier.weight", "predictor.bias": "classifier.bias"}


def build_beats_config(cfg: dict) -> BeatsConfig:
    """
    The [`BeatsConfig`] of the `cfg` of a released checkpoint.

    Raises:
        ValueError: if `cfg` lacks a setting of the architecture, or describes one that no released checkpoint has.
    """
    missing = {*ARCHITECTURE.values(), *FIXED} - cfg.keys()
    if missing:
        raise ValueError(f"`cfg` is not that of a BEATs encoder, it lacks {list_names(missing)}")
    for name, expected in FIXED.items():
        if cfg[name] != expected:
            raise ValueError(f"`cfg['{name}']` must be {expected}, as in all released BEATs, got {cfg[name]}")
    settings = {ours: cfg[theirs] for ours, theirs in ARCHITECTURE.items()}
    optional = REGULARISATION | FEATURES
    settings.update({ours: cfg[theirs] for ours, theirs in optional.items() if theirs in cfg})
    try:
        return BeatsConfig(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`cfg` describes no valid BEATs: {error}") from error


def build_beats_state_dict(source_state: dict[str, torch.Tensor], config: BeatsConfig) -> dict[str, torch.Tensor]:
    """
    Rename the tensors of a released encoder to those of [`BeatsModel`].

    Args:
        source_state (`dict[str, torch.Tensor]`):
            The `model` of a released checkpoint. The predictor of a fine-tuned one is left out, and so are the copies
            of the position bias that each layer holds: they must equal that of the first layer.
        config ([`BeatsConfig`]):
            The sizes that the tensors must have.

    Raises:
        ValueError: if tensors are missing, unknown or of another shape, or if the position biases differ.
    """
    state = {}
    for name, tensor in source_state.items():
        if name in CLASSIFIER:
            continue
        if SHARED_BIAS.match(name) and name != FIRST_BIAS:
            if FIRST_BIAS in source_state and not torch.equal(tensor, source_state[FIRST_BIAS]):
                raise ValueError(f"`{name}` differs from `{FIRST_BIAS}`: all layers share one position bias")
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor

    with torch.device("meta"):
        model = BeatsModel(config)
    check_fits(state, model, "the BEATs encoder")
    return state


def build_id2label(cfg: dict, label_dict: dict | None) -> dict[int, str]:
    """
    The label of each class of a fine-tuned checkpoint; those of AudioSet are identifiers such as `/m/09x0r` (speech).

    Raises:
        ValueError: if `label_dict` does not name each class once.
    """
    if "predictor_class" not in cfg:
        raise ValueError("`cfg` lacks `predictor_class`, the number of classes")
    num_labels = cfg["predictor_class"]
    if not isinstance(num_labels, int) or not 1 <= num_labels <= MAX_WIDTH:
        raise ValueError(f"`cfg['predictor_class']` must be a number of classes up to {MAX_WIDTH}, got {num_labels!r}")
    if not label_dict:
        return {index: f"LABEL_{index}" for index in range(num_labels)}
    labels = {int(index): str(label) for index, label in sorted(label_dict.items())}
    if labels.keys() != set(range(num_labels)) or len(set(labels.values())) != num_labels:
        raise ValueError(f"`label_dict` must give each of the {num_labels} classes a label of its own")
    return labels


def load_beats_checkpoint(
    path: str | os.PathLike, base: str | os.PathLike | None = None
) -> tuple[BeatsConfig, dict[str, torch.Tensor], str]:
    """
    Read a published BEATs checkpoint, without running any code that it may contain.

    Args:
        path (`str` or `os.PathLike`):
            A `.pt` file with `cfg` and `model`, and `label_dict` if it is fine-tuned, or another that [`read_source`] knows.
        base (`str` or `os.PathLike`, *optional*):
            As for [`read_source`].

    Returns:
        The config, the weights under the names of [`BeatsForAudioClassification`] if the checkpoint is fine-tuned and
        of [`BeatsModel`] if not, and which of the two it is: `"fine-tuned"` or `"self-supervised"`.

    Raises:
        ValueError: if the file is missing, damaged or no BEATs encoder, or holds tensors that do not fit; it names the
            file and the tensors.
    """
    return _load(path, read_source(path, base))


def _load(path: str | os.PathLike, source: BeatsSource) -> tuple[BeatsConfig, dict[str, torch.Tensor], str]:
    cfg, source_state = source.cfg, source.model
    try:
        config = build_beats_config(cfg)
        state = build_beats_state_dict(source_state, config)
        classifier = {ours: source_state[theirs] for theirs, ours in CLASSIFIER.items() if theirs in source_state}
        if not source.is_fine_tuned:
            if classifier:
                raise ValueError("it has a predictor, but its `cfg` says that it is not fine-tuned")
            return config, state, SELF_SUPERVISED

        config.id2label = build_id2label(cfg, source.labels)
        config.problem_type = source.problem_type
        config.label2id = {label: index for index, label in config.id2label.items()}
        state = {f"beats.{name}": tensor for name, tensor in state.items()} | classifier
        with torch.device("meta"):
            model = BeatsForAudioClassification(config)
        check_fits(state, model, "the fine-tuned model")
    except (ValueError, TypeError) as error:
        raise ValueError(f"checkpoint file {path} cannot be converted: {error}") from error
    return config, state, FINE_TUNED


def convert_beats(
    path: str | os.PathLike,
    output_dir: str | os.PathLike,
    overwrite: bool = False,
    base: str | os.PathLike | None = None,
) -> Path:
    """
    Convert a published BEATs checkpoint to a folder that `from_pretrained` loads, alone or with this project installed.

    The folder appears at once and complete, or not at all.

    Args:
        path (`str` or `os.PathLike`):
            The released `.pt` file, see [`load_beats_checkpoint`].
        output_dir (`str` or `os.PathLike`):
            The folder to write: weights, `config.json`, `preprocessor_config.json`, a model card and the code of the model.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace the folder if it exists and is not empty.
        base (`str` or `os.PathLike`, *optional*):
            As for [`read_source`].

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: if `output_dir` is a file, or a folder that is not empty and `overwrite` is not set, or if the
            checkpoint cannot be converted.
    """
    with output_folder(output_dir, overwrite=overwrite) as folder:
        source = read_source(path, base)
        for note in source.notes:
            logger.warning("%s: %s", path, note)
        config, state, kind = _load(path, source)
        model_class = BeatsForAudioClassification if kind == FINE_TUNED else BeatsModel
        with torch.device("meta"):
            model = model_class(config)
        model.load_state_dict(state, assign=True)
        model.save_pretrained(folder)
        BeatsFeatureExtractor.from_model_config(config).save_pretrained(folder)
        save_beats_card(folder, Path(path).name, source.family, config)
    return Path(output_dir)


__all__ = ["build_beats_config", "build_beats_state_dict", "convert_beats", "load_beats_checkpoint"]
