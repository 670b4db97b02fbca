# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A connector that was trained on speech alone, in a model with BEATs."""

import shutil

import pytest
import torch
from tiny_training import small_config, small_model, small_processor, tones

from modeling_salmonn import SalmonnForConditionalGeneration
from nano_salmonn.widen import pad_inputs, widen_adapter
from training_salmonn.alignment import HEAD_FILE
from training_salmonn.stages import load_adapter_weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model with BEATs, a speech-only model of the same Whisper and LLM, and its adapter."""
    folder = tmp_path_factory.mktemp("widen")
    wide, narrow = small_model(seed=1), small_model_without_beats()
    narrow.model.speech_encoder.load_state_dict(wide.model.speech_encoder.state_dict())
    for name, model in (("wide", wide), ("narrow", narrow)):
        model.save_pretrained(folder / name)
        small_processor(**({} if name == "wide" else {"beats_config": None})).save_pretrained(folder / name)
    narrow.add_adapter(narrow.lora_config(r=2, lora_alpha=4))
    with torch.no_grad():
        for part in ("lora_", "modules_to_save"):
            for name, parameter in narrow.named_parameters():
                if part in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    narrow.save_pretrained(folder / "adapter", adapter_only=True)
    return folder, narrow


def small_model_without_beats():
    torch.manual_seed(2)
    narrow = SalmonnForConditionalGeneration._from_config(small_config(beats_config=None)).eval()
    narrow.model.language_model.load_state_dict(small_model().model.language_model.state_dict())
    narrow.lm_head.load_state_dict(small_model().lm_head.state_dict())
    return narrow


def encode(model, processor) -> torch.Tensor:
    features = processor.feature_extractor(tones(3), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return model.get_audio_features(**features).pooler_output


def test_the_wider_connector_hears_what_the_narrow_one_heard(folders, tmp_path):
    folder, narrow = folders
    wide = small_model(seed=1)

    widen_adapter(folder / "wide", folder / "adapter", tmp_path / "widened")
    wide.add_adapter(wide.lora_config(r=2, lora_alpha=4))
    load_adapter_weights(wide, tmp_path / "widened")

    expected = encode(narrow, small_processor(beats_config=None))
    torch.testing.assert_close(encode(wide, small_processor()), expected, atol=1e-5, rtol=1e-5)
    assert expected.abs().max() > 1e-2


def test_the_head_of_a_warm_up_comes_along(folders, tmp_path):
    folder, _ = folders
    shutil.copytree(folder / "adapter", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / HEAD_FILE).write_bytes(b"head")

    widen_adapter(folder / "wide", tmp_path / "checkpoint", tmp_path / "widened")

    assert (tmp_path / "widened" / HEAD_FILE).read_bytes() == b"head"


def test_another_adapters_lora_comes_along(folders, tmp_path):
    folder, narrow = folders
    wide = small_model(seed=1)
    wide.add_adapter(wide.lora_config(r=2, lora_alpha=4))
    trained = {name: torch.randn_like(tensor) for name, tensor in lora_of(wide).items()}
    wide.load_state_dict(trained, strict=False)
    wide.save_pretrained(tmp_path / "trained", adapter_only=True)

    widen_adapter(folder / "wide", folder / "adapter", tmp_path / "widened", lora=tmp_path / "trained")
    both = small_model(seed=1)
    both.add_adapter(both.lora_config(r=2, lora_alpha=4))
    load_adapter_weights(both, tmp_path / "widened")

    assert len(trained) > 4
    torch.testing.assert_close(lora_of(both), trained)
    expected = encode(narrow, small_processor(beats_config=None))
    torch.testing.assert_close(encode(both, small_processor()), expected, atol=1e-5, rtol=1e-5)

    wide = small_model(seed=1)
    wide.add_adapter(wide.lora_config(r=3, lora_alpha=4))
    wide.save_pretrained(tmp_path / "other", adapter_only=True)
    with pytest.raises(ValueError, match="`lora` must have the r of `adapter`, 2, got 3"):
        widen_adapter(folder / "wide", folder / "adapter", tmp_path / "x", lora=tmp_path / "other")


def lora_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if ".lora_" in name}


def test_what_does_not_fit_is_refused(folders, tmp_path):
    folder, _ = folders

    with pytest.raises(ValueError, match="`model` must have BEATs, got the speech-only"):
        widen_adapter(folder / "narrow", folder / "adapter", tmp_path / "x")
    with pytest.raises(ValueError, match=r"`adapter` must fit into the model, but w has \(2, 3\) for \(3, 3\)"):
        pad_inputs("w", torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"w has \(2, 4\) for \(2, 3\)"):
        pad_inputs("w", torch.zeros(2, 4), torch.zeros(2, 3))
    assert not (tmp_path / "x").exists()
