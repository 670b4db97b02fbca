# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Activation tuning, end to end on a tiny model that has been over-fitted to transcription."""

import json

import numpy as np
import pytest
from tiny_training import TEXTS, load_shrunk, make_story, save_clips, save_model, tones

from data_salmonn.datasets import load_training_data
from data_salmonn.prompts import PromptBank
from training_salmonn.activation import activate, make_answers, mix_sources
from training_salmonn.asking import ask
from training_salmonn.recipes import ActivationArguments
from training_salmonn.run import load_sources, run_recipe
from training_salmonn.stages import load_for_inference


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """
    A folder with a base model, clips and the adapter of a model that hears, and answers every story prompt with a
    transcription: LoRA has forgotten what the LLM can do.
    """
    folder = tmp_path_factory.mktemp("activation")
    base = save_model(folder / "base")
    clips, stories = save_clips(folder / "clips"), save_clips(folder / "clips", task="story")
    shared = {"model": base, "disable_tqdm": True, "feature_cache": folder / "features"}
    aligned = run_recipe(load_shrunk("alignment", train=[str(clips)], output_dir=folder / "aligned", **shared))
    fields = {"train": [str(clips)], "adapter": aligned, "output_dir": folder / "asr"}
    hearing = run_recipe(load_shrunk("asr_qformer", **shared | fields))
    fields = {"train": [str(stories)], "trained": ["lora"], "adapter": hearing, "max_steps": 40, "learning_rate": 3e-3}
    run_recipe(load_shrunk("instruct", output_dir=folder / "instruct", **shared | fields))
    return folder


def tell(folder, adapter, lora_scale: float = 1.0) -> list[str]:
    """What a model answers when it is asked for stories about four clips."""
    model, processor = load_for_inference(str(folder / "base"), str(adapter))
    prompt = PromptBank.load().test_prompt("story")
    kwargs = {"lora_scale": lora_scale, "max_new_tokens": 12, "do_sample": False}
    return [ask(model, processor, tones(number), prompt, **kwargs)[0][0] for number in range(4)]


def test_activation_tuning_brings_stories_back(overfitted, tmp_path):
    fields = {
        "model": overfitted / "base",
        "adapter": overfitted / "instruct" / "adapter",
        "train": [str(overfitted / "clips" / "asr.jsonl")],
        "answer_lora_scale": 0.0,
        "answer_min_words": 6,
        "answer_temperature": 0.0,
        "output_dir": tmp_path,
        "disable_tqdm": True,
    }
    before = tell(overfitted, fields["adapter"])
    assert before == TEXTS[:4]  # over-fitted to transcription

    adapter = activate(load_shrunk("activate", **fields))

    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        number = int(row["path"].split("/")[-1].removesuffix(".wav"))
        assert row["text"].split()[:2] == make_story(number).split()[:2]
        assert row["task"] == "story"
        assert row["question"] in PromptBank.load()["story"].prompts["en"]
    assert len(json.loads((tmp_path / "curves.json").read_text())["loss"]) == 12  # one answer at each of twelve steps
    after = tell(overfitted, adapter)
    assert np.mean([len(text.split()) for text in after]) > 6
    assert len(before[0].split()) == 2


def test_answers_can_be_made_edited_and_used(overfitted, tmp_path):
    """With the file there, nothing is generated any more, and what it says is learnt."""
    answers = tmp_path / "mine.jsonl"
    fields = {
        "model": overfitted / "base",
        "adapter": overfitted / "instruct" / "adapter",
        "train": [str(overfitted / "clips" / "asr.jsonl")],
        "answers": answers,
        "answer_lora_scale": 0.0,
        "answer_temperature": 0.0,
        "num_answers": 2,
        "output_dir": tmp_path / "run",
        "max_steps": 1,
        "disable_tqdm": True,
    }
    recipe = load_shrunk("activate", **fields)
    assert activate(recipe, only_answers=True) == answers
    assert len(answers.read_text().splitlines()) == 2
    assert not (tmp_path / "run").exists()

    line = json.loads(answers.read_text().splitlines()[0])
    answers.write_text(json.dumps(line | {"text": "dog dog dog"}) + "\n")
    activate(recipe)
    assert load_training_data(answers)["text"] == ["dog dog dog"]


def test_training_data_is_mixed_with_the_answers(overfitted):
    """`replay_share` of the rows are the model's training data, whose sources keep their proportions."""
    assert mix_sources("answers.jsonl", ["a.jsonl"], 0.0) == ["answers.jsonl"]
    assert mix_sources("answers.jsonl", ["a.jsonl", {"source": "b.jsonl", "weight": 3.0}], 0.4) == [
        {"source": "answers.jsonl", "weight": 0.6},
        {"source": "a.jsonl", "weight": pytest.approx(0.1)},
        {"source": "b.jsonl", "weight": pytest.approx(0.3)},
    ]

    stories, clips = (str(overfitted / "clips" / f"{task}.jsonl") for task in ("story", "asr"))
    _, processor = load_for_inference(str(overfitted / "base"), str(overfitted / "instruct" / "adapter"))
    sources = mix_sources(stories, [{"source": clips, "caps": {"asr": 2}}], 0.75)
    tasks = load_sources(sources, load_shrunk("activate", model=overfitted / "base").data, processor, seed=0)
    tasks = list(tasks["task"])
    assert set(tasks) == {"story", "asr"}
    assert tasks.count("asr") > 1.5 * tasks.count("story")  # of two rows, many times over


def test_a_model_without_a_fit_answer_is_reported(overfitted):
    model, processor = load_for_inference(str(overfitted / "base"), str(overfitted / "instruct" / "adapter"))
    dataset = load_training_data(overfitted / "clips" / "asr.jsonl")
    settings = ActivationArguments(answer_lora_scale=1.0, answer_temperature=0.0, answer_max_new_tokens=5)

    with pytest.raises(
        ValueError, match="No answer was fit to be kept \\(rejected: 16 short\\). Lower `answer_lora_scale`"
    ):
        make_answers(model, processor, dataset, PromptBank.load(), settings)
