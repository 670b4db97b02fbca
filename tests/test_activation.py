# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Activation tuning: its settings, which answers are kept, and how they are written. What it teaches: tests/learning."""

import json

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from peft.tuners.lora import LoraLayer
from tiny_training import add_adapter, small_model, small_processor, tones

from data_salmonn.prompts import PromptBank
from training_salmonn.activation import find_fault, gain_by_hearing, make_answers, save_answers
from training_salmonn.recipes import ActivationArguments


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_impossible_share_of_training_data_is_refused(share):
    with pytest.raises(ValueError, match="`replay_share` must be at least 0 and below 1, got"):
        ActivationArguments(replay_share=share)


@pytest.mark.parametrize(
    ("text", "is_finished", "fault"),
    [
        ("one two", True, "short"),
        ("A dog runs over the street and meets a man who sells red apples to children", False, "unfinished"),
        ("As an AI language model, I cannot listen to the audio that you have given me", True, "refusal"),
        ("I'm sorry, but there is nothing in this recording that I could tell you about", True, "refusal"),
        ("I can’t hear the clip, please provide more context about what it has to say", True, "refusal"),
        ("okay okay okay okay okay okay okay okay okay okay okay okay okay okay", True, "loop"),
        ("the dog barks and the dog barks and the dog barks and the dog barks and", True, "loop"),
        ("A dog runs over the street and meets a man who sells red apples to children", True, None),
        ("She said she was sorry for the dog, which could not hear the car that came", True, None),
    ],
)
def test_answers_that_must_not_be_learnt_are_found(text, is_finished, fault):
    assert find_fault(text, is_finished, min_words=5) == fault


@pytest.mark.parametrize(("answers_per_clip", "numbers"), [(1, [0, 0, 0, 0, 0]), (2, [0, 1, 0, 1, 0])])
def test_as_many_answers_to_a_clip_are_kept_as_are_wanted(monkeypatch, answers_per_clip, numbers):
    """Of those that are fit, the first ones; and of the last clip only what is still missing."""

    def answer(model, processor, clip, prompt, num_return_sequences, **generation):
        stories = [f"Once upon a time, story {number} began" for number in range(num_return_sequences - 1)]
        return [("too short", True)] + [(story, True) for story in stories]

    monkeypatch.setattr("training_salmonn.activation.ask", answer)
    clips = [{"audio": {"array": tones(number), "sampling_rate": 16000}} for number in range(8)]
    settings = ActivationArguments(
        num_answers=5, answers_per_clip=answers_per_clip, answer_attempts=4, answer_min_words=4
    )

    rows = make_answers(None, None, clips, PromptBank.load(), settings)

    assert [row["text"] for row in rows] == [f"Once upon a time, story {number} began" for number in numbers]
    heard = {id(row["audio"]) for row in rows}
    assert len(heard) == -(-5 // answers_per_clip)


def test_tasks_have_their_turn_however_many_answers_a_clip_gives(monkeypatch):
    asked = []

    def answer(model, processor, clip, prompt, num_return_sequences, **generation):
        asked.append(prompt)
        if len(asked) == 2:  # a clip without a fit answer takes no turn
            return [("too short", True)]
        return [(f"Once upon a time, story {number} began", True) for number in range(num_return_sequences)]

    monkeypatch.setattr("training_salmonn.activation.ask", answer)
    clips = [{"audio": {"array": tones(number), "sampling_rate": 16000}} for number in range(8)]
    tasks = ["story", "audiocaption", "asr"]
    settings = ActivationArguments(num_answers=12, answers_per_clip=2, answer_min_words=4, answer_tasks=tasks)

    rows = make_answers(None, None, clips, PromptBank.load(), settings)

    assert [row["task"] for row in rows] == [task for task in [*tasks, *tasks] for _ in range(2)]


def test_answers_that_would_be_given_to_any_clip_are_not_kept(monkeypatch):
    """Of two answers to each of eight clips, the better heard one is kept; then the worst heard quarter goes."""
    gains = dict(zip("abcdefgh", (0.3, 0.0, 0.5, 0.1, 0.4, 0.2, 0.7, 0.6)))
    turns = iter("abcdefgh")

    def answer(model, processor, clip, prompt, **generation):
        name = next(turns)
        return [(f"of any clip {name}", True), (f"of this clip {name}", True)]

    def measure(model, processor, clip, other, rows, lora_scale):
        assert lora_scale == 0.5
        assert not np.array_equal(clip, other)
        return [gains[row["text"][-1]] - ("any" in row["text"]) for row in rows]

    monkeypatch.setattr("training_salmonn.activation.ask", answer)
    monkeypatch.setattr("training_salmonn.activation.gain_by_hearing", measure)
    clips = [{"audio": {"array": tones(number), "sampling_rate": 16000}} for number in range(8)]
    settings = ActivationArguments(num_answers=6, answer_keep_share=0.75, answer_min_words=4)

    rows = make_answers(None, None, clips, PromptBank.load(), settings)

    assert [row["text"] for row in rows] == [f"of this clip {name}" for name in "acefgh"]


def test_a_gain_is_the_difference_of_likelihoods_with_lora_turned_down():
    """By hand: the scaling of each layer halved, clips heard together with the text, and the probabilities looked up."""
    model, processor = add_adapter(small_model()), small_processor()
    clip, other = tones(0), tones(6)
    rows = [{"question": "Tell a story.", "text": text} for text in ("dog talk", "people")]

    found = gain_by_hearing(model, processor, clip, other, rows, lora_scale=0.5)

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.scaling = {name: 0.5 * scaling for name, scaling in layer.scaling.items()}
    for row, gain in zip(rows, found):
        losses = []
        for heard in (clip, other):
            content = [{"type": "audio", "audio": heard}, {"type": "text", "text": row["question"]}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}, {"role": "assistant", "content": row["text"]}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"output_labels": True},
            )
            labels = inputs.pop("labels")[0]
            with torch.no_grad():
                log_probs = model(**inputs).logits[0].log_softmax(-1)
            places = (labels >= 0).nonzero()[:, 0]
            losses.append(-log_probs[places - 1, labels[places]].mean().item())
        assert gain == pytest.approx(losses[1] - losses[0], abs=1e-5)
        assert abs(gain) > 1e-3


@pytest.mark.parametrize("share", [0, 1.1])
def test_an_impossible_share_of_answers_is_refused(share):
    with pytest.raises(ValueError, match="`answer_keep_share` must be above 0 and at most 1, got"):
        ActivationArguments(answer_keep_share=share)


def test_no_answers_to_a_clip_are_refused():
    with pytest.raises(ValueError, match="`answers_per_clip` must be at least 1, got 0"):
        ActivationArguments(answers_per_clip=0)


def test_clips_that_are_no_files_are_written(tmp_path):
    rows = Dataset.from_dict({"audio": [{"array": tones(0).tolist(), "sampling_rate": 16000}]})
    audio = rows[0]["audio"] | {"array": np.array(rows[0]["audio"]["array"], "float32")}
    save_answers(tmp_path / "answers.jsonl", [{"audio": audio, "text": "a", "task": "story", "question": "b?"}])

    entry = json.loads((tmp_path / "answers.jsonl").read_text())
    samples, rate = soundfile.read(entry["path"])
    assert rate == 16000
    np.testing.assert_allclose(samples, tones(0), atol=1e-4)
