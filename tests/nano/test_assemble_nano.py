# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""salmonn-nano, assembled: of tiny parts here, and of its real ones where they can be fetched."""

import inspect
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_assemble import LLM, QFORMER, WHISPER, answer, train

from configuration_beats import BeatsConfig
from conversion_salmonn.parts import RANDOM_SMALL_BEATS
from modeling_beats import BeatsForAudioClassification
from nano_salmonn import assemble as module


@pytest.fixture
def nano(tmp_path, monkeypatch):
    """`salmonn-nano` of tiny parts instead of its own, and a checkpoint of it."""
    monkeypatch.setattr(module, "NANO", {**module.NANO, "whisper": WHISPER, "llm": LLM, "qformer": QFORMER})
    checkpoint = tmp_path / "checkpoint"
    torch.manual_seed(3)
    beats = BeatsForAudioClassification(BeatsConfig(**RANDOM_SMALL_BEATS, num_labels=5))
    beats.save_pretrained(tmp_path / "beats")
    train(module.assemble_nano(tmp_path / "base", None, beats=tmp_path / "beats"), checkpoint / "adapter")
    beats.half().save_pretrained(checkpoint / "beats")  # trained on in float32, and kept in float16
    return checkpoint


def test_nano_of_a_checkpoint(tmp_path, nano):
    (nano / "README.md").write_text("the card of nano")
    folder = module.assemble_nano(tmp_path / "nano", nano, dtype="float16")
    assert (folder / "README.md").read_text() == "the card of nano" and not (folder / "LICENSE.md").exists()
    model, logits = answer(folder)
    assert model._hf_peft_config_loaded and logits.isfinite().all()
    beats = load_file(nano / "beats" / "model.safetensors")
    weights = load_file(folder / "model.safetensors")
    assert any(name.startswith("classifier.") for name in beats)
    for name, tensor in beats.items():
        if name.startswith("beats."):
            assert torch.equal(weights[f"model.{name}"], tensor), name
    assert not model.config.fixed_length and model.config.pad_last_window


def test_nano_without_a_checkpoint_is_untrained(tmp_path, nano):
    folder = module.assemble_nano(tmp_path / "nano", None, seed=1, qformer={"num_hidden_layers": 1})
    model, _ = answer(folder)
    assert "connector is random" in (folder / "README.md").read_text()
    assert not model._hf_peft_config_loaded
    assert (model.config.qformer_config.num_hidden_layers, model.config.qformer_config.hidden_size) == (1, 32)


def test_nano_refuses_a_beats_that_its_adapter_does_not_know(tmp_path, nano):
    torch.manual_seed(4)
    BeatsForAudioClassification(BeatsConfig(**RANDOM_SMALL_BEATS)).save_pretrained(nano / "beats")
    with pytest.raises(ValueError, match="trained on other base weights: .* in beats "):
        module.assemble_nano(tmp_path / "new" / "nano", nano)
    assert not list(tmp_path.glob("new/*"))


def test_nano_refuses(tmp_path, nano, monkeypatch):
    with pytest.raises(ValueError, match="cannot be combined with beats, seed"):
        module.assemble_nano(tmp_path / "new", nano, seed=1, beats="random-small", overwrite=True)
    shutil.rmtree(nano / "beats")
    with pytest.raises(ValueError, match=r"lacks .*checkpoint/beats\. Name the"):
        module.assemble_nano(tmp_path / "new", nano)
    assert not (tmp_path / "new").exists()


def test_checkpoint_of_nano_is_looked_for_in_the_repository():
    assert module.NANO_CHECKPOINT == Path(__file__).parents[2] / "checkpoints" / "salmonn-nano"
    assert inspect.signature(module.assemble_nano).parameters["checkpoint"].default == module.NANO_CHECKPOINT


@pytest.mark.slow
def test_nano_of_real_parts(tmp_path):
    model, logits = answer(module.assemble_nano(tmp_path / "nano", None))
    assert logits.isfinite().all()
    assert model.config.text_config.vocab_size == 49153


@pytest.mark.slow
@pytest.mark.skipif(not module.NANO_CHECKPOINT.is_dir(), reason="this copy of the project has no checkpoint")
def test_nano_hears_speech(tmp_path):
    from jiwer import wer

    from cli_salmonn.inference import decode, load, prepare
    from demo_salmonn.speech import speak

    sentences = (
        "the harbour was quiet that morning",
        "she gave him a glass of cold water",
        "the old man walked slowly to the house",
        "they bought bread and milk at the market",
        "he wants to learn how to play the piano",
    )
    model, processor = load(module.assemble_nano(tmp_path / "nano"), device="cpu")
    heard = []
    for sentence in sentences:
        inputs = prepare(processor, speak(sentence), "Transcribe the speech.")
        output = model.generate(**inputs, max_new_tokens=40, num_beams=1)
        heard.append(re.sub(r"[^a-z' ]", "", decode(processor, inputs, output).lower()))
    # the checkpoint has 0.15 here; other words than those spoken would give 1
    assert wer(list(sentences), heard) < 0.3, heard
