"""examples/finetune_beats.py: a BEATs learns classes from a folder of clips, and everything takes it."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

from beats_salmonn import Tagger
from configuration_beats import BeatsConfig
from examples.finetune_beats import finetune
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification, BeatsModel


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TONES = {"high": 4000, "low": 200}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name, hertz in TONES.items():
        (folder / name).mkdir()
        for number in range(4):
            time = np.arange(8000 + 1600 * number) / 16000
            samples = 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * rng.standard_normal(len(time))
            soundfile.write(folder / name / f"{number}.wav", samples, 16000)
    return folder


@pytest.mark.parametrize("start", ["encoder", "classifier of other classes"])
def test_it_learns_and_is_taken(tmp_path, clips, start):
    torch.manual_seed(0)
    config = BeatsConfig(**SIZES, patch_embed_dim=24, layerdrop=0.0, num_labels=5)
    model_class = BeatsModel if start == "encoder" else BeatsForAudioClassification
    model_class(config).save_pretrained(tmp_path / "beats")
    BeatsFeatureExtractor().save_pretrained(tmp_path / "beats")
    settings = {"max_steps": 20, "learning_rate": 3e-3, "report_to": "none", "logging_steps": 4, "use_cpu": True}
    trainer = finetune(str(tmp_path / "beats"), str(clips), str(tmp_path / "out"), **settings)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0] / 2
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in trainer.model.parameters())
    classify = pipeline("audio-classification", str(tmp_path / "out"))
    for name in TONES:
        samples, _ = soundfile.read(clips / name / "0.wav", dtype="float32")  # files need ffmpeg
        assert classify(samples)[0]["label"] == name
    (tags,) = Tagger(tmp_path / "out").tag([clips / "low" / "1.wav"], window=0.5)
    assert tags.labels[tags.top(1)[0]] == "low"


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two or more classes, got"):
        finetune("model", str(tmp_path), str(tmp_path / "out"))
