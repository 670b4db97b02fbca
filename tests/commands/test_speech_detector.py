# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The verdict that nothing is said, and transcripts that leave out what it is of."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from beats_salmonn import SpeechDetector
from beats_salmonn.speech import SPEECH_LABELS
from cli_salmonn import inference
from cli_salmonn.main import main
from configuration_beats import BeatsConfig
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification
from serving_salmonn.corpus import answer_corpus, read_output
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor


ROOT = Path(__file__).parents[2]
NANO = ROOT / "checkpoints" / "salmonn-nano" / "beats"
SILENCE = np.zeros(32000, np.float32)
# Two seconds each, between which a recording is cut.
RECORDING = np.concatenate([noise(1.9, 1), np.zeros(35200, np.float32), noise(1.9, 2)])


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A BEATs that takes noise for speech, and silence for a dog."""
    torch.manual_seed(0)
    config = BeatsConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
        patch_embed_dim=24,
        id2label={0: "dog", 1: "/m/02zsn", 2: "Speech"},
        problem_type="multi_label_classification",
    )
    model = BeatsForAudioClassification(config).eval()
    extractor = BeatsFeatureExtractor.from_model_config(config)
    with torch.no_grad():
        heard = [
            model.beats(**extractor(clip, sampling_rate=16000, return_tensors="pt")).last_hidden_state.mean(1)[0]
            for clip in (SILENCE, noise(2))
        ]
        towards = heard[1] - heard[0]
        scale = 8 / towards.square().sum()
        model.classifier.weight.copy_(torch.stack([-towards, 2 * towards, towards]) * scale)
        model.classifier.bias.copy_(-model.classifier.weight @ (heard[0] + heard[1]) / 2)
    folder = tmp_path_factory.mktemp("tagger")
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def test_the_probability_is_that_of_the_tags(tagger):
    detector = SpeechDetector(tagger)
    (tags,) = detector.tagger.tag([RECORDING], window=2.0)
    assert detector.no_speech_prob(RECORDING) == pytest.approx(1 - tags.best[1:].max(), abs=1e-6)
    assert detector.no_speech_prob(SILENCE) > 0.95 > 0.1 > detector.no_speech_prob(noise(2))
    assert detector.has_speech(RECORDING) and not detector.has_speech(SILENCE)
    # a label of one's own, and limits that take all and nearly nothing
    assert SpeechDetector(tagger, labels=["dog"]).no_speech_prob(SILENCE) < 0.1
    assert SpeechDetector(tagger, 1.0).has_speech(SILENCE) and not SpeechDetector(tagger, 0.0).has_speech(noise(2))


@pytest.mark.parametrize("length", [1, 400, 2799])
def test_clips_that_are_too_short_to_say_anything(tagger, length):
    assert SpeechDetector(tagger).no_speech_prob(noise(1)[:length]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"no_speech_threshold": 1.1}, "`no_speech_threshold` must be a probability, from 0 to 1, got 1.1"),
        ({"no_speech_threshold": float("nan")}, "`no_speech_threshold` must be a probability"),
        ({"no_speech_threshold": "0.5"}, "`no_speech_threshold` must be a probability, from 0 to 1, got '0.5'"),
        ({"labels": ["cat"]}, "has no label of speech among its 3"),
    ],
)
def test_wrong_settings(tagger, settings, message):
    with pytest.raises(ValueError, match=message):
        SpeechDetector(tagger, **settings)


def test_a_beats_without_a_classifier():
    with pytest.raises(ValueError, match="has no classifier"):
        SpeechDetector(ROOT / "tests" / "fixtures" / "beats" / "BEATs_tiny_ssl.pt")


def test_labels_have_a_name_and_an_identifier():
    assert sum(label.startswith("/m/") for label in SPEECH_LABELS) == len(SPEECH_LABELS) // 2
    assert all(label == label.lower() for label in SPEECH_LABELS)


@pytest.mark.skipif(not NANO.is_dir(), reason="the trained BEATs stands in a clone")
def test_the_small_beats_hears_nobody_in_noise():
    detector = SpeechDetector(NANO)
    constant = np.full(32000, 0.5, np.float32)
    hum = (0.1 * np.sin(np.arange(32000) * 2 * np.pi * 50 / 16000)).astype(np.float32)
    for clip in (SILENCE, constant, noise(2), 0.01 * noise(2), hum):
        assert detector.no_speech_prob(clip) > 0.99


# ----------------------------------------------------------------------------------------------------------------------
# Transcripts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken") / "model"
    config = tiny_config(max_audio_seconds=2, fixed_length=False)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    config.transcription_separator_ids = processor.transcription_separator_ids()
    loaded = tiny_model(config)
    loaded.generation_config.max_new_tokens = 5
    loaded.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_pieces_in_which_nothing_is_said_are_left_out(model, tagger, monkeypatch):
    parts = inference.load(model)
    detector = SpeechDetector(tagger)
    every = list(inference.Listener(*parts).transcribe(RECORDING))
    heard = []
    has_speech = detector.has_speech
    monkeypatch.setattr(detector, "has_speech", lambda piece: heard.append(has_speech(piece)) or heard[-1])
    some = list(inference.Listener(*parts, detector=detector).transcribe(RECORDING))
    assert len(heard) == len(every) >= 3 and True in heard and False in heard
    for segment, other, is_spoken in zip(some, every, heard, strict=True):
        assert (segment.start, segment.end) == (other.start, other.end)
        assert segment.text == (other.text if is_spoken else "") and other.text


def test_commands_leave_them_out(model, tagger, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("talk.wav", RECORDING, 16000, subtype="FLOAT")
    soundfile.write("silence.wav", SILENCE, 16000, subtype="FLOAT")
    expected = list(inference.Listener(*inference.load(model), detector=SpeechDetector(tagger)).transcribe(RECORDING))
    spoken = [segment for segment in expected if segment.text]
    assert 0 < len(spoken) < len(expected)

    def run(*words) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    ask = ["ask", model, "--speech-tagger", tagger]
    assert run(*ask, "talk.wav", "--format", "txt").count("\n") == len(spoken)
    assert run(*ask, "silence.wav") == "\n" and run("ask", model, "silence.wav").strip()
    assert run(*ask, "silence.wav", "--no-speech-threshold", "1").strip()
    assert json.loads(run(*ask, "talk.wav", "--jsonl"))["segments"] == [vars(segment) for segment in expected]

    Path("rows.jsonl").write_text(
        '{"id": "a", "audio": "talk.wav"}\n{"id": "b", "audio": "silence.wav"}\n'
        '{"id": "c", "audio": "silence.wav", "question": "Who?"}\n'
    )
    run("transcribe", model, "rows.jsonl", "--output", "out.jsonl", "--speech-tagger", tagger)
    talk, silence, asked = read_output(Path("out.jsonl"))
    assert [segment["text"] for segment in talk["segments"]] == [segment.text for segment in expected]
    assert silence["answer"] == "" and silence["error"] is None and asked["answer"]
    # a job that goes on must be of the same verdicts
    Path("out.jsonl").rename("before.jsonl")
    Path("out.jsonl.work").mkdir()
    job = {"engine": "transformers", "speech_tagger": None}
    Path("out.jsonl.work", "job.json").write_text(json.dumps(job))
    with pytest.raises(ValueError, match="begun otherwise, with .*speech_tagger=None"):
        answer_corpus(model, "rows.jsonl", "out.jsonl", speech_tagger=tagger)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-speech-threshold", "0.5"], "`--no-speech-threshold` needs the BEATs whose scores it is for"),
        (["-q", "Who?", "--speech-tagger", "TAGGER"], "`--speech-tagger` is for transcripts"),
        (["--speech-tagger", "no/such/folder"], "no/such/folder"),
        (["--speech-tagger", "MODEL"], "has no classifier"),
    ],
)
def test_wrong_options(model, tagger, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", noise(0.5), 16000)
    words = [{"TAGGER": str(tagger), "MODEL": str(model)}.get(word, word) for word in words]
    assert main(["ask", str(model), "a.wav", *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("salmonn: error: ") and message in said


def test_a_threshold_needs_a_tagger(model, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="`no_speech_threshold` needs a `speech_tagger`"):
        answer_corpus(model, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", no_speech_threshold=0.5)
