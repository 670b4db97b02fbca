# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""How likely answers are with and without an instruction, and the commands of both analyses of task over-fitting."""

import json

import pytest
import torch
from tiny_training import TEXTS, add_adapter, save_clips, save_model, small_model, small_processor, tones

from cli_salmonn.main import main
from data_salmonn.datasets import load_training_data
from training_salmonn.analysis import perplexity, perplexity_over_checkpoints
from training_salmonn.asking import make_conversation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, clips of two tasks, and two checkpoints of an adapter."""
    folder = tmp_path_factory.mktemp("analysis")
    save_model(folder / "base")
    save_clips(folder / "clips", texts=TEXTS[:3])
    save_clips(folder / "clips", task="story", texts=TEXTS[:3])
    for step in (2, 10):
        add_adapter(small_model(), seed=step).save_pretrained(folder / f"checkpoint-{step}", adapter_only=True)
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return load_training_data(folder / "clips" / "asr.jsonl")


def test_perplexity_is_the_models_loss_by_token(dataset):
    model, processor = add_adapter(small_model()), small_processor()
    instructions = {"none": None, "asr": "Transcribe the speech."}

    found = perplexity(model, processor, dataset, instructions)

    for name, instruction in instructions.items():
        total, count = 0.0, 0
        for number in range(3):
            inputs = processor.apply_chat_template(
                [make_conversation(tones(number), instruction, TEXTS[number])],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"output_labels": True},
            )
            labels = inputs.pop("labels")[:, 1:]
            with torch.no_grad():
                log_probs = model(**inputs).logits[:, :-1].log_softmax(-1)
            chosen = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels >= 0]
            total, count = total - chosen.sum().item(), count + chosen.numel()
        assert found["asr"][name] == pytest.approx(total / count, abs=2e-3)  # clips are read from 16-bit files
    assert found["asr"]["none"] != found["asr"]["asr"]


def test_perplexity_over_checkpoints_loads_each(folder, dataset):
    model, processor = add_adapter(small_model(), seed=5), small_processor()
    checkpoints = [folder / "checkpoint-10", folder / "checkpoint-2"]
    result = perplexity_over_checkpoints(model, processor, dataset, checkpoints, {"none": None})

    assert result["steps"] == [2, 10]
    expected = [
        perplexity(add_adapter(small_model(), seed=step), processor, dataset, {"none": None})["asr"]["none"]
        for step in (2, 10)
    ]
    assert result["curves"]["asr"]["none"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="`checkpoints` must hold at least one folder"):
        perplexity_over_checkpoints(model, processor, dataset, [], {"none": None})


def test_the_commands_write_json_and_png(folder, tmp_path, capsys):
    shared = [str(folder / "base"), "--data", *(str(folder / "clips" / f"{task}.jsonl") for task in ("asr", "story"))]
    adapter, checkpoints = str(folder / "checkpoint-2"), [str(folder / f"checkpoint-{step}") for step in (2, 10)]

    sweep = ["sweep-lora", *shared, "--adapter", adapter, "--scales", "0", "1", "--max-new-tokens", "3"]
    assert main([*sweep, "--limit", "1", "--output", str(tmp_path)]) == 0
    compare = ["perplexity", *shared, "--checkpoints", *checkpoints, "--instructions", "none", "story"]
    assert main([*compare, "--output", str(tmp_path)]) == 0

    swept = json.loads((tmp_path / "sweep_lora.json").read_text())
    assert set(swept["tasks"]) == {"asr", "story"}
    assert [len(answers) for answers in swept["tasks"]["asr"]["answers"]] == [1, 1]
    compared = json.loads((tmp_path / "perplexity.json").read_text())
    assert set(compared["curves"]["story"]) == {"none", "story"}
    for name in ("sweep_lora.png", "perplexity.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_wrong_use_is_explained(folder, tmp_path, capsys):
    arguments = ["sweep-lora", str(folder / "base"), "--data", str(folder / "clips" / "asr.jsonl")]

    assert main([*arguments, "--output", str(tmp_path)]) == 2
    assert "`model` must have an adapter, or `adapter` must name one" in capsys.readouterr().err
    assert main(["train", "no_such_recipe"]) == 2
    assert "`recipe` must be a file or one of" in capsys.readouterr().err
