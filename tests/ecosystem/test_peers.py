# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Other audio models on the same tasks, through their own processors, with random weights."""

import numpy as np
import pytest
import torch
from tiny_evaluation import make_task, write_manifest, write_task
from tiny_peers import USER_TEMPLATE, granite_model, save_llm, save_qwen2_audio, save_voxtral, save_whisper
from transformers import AutoTokenizer, GraniteSpeechFeatureExtractor, GraniteSpeechProcessor
from transformers.models.granite_speech import feature_extraction_granite_speech
from transformers.utils import is_mistral_common_available

from evaluation_salmonn.models import (
    CASCADE_PROMPT,
    CascadeModel,
    GraniteModel,
    SalmonnChatModel,
    VoxtralModel,
    load_model,
)
from evaluation_salmonn.runner import evaluate
from tiny_salmonn import LLAMA, noise, tiny_config, tiny_model, tiny_processor


CLIPS = [10 * noise(seconds, seed) for seed, seconds in enumerate((1.0, 2.5, 0.7))]
PROMPTS = ["What is heard?", "Describe the sound in one short sentence.", "Who?"]
GENERATION = {"max_new_tokens": 5, "do_sample": False}


def check_answers(model, **options):
    """Each clip alone is answered as in a batch, and both clip and prompt matter."""
    task = make_task(kind="instruction", **options)
    together = model.answer(CLIPS, PROMPTS, task, **GENERATION)
    alone = [model.answer([clip], [prompt], task, **GENERATION)[0] for clip, prompt in zip(CLIPS, PROMPTS)]
    assert together == alone
    return together


