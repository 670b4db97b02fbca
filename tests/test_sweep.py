# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Scores with LoRA at several strengths."""

import json

import pytest
from tiny_training import TEXTS, add_adapter, save_clips, small_model, small_processor, tones

from data_salmonn.datasets import load_training_data
from data_salmonn.prompts import PromptBank
from evaluation_salmonn.sweep import METRICS, SCORED_AS, find_metric, score_answers, sweep_lora
from evaluation_salmonn.task import MetricEntry


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    save_clips(folder, texts=TEXTS[:3])
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return load_training_data(folder / "asr.jsonl")


def test_every_task_has_the_metric_of_its_kind():
    bank = PromptBank.load()
    assert set(SCORED_AS) | set(METRICS) <= set(bank.tasks)
    found = {name: find_metric(name, bank)[0].metric for name in bank.tasks}
    assert found["asr"] == found["asr_de"] == "wer" and found["asr_zh"] == "cer"
    assert find_metric("en2zh", bank)[0].options == {"tokenize": "zh"}  # an alias
    assert found["audiocaption"] == found["detailed_description"] == find_metric(None, bank)[0].metric == "rouge_l"
    assert found["audio_story_telling"] == "diversity" and found["gender_recognition"] == "accuracy"


def test_captions_are_not_scored_by_what_they_contain():
    """Other words for the same are worth something, and a reference within an answer is not all of it."""
    entry, filters = find_metric("audiocaption", PromptBank.load())
    references = ["a dog barks loudly"]
    near = score_answers(entry, filters, references, ["a dog is barking loudly"])
    long = score_answers(entry, filters, references, ["music plays while a dog barks loudly and a car goes by"])
    assert 0 < score_answers(entry, filters, references, ["dog"]) < near < 100 and 0 < long < 100


def test_sweep_asks_at_every_scale(dataset):
    model, processor = add_adapter(small_model()), small_processor()
    result = sweep_lora(model, processor, dataset, [1, 0, 0.5], max_new_tokens=4, do_sample=False)

    assert result["scales"] == [0, 0.5, 1]
    assert result["lora_scaling"] == [0, 2, 4]  # alpha / r is the paper's 4
    task = result["tasks"]["asr"]
    assert task["metric"] == "wer" and len(task["scores"]) == 3
    model.disable_adapters()
    inputs = processor.apply_transcription_request(tones(0), prompt="Transcribe the speech.", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    # without LoRA, but with the connector that was trained (here: unchanged)
    assert task["answers"][0][0] == processor.decode(output, skip_special_tokens=True).strip()
    assert task["answers"][0] != task["answers"][2]


def test_sweep_takes_other_scores(dataset):
    metrics = {"asr": MetricEntry("different", "diversity", higher_is_better=True)}
    result = sweep_lora(add_adapter(small_model()), small_processor(), dataset, [1], metrics=metrics, max_new_tokens=2)

    task = result["tasks"]["asr"]
    assert (task["metric"], task["unit"], task["higher_is_better"]) == ("diversity", "words", True)
    assert 0 <= task["scores"][0] <= 2


def test_rows_without_a_task_are_swept_and_conversations_are_not(folder):
    row = {"audio": "0.wav", "question": "What is heard?", "text": "dog talk"}
    (folder / "free.jsonl").write_text(json.dumps(row) + "\n")
    model, processor = add_adapter(small_model()), small_processor()
    result = sweep_lora(model, processor, load_training_data(folder / "free.jsonl"), [1], max_new_tokens=2)
    assert list(result["tasks"]) == ["question"] and result["tasks"]["question"]["metric"] == "rouge_l"
    turns = [{"role": "user", "content": "<audio>What?"}, {"role": "assistant", "content": "dog"}] * 2
    (folder / "chat.jsonl").write_text(json.dumps({"messages": turns, "audios": ["0.wav", "1.wav"]}) + "\n")
    with pytest.raises(ValueError, match=r"chat\.jsonl:1 is a conversation"):
        sweep_lora(model, processor, load_training_data(folder / "chat.jsonl"), [1], max_new_tokens=2)
