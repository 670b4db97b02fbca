# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The weighted mean of two BEATs."""

import pytest
import torch
from safetensors.torch import load_file

from configuration_beats import BeatsConfig
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification
from nano_salmonn.average_beats import average_beats


@pytest.fixture(scope="module")
def beats(tmp_path_factory):
    """Two BEATs of the same labels in float16, one with other labels, and one of another width."""
    folder = tmp_path_factory.mktemp("beats")
    for name, second, width in (("a", "dog", 32), ("b", "dog", 32), ("labels", "cat", 32), ("wide", "dog", 64)):
        torch.manual_seed(len(list(folder.iterdir())))
        sizes = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
        id2label = {0: "bell", 1: second}
        label2id = {label: number for number, label in id2label.items()}
        config = BeatsConfig(**sizes, patch_embed_dim=24, label2id=label2id, id2label=id2label)
        BeatsForAudioClassification(config).half().save_pretrained(folder / name)
        BeatsFeatureExtractor().save_pretrained(folder / name)
    return folder


def test_the_mean_of_two_beats(beats, tmp_path):
    average_beats(beats / "a", beats / "b", tmp_path / "mean", weight=0.25)

    folders = (beats / "a", beats / "b", tmp_path / "mean")
    first, second, mean = (load_file(folder / "model.safetensors") for folder in folders)
    assert mean.keys() == first.keys()
    changed = 0
    for name, tensor in mean.items():
        assert tensor.dtype == torch.float16
        expected = 0.75 * first[name].double() + 0.25 * second[name].double()
        torch.testing.assert_close(tensor, expected.half(), atol=0, rtol=1e-3)  # the last bit of float16
        changed += not tensor.equal(first[name])
    assert changed > 10
    model = BeatsForAudioClassification.from_pretrained(tmp_path / "mean")
    assert model.config.label2id == {"bell": 0, "dog": 1}
    assert BeatsFeatureExtractor.from_pretrained(tmp_path / "mean").sampling_rate == 16000


@pytest.mark.parametrize(
    ("other", "message"), [("labels", "the labels of `first`.*'cat'"), ("wide", "the tensors of `first`")]
)
def test_beats_that_do_not_fit_are_refused(beats, tmp_path, other, message):
    with pytest.raises(ValueError, match=message):
        average_beats(beats / "a", beats / other, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_encoder_alone_is_refused(beats, tmp_path):
    """It has the labels in its configuration, and no classifier: loading it would draw one at random."""
    encoder = BeatsForAudioClassification.from_pretrained(beats / "b").beats
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="encoder must be a BEATs with its classifier.*classifier.bias"):
        average_beats(beats / "a", tmp_path / "encoder", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_folders_of_something_else_are_refused(beats, tmp_path):
    with pytest.raises(ValueError, match="`second` must be the folder of a BEATs"):
        average_beats(beats / "a", tmp_path, tmp_path / "x")