def test_salmonn_is_loaded_and_answers(tmp_path):
    config = tiny_config(fixed_length=False)
    tiny_model(config).save_pretrained(tmp_path)
    tiny_processor(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert type(model) is SalmonnChatModel
    assert len(set(check_answers(model))) > 1
    described = model.describe()
    assert (described["class"], described["dtype"]) == ("SalmonnForConditionalGeneration", "float32")
    assert described["weights"] == load_model(tmp_path, device="cpu").describe()["weights"]
    with torch.no_grad():
        model.model.lm_head.weight.mul_(1.01)
    assert model.describe()["weights"] != described["weights"]


def test_qwen2_audio(tmp_path):
    model = load_model(save_qwen2_audio(tmp_path), device="cpu")
    assert type(model.processor).__name__ == "Qwen2AudioProcessor"
    check_answers(model)
    task = make_task(kind="instruction")
    same_prompt = model.answer(CLIPS, PROMPTS[:1] * 3, task, **GENERATION)
    assert len(set(same_prompt)) > 1  # the clips are heard


@pytest.mark.skipif(not is_mistral_common_available(), reason="needs mistral-common, Voxtral's tokenizer")
def test_voxtral(tmp_path):
    model = load_model(save_voxtral(tmp_path / "voxtral"), device="cpu")
    assert type(model) is VoxtralModel
    check_answers(model)


class TorchGraniteFeatureExtractor(GraniteSpeechFeatureExtractor):
    """Granite's, with a spectrogram that needs no torchaudio."""

    def __init__(self):
        super(GraniteSpeechFeatureExtractor, self).__init__(feature_size=80, sampling_rate=16000, padding_value=0.0)
        self.melspec_kwargs = {"hop_length": 160}
        self.projector_window_size, self.projector_downsample_rate = 15, 5

    def _extract_mel_spectrograms(self, audio, device="cpu"):
        spectrum = torch.stft(audio, 512, 160, 400, window=torch.hann_window(400), return_complex=True).abs()
        bins = spectrum[:, :160:2].transpose(1, 2)  # (clips, frames, 80)
        bins = bins[:, : bins.shape[1] // 2 * 2]
        return bins.reshape(len(bins), -1, 160).log1p()


def test_granite_speech(monkeypatch):
    monkeypatch.setattr(feature_extraction_granite_speech, "requires_backends", lambda *arguments: None)
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|audio|>"]})
    tokenizer.pad_token, tokenizer.chat_template = "<unk>", USER_TEMPLATE
    processor = GraniteSpeechProcessor(TorchGraniteFeatureExtractor(), tokenizer)
    model = GraniteModel(granite_model(len(tokenizer), tokenizer.convert_tokens_to_ids("<|audio|>")), processor)
    answers = model.answer(CLIPS[:1] * 2, PROMPTS[:2], make_task(), **GENERATION)
    assert len(answers) == 2
    assert answers[0] == model.answer(CLIPS[:1], PROMPTS[:1], make_task(), **GENERATION)[0]


@pytest.mark.parametrize("multilingual", [False, True])
def test_whisper_alone_transcribes(tmp_path, multilingual):
    model = load_model(save_whisper(tmp_path, multilingual), device="cpu")
    task = make_task()
    model.check(task)
    answers = model.answer(CLIPS, PROMPTS, task, max_new_tokens=200)
    assert answers == [model.answer([clip], [""], task, max_new_tokens=200)[0] for clip in CLIPS]
    with pytest.raises(ValueError, match="transcription for Whisper alone.*'tiny'.*instruction"):
        model.check(make_task(kind="instruction"))


def test_whisper_hears_beyond_its_window(tmp_path, monkeypatch):
    model = load_model(save_whisper(tmp_path), device="cpu")
    seen = {}

    def generate(input_features, **options):
        seen.update(options, frames=input_features.shape[-1])
        return torch.tensor([[256]])

    monkeypatch.setattr(model.model, "generate", generate)
    model.answer([noise(45)], [""], make_task())
    assert seen["frames"] == 4500
    assert seen["return_timestamps"]
    model.answer([noise(3)], [""], make_task())
    assert seen["frames"] == 3000


def test_cascade_reads_the_transcript(tmp_path, monkeypatch):
    model = load_model(save_whisper(tmp_path / "whisper"), llm=save_llm(tmp_path / "llm"), device="cpu")
    assert type(model) is CascadeModel
    transcripts = ["the cat", "a dog that barks", "x"]
    monkeypatch.setattr(model.recognizer, "answer", lambda clips, prompts, task, **options: transcripts[: len(clips)])
    task = make_task(kind="instruction")
    model.check(task)
    seen = []
    tokenize = model.processor.__class__.__call__

    def spy(tokenizer, texts, **options):
        seen.extend(texts)
        return tokenize(tokenizer, texts, **options)

    monkeypatch.setattr(model.processor.__class__, "__call__", spy)
    answers = model.answer(CLIPS, PROMPTS, task, **GENERATION)
    expected = CASCADE_PROMPT.format(transcript="a dog that barks", prompt=PROMPTS[1])
    assert seen[1] == f"user: {expected}\nanswer:"
    for i in range(3):
        monkeypatch.setattr(model.recognizer, "answer", lambda *arguments, i=i, **options: [transcripts[i]])
        assert model.answer(CLIPS[i : i + 1], PROMPTS[i : i + 1], task, **GENERATION) == answers[i : i + 1]
        assert model.answer(CLIPS[i : i + 1], PROMPTS[i : i + 1], make_task(), **GENERATION) == transcripts[i : i + 1]
    assert model.describe()["recognizer"]["class"] == "WhisperForConditionalGeneration"


def test_llm_goes_with_whisper_only(tmp_path):
    save_qwen2_audio(tmp_path)
    with pytest.raises(ValueError, match="llm.*goes with a Whisper, got some-llm for .*qwen2_audio"):
        load_model(tmp_path, llm="some-llm", device="cpu")


def test_the_runner_takes_a_peer_by_its_folder(tmp_path):
    manifest, task = write_manifest(tmp_path / "data"), write_task(tmp_path)
    folder = save_whisper(tmp_path / "whisper")
    options = {"data": {"tiny": manifest}, "bootstrap_samples": 0, "generation": {"num_beams": 1}, "device": "cpu"}
    results = evaluate(folder, [task], tmp_path / "run", batch_size=2, **options)
    assert results["model"]["family"] == "WhisperModel"
    assert results["tasks"]["tiny"]["num_examples"] == 5
    assert np.isfinite(results["tasks"]["tiny"]["scores"]["wer"]["value"])
    with pytest.raises(ValueError, match="transcription for Whisper alone"):
        evaluate(folder, [write_task(tmp_path, kind="instruction")], tmp_path / "new", **options)
