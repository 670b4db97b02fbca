# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A model and its adapter as one model."""

import json

import pytest
import torch
from peft import LoHaConfig
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM, AutoProcessor, GenerationConfig

from conversion_salmonn import merge as merging
from conversion_salmonn.folders import ADAPTER_FILES
from conversion_salmonn.loading import load_with_adapter
from conversion_salmonn.merge import merge
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merge")
    config = tiny_config()
    base = tiny_model(config)
    base.generation_config.max_new_tokens = 7
    base.save_pretrained(folder / "base")
    tiny_processor(config).save_pretrained(folder / "base")
    with_adapter(AutoModelForMultimodalLM.from_pretrained(folder / "base")).save_pretrained(
        folder / "adapter", adapter_only=True
    )
    return folder


def test_the_merged_model_answers_as_before(trained, tmp_path):
    merge(trained / "base", tmp_path / "merged", adapter=trained / "adapter")

    assert not [name for name in ADAPTER_FILES if (tmp_path / "merged" / name).exists()]
    # what engines need beside the weights, and what a reader does
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja", "modeling_salmonn.py", "README.md"):
        assert (tmp_path / "merged" / name).is_file()
    assert GenerationConfig.from_pretrained(tmp_path / "merged").max_new_tokens == 7
    merged = AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged").eval()
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    before, _ = load_with_adapter(trained / "base", trained / "adapter")
    inputs = ask(processor, question(noise(2.0)))
    with torch.no_grad():
        logits, expected = merged(**inputs).logits, before(**inputs).logits
        plain = load_with_adapter(trained / "base")[0](**inputs).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert (plain - expected).abs().max() > 1  # what was merged matters


def test_lora_may_stay_an_adapter(trained, tmp_path):
    """Beside a model that has the connector of the adapter, and of which engines can add LoRA themselves."""
    merge(trained / "base", tmp_path / "served", adapter=trained / "adapter", keep_lora=True)
    settings = json.loads((tmp_path / "served" / "lora" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "served" / "lora" / "adapter_model.safetensors")
    assert settings["modules_to_save"] is None and all(".lora_" in name for name in tensors)
    assert sorted(path.name for path in (tmp_path / "served" / "lora").iterdir()) == sorted(ADAPTER_FILES)

    base, before = (
        load_file(tmp_path / "served" / "model.safetensors"),
        load_file(trained / "base" / "model.safetensors"),
    )
    changed = {name for name in base if not torch.equal(base[name], before[name])}
    assert changed and all(name.startswith(("model.connector.", "model.speech_", "model.beats_")) for name in changed)
    served, processor = load_with_adapter(tmp_path / "served", tmp_path / "served" / "lora")
    expected, _ = load_with_adapter(trained / "base", trained / "adapter")
    inputs = ask(processor, question(noise(2.0)))
    with torch.no_grad():
        torch.testing.assert_close(served(**inputs).logits, expected(**inputs).logits, atol=1e-4, rtol=1e-4)
        without = load_with_adapter(tmp_path / "served")[0](**inputs).logits
    assert (without - expected(**inputs).logits).abs().max() > 1e-2  # LoRA matters
    expected.peft_config["default"].use_dora = True
    with pytest.raises(ValueError, match="`keep_lora` must be left out for DoRA"):
        merging.check_mergeable(expected, "base", keep_lora=True)


def test_all_weights_may_have_another_dtype(trained, tmp_path, monkeypatch):
    # a random model is sure of nothing: its answers may change with the rounding
    monkeypatch.setattr(merging, "answer_ids", lambda model, processor: [[1]])
    merge(trained / "base", tmp_path / "merged", adapter=trained / "adapter", dtype="bfloat16")

    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if "fingerprint" not in name} == {torch.bfloat16}


def test_what_cannot_be_merged_is_refused(trained, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="has no adapter to merge"):
        merge(trained / "base", tmp_path / "merged")
    model, _ = load_with_adapter(trained / "base", trained / "adapter")
    model.is_quantized = True
    with pytest.raises(ValueError, match="is quantized"):
        merging.check_mergeable(model, "base")
    other, _ = load_with_adapter(trained / "base")
    other.add_adapter(LoHaConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="must be LoRA to be merged, got LOHA"):
        merging.check_mergeable(other, "base")

    answers = iter([[[1, 2, 3], [4]], [[1, 2, 5], [4]]])
    monkeypatch.setattr(merging, "answer_ids", lambda model, processor: next(answers))
    with pytest.raises(ValueError, match="otherwise after 2 of 3 tokens: .* float32"):
        merge(trained / "base", tmp_path / "merged", adapter=trained / "adapter")
    assert not any(tmp_path.iterdir())  # nothing is left of any
