# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The weighted mean of two adapters."""

import shutil

import pytest
import torch
from peft.utils import load_peft_weights
from tiny_training import small_model, small_processor, tones
from transformers import AutoProcessor

from training_salmonn.averaging import average_adapters, mean_weights
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
    average_adapters(adapters / "a", adapters / "b", tmp_path / "mean", weight=0.25)
    first, second, mean = (
        load_peft_weights(str(path), "cpu") for path in (adapters / "a", adapters / "b", tmp_path / "mean")
    )
    assert first.keys() == mean.keys()
    changed = 0
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * second[name])
        changed += not tensor.equal(first[name])
    assert changed > 10


def test_the_processor_comes_along(adapters, tmp_path):
    first = shutil.copytree(adapters / "a", tmp_path / "first")
    small_processor().save_pretrained(first)
    (first / "trainer_state.json").write_text("{}")
    (first / "optimizer.pt").write_text("")

    average_adapters(first, adapters / "b", tmp_path / "mean")

    assert AutoProcessor.from_pretrained(tmp_path / "mean").chat_template == small_processor().chat_template
    assert (
        not (tmp_path / "mean" / "trainer_state.json").exists() and not (tmp_path / "mean" / "optimizer.pt").exists()
    )


def test_the_mean_loads_and_hears(adapters, tmp_path):
    average_adapters(adapters / "a", adapters / "b", tmp_path / "mean", weight=0.0)
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
    with pytest.raises(ValueError, match="must be of the model of `first`, but .* base weights differ"):
        average_adapters(adapters / "a", adapters / "foreign", tmp_path / "x")
    with pytest.raises(ValueError, match="`second` must have the r of"):
        average_adapters(adapters / "a", adapters / "rank", tmp_path / "x")
    with pytest.raises(ValueError, match="weight"):
        average_adapters(adapters / "a", adapters / "b", tmp_path / "x", weight=1.5)
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="output"):
        average_adapters(adapters / "a", adapters / "b", adapters / "b")


def test_a_model_of_another_precision_is_the_same_model(adapters, tmp_path):
    rounded = tmp_path / "rounded"
    model = small_model(seed=1).bfloat16()
    model.add_adapter(model.lora_config(r=2, lora_alpha=4))
    load_adapter_weights(model, adapters / "b")
    model.save_pretrained(rounded, adapter_only=True)

    average_adapters(adapters / "a", rounded, tmp_path / "mean")

    assert load_peft_weights(str(tmp_path / "mean"), "cpu").keys() == load_peft_weights(str(rounded), "cpu").keys()


def test_folders_of_something_else_are_refused(adapters, tmp_path):
    with pytest.raises(ValueError, match="`second` must be the folder of an adapter"):
        average_adapters(adapters / "a", tmp_path, tmp_path / "x")


def test_the_mean_of_several_is_of_each_tensor(adapters, tmp_path):
    shutil.copytree(adapters / "a", tmp_path / "c")
    folders = [adapters / "a", adapters / "b", tmp_path / "c"]
    first, second = (load_peft_weights(str(path), "cpu") for path in folders[:2])
    mean = mean_weights(folders)
    assert first.keys() <= mean.keys()
    for name in first:
        torch.testing.assert_close(mean[name], (2 * first[name] + second[name]) / 3)


def test_what_has_no_mean_is_refused(adapters, tmp_path):
    with pytest.raises(ValueError, match="at least one adapter, got none"):
        mean_weights([])
    with pytest.raises(ValueError, match="must hold adapters, got"):
        mean_weights([adapters / "a", tmp_path])
    with pytest.raises(ValueError, match="but those of .*rank are others"):
        mean_weights([adapters / "a", adapters / "rank"])
