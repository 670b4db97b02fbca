# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The chains of the project, at a thousandth of their size and with stand-ins for what they are made of."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from stand_ins import Forked, save_parts

from nano_salmonn import chain
from nano_salmonn.build import Build, CommandError, read_times
from nano_salmonn.chain import CHAIN, find_chain, read_chain


SCALE = 0.001


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return save_parts(tmp_path_factory.mktemp("stand_ins") / "parts")


def make_build(chain_file: Path, folder: Path, parts: Path) -> Build:
    # of eight processes only one is started, so batches are an eighth of what the chain says
    steps = read_chain(chain_file, SCALE)
    return Build(folder, steps, lambda words, where, processes: Forked(words, where, parts), 8)


def run(build: Build, parts: Path, **options) -> None:
    try:
        build.run(**options)
    except CommandError as error:
        pytest.fail(f"{error}\n{(parts / 'commands.log').read_text()[-4000:]}")


@pytest.fixture(scope="module")
def built(tmp_path_factory, parts):
    """A finished build."""
    build = make_build(CHAIN, tmp_path_factory.mktemp("chain") / "build", parts)
    run(build, parts)
    return build


def test_every_step_is_done_and_timed(built):
    assert not built.find_work()
    times = {row["step"]: row for row in read_times(built.folder)}
    assert times.keys() == built.steps.keys()
    assert all(row["wall"] > 0 and row["runs"] == 1 for row in times.values())
    assert not (built.folder / "runs/features").exists()


def test_the_model_loads_with_its_card(built):
    """What is published is float16, its BEATs is the one that was trained, and its card says how it was made."""
    published = built.folder / "published/salmonn-nano"
    for part in ("adapter/adapter_model", "beats/model"):
        assert {tensor.dtype for tensor in load_file(published / f"{part}.safetensors").values()} == {torch.float16}
    card = ModelCard((published / "README.md").read_text(encoding="utf-8"))
    assert "nano_asr" in {result.dataset_type for result in card.data.eval_results}
    assert "| instruct | all tasks" in card.text and "synthetic" in card.text and "voices, pronunciations" in card.text
    page = (built.folder / "published/nano.md").read_text(encoding="utf-8")
    assert "salmonn train nano/instruct --resume" in page
    assert "\n## LoRA turned down" in page and "\n## How likely answers are" in page


def test_stages_go_on_from_each_other(built):
    """Each adapter differs from that of the stage before, and LoRA only where it is trained."""
    adapters = [
        load_file(built.folder / f"runs/{stage}/adapter/adapter_model.safetensors")
        for stage in ("alignment", "pretrain", "instruct", "activate")
    ]
    for before, after in zip(adapters, adapters[1:]):
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in after if ".lora_" in name)
    connector = [name for name in adapters[0] if "connector" in name]
    assert all(torch.equal(adapters[2][name], adapters[3][name]) for name in connector)
    assert any(not torch.equal(adapters[0][name], adapters[1][name]) for name in connector)


def test_another_recipe_would_do_the_later_steps_anew(built, monkeypatch):
    read = chain.read_recipe

    def change(path, folder):
        return read(path, folder) | ({"learning_rate": 0.5} if path.stem == "instruct" else {})

    monkeypatch.setattr(chain, "read_recipe", change)
    later = Build(built.folder, read_chain(CHAIN, SCALE), start=None)
    anew = [step.name for step, _ in later.find_stale()]
    assert anew[:3] == ["instruct", "half", "scores"] and "whisper" not in anew and "stories" in anew


def test_training_goes_on_from_the_published_model(built, parts, tmp_path):
    """The clips of the one chain are those of the other, and so are the scores of Whisper and of the model of before."""
    shutil.copytree(built.folder, tmp_path / "build")
    build = make_build(find_chain("continue"), tmp_path / "build", parts)
    assert [step.name for step in build.find_work()] == [
        *("beats", "base", "more", "alignment", "pretrain", "instruct"),
        *("half", "scores", "stories", "activate", "activated_scores", "overfitting", "without_beats", "report"),
        "export",
    ]
    run(build, parts, until="instruct", redo=True)
    published = load_file(parts / "checkpoint/adapter/adapter_model.safetensors")
    stages = ("alignment", "pretrain", "instruct")
    adapters = [load_file(tmp_path / f"build/runs/{stage}/adapter/adapter_model.safetensors") for stage in stages]
    for stage, before, after in zip(stages, [published, *adapters], adapters):
        assert before.keys() == after.keys()
        changed = [name for name in after if not torch.equal(before[name].float(), after[name].float())]
        assert any("connector" in name for name in changed)
        # CTC is of the connector alone
        assert any(".lora_" in name for name in changed) == (stage != "alignment")
