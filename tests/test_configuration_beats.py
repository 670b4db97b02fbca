# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The configuration of BEATs: defaults, checks, and silence on import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from configuration_beats import BeatsConfig


ROOT = Path(__file__).resolve().parents[1]


def test_defaults_are_those_of_the_released_encoder():
    config = BeatsConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.patch_embed_dim, config.num_mel_bins, config.patch_size, config.num_patch_bands) == (
        512,
        128,
        16,
        8,
    )
    assert (config.num_buckets, config.max_bucket_distance, config.deep_norm) == (320, 800, True)
    assert config.problem_type == "multi_label_classification"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden_size": 770}, "`hidden_size` .770. must be a multiple of `num_attention_heads` .12."),
        ({"num_mel_bins": 120}, "`num_mel_bins` .120. must be a multiple of `patch_size` .16."),
        ({"num_conv_pos_embedding_groups": 7}, "`hidden_size` .768. must be a multiple of `num_conv_pos"),
        ({"num_buckets": 321}, "`num_buckets` must be even"),
        ({"max_bucket_distance": 80}, "`max_bucket_distance` .80. must exceed"),
        ({"patch_size": 0}, "`patch_size` must be at least 1"),
        ({"hidden_size": "768"}, "expected int"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        BeatsConfig(**settings)


def test_dropouts_may_be_written_as_zero():
    assert BeatsConfig(hidden_dropout=0, layerdrop=0).hidden_dropout == 0


def test_save_and_load(tmp_path):
    config = BeatsConfig(
        hidden_size=64, num_attention_heads=4, num_labels=5, problem_type="single_label_classification"
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, BeatsConfig)
    assert BeatsConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert (loaded.hidden_size, loaded.num_labels, loaded.problem_type) == (64, 5, "single_label_classification")
    assert BeatsConfig(**config.to_diff_dict()).to_dict() == config.to_dict()


def test_labels_set_the_number_of_classes():
    assert BeatsConfig(id2label={0: "dog", 1: "rain", 2: "speech"}).num_labels == 3


@pytest.mark.ecosystem
def test_import_and_construction_are_silent():
    code = "import modeling_beats, feature_extraction_beats; modeling_beats.BeatsConfig()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == ""
    assert result.stderr == ""
