# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""An adapter with BEATs silenced: the model hears Whisper and nothing else."""

import pytest
import torch
from tiny_training import small_model, small_processor, tones

from nano_salmonn.silence_beats import silence_beats
from training_salmonn.stages import load_adapter_weights


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    model = small_model(seed=1)
    model.add_adapter(model.lora_config(r=2, lora_alpha=4))
    model.save_pretrained(folder / "adapter", adapter_only=True)
    return folder / "adapter"


def encode(folder, fbank_gain: float) -> torch.Tensor:
    model, processor = small_model(seed=1), small_processor()
    model.add_adapter(model.lora_config(r=2, lora_alpha=4))
    load_adapter_weights(model, folder)
    features = processor.feature_extractor(tones(3), sampling_rate=16000, return_tensors="pt")
    mel_bins = model.config.speech_config.num_mel_bins
    features["input_features"][:, mel_bins:] *= fbank_gain
    with torch.no_grad():
        return model.get_audio_features(**features).pooler_output


def test_only_whisper_is_heard(adapter, tmp_path):
    silenced = silence_beats(adapter, tmp_path / "silenced")

    # what BEATs is given makes a difference to the adapter, and none to the silenced one
    assert not torch.allclose(encode(adapter, 1.0), encode(adapter, -1.0), atol=1e-3)
    torch.testing.assert_close(encode(silenced, 1.0), encode(silenced, -1.0), atol=0, rtol=0)
    assert not torch.allclose(encode(silenced, 1.0), encode(adapter, 1.0), atol=1e-3)


def test_what_is_no_adapter_with_beats_is_refused(adapter, tmp_path):
    with pytest.raises(ValueError, match="must be a folder with adapter_model.safetensors"):
        silence_beats(tmp_path, tmp_path / "new")
    with pytest.raises(ValueError, match="exists and is not empty"):
        silence_beats(adapter, adapter)
