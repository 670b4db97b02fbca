# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The weighted mean of two adapters or two BEATs."""

import pytest
import torch
from peft.utils import load_peft_weights
from safetensors.torch import load_file
from tiny_training import small_model, small_processor, tones

from configuration_beats import BeatsConfig
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification
from training_salmonn.averaging import average
from training_salmonn.stages import load_adapter_weights


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters of one model, one of a model with another LLM, and one with another rank."""
    folder = tmp_path_factory.mktemp("averaging")
    for name, model_seed, seed, rank in (("a", 1, 1, 2), ("b", 1, 2, 2), ("foreign", 3, 3, 2), ("rank", 1, 4, 3)):
        model = small_model(seed=model_seed)
        model.add_adapter(model.lora_config(r=rank, lora_alpha=4))
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder / name, adapter_only=True)
    return folder


def test_the_mean_is_of_each_tensor(adapters, tmp_path):
    average(adapters / "a", adapters / "b", tmp_path / "mean", weight=0.25)
    first, second, mean = (
        load_peft_weights(str(path), "cpu") for path in (adapters / "a", adapters / "b", tmp_path / "mean")
    )
    assert first.keys() == mean.keys()
    changed = 0
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * second[name])
        changed += not tensor.equal(first[name])
    assert changed > 10


def test_the_mean_loads_and_hears(adapters, tmp_path):
    average(adapters / "a", adapters / "b", tmp_path / "mean", weight=0.0)
    features = small_processor().feature_extractor(tones(3), sampling_rate=16000, return_tensors="pt")
    outputs = []
    for folder in (adapters / "a", tmp_path / "mean", adapters / "b"):
        model = small_model(seed=1)
        model.add_adapter(model.lora_config(r=2, lora_alpha=4))
        load_adapter_weights(model, folder)
        with torch.no_grad():
            outputs.append(model.get_audio_features(**features).pooler_output)
    torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-3)


def test_adapters_that_do_not_fit_are_refused(adapters, tmp_path):
    with pytest.raises(ValueError, match="base_fingerprint"):
        average(adapters / "a", adapters / "foreign", tmp_path / "x")
    with pytest.raises(ValueError, match="`second` must have the r of"):
        average(adapters / "a", adapters / "rank", tmp_path / "x")
    with pytest.raises(ValueError, match="weight"):
        average(adapters / "a", adapters / "b", tmp_path / "x", weight=1.5)
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="output"):
        average(adapters / "a", adapters / "b", adapters / "b")


def test_a_model_of_another_precision_is_the_same_model(adapters, tmp_path):
    rounded = tmp_path / "rounded"
    model = small_model(seed=1).bfloat16()
    model.add_adapter(model.lora_config(r=2, lora_alpha=4))
    load_adapter_weights(model, adapters / "b")
    model.save_pretrained(rounded, adapter_only=True)

    average(adapters / "a", rounded, tmp_path / "mean")

    assert load_peft_weights(str(tmp_path / "mean"), "cpu").keys() == load_peft_weights(str(rounded), "cpu").keys()


# ----------------------------------------------------------------------------------------------------------------------
# BEATs


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
    average(beats / "a", beats / "b", tmp_path / "mean", weight=0.25)

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
        average(beats / "a", beats / other, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_encoder_alone_is_refused(beats, tmp_path):
    """It has the labels in its configuration, and no classifier: loading it would draw one at random."""
    encoder = BeatsForAudioClassification.from_pretrained(beats / "b").beats
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="encoder must be a BEATs with its classifier.*classifier.bias"):
        average(beats / "a", tmp_path / "encoder", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_folders_of_something_else_are_refused(adapters, beats, tmp_path):
    with pytest.raises(ValueError, match="`second` must be the folder of an adapter or of a BEATs"):
        average(beats / "a", tmp_path, tmp_path / "x")
    with pytest.raises(ValueError, match="both be adapters or both be BEATs"):
        average(adapters / "a", beats / "b", tmp_path / "x")
