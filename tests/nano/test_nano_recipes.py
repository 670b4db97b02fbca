# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The recipes of salmonn-nano."""

import json

import pytest
from tiny_training import load_shrunk, save_clips, save_model

from nano_salmonn.recipes import RECIPES
from training_salmonn.recipes import load_recipe
from training_salmonn.run import run_recipe


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_recipes_can_be_read(file):
    recipe = load_recipe(file, bf16=False)
    assert recipe.stage.stage == file.stem
    assert recipe.training.output_dir.startswith("runs/nano/")


def train_small(stage: str, folder, **fields):
    """Runs a recipe, made small, on sixteen clips. Returns the adapter and the WER of each evaluation."""
    base, clips = folder / "base", save_clips(folder / "clips")
    if not base.exists():
        save_model(base)
    fields = {
        "model": base,
        "train": [str(clips)],
        "eval": [str(clips)],
        "disable_tqdm": True,
        "eval_strategy": "steps",
    } | fields
    recipe = load_shrunk(
        RECIPES / f"{stage}.yaml", eval_steps=fields["max_steps"], output_dir=folder / stage, **fields
    )
    adapter = run_recipe(recipe)
    curves = json.loads((adapter.parent / "curves.json").read_text())
    return adapter, recipe, [value for _, value in curves["eval_wer"]]


def test_the_recipes_learn_sixteen_utterances(tmp_path):
    """The warm-up reads cached features, and LoRA is on all layers of the LLM."""
    warm_up = {"max_steps": 60, "learning_rate": 0.01, "feature_cache": tmp_path / "features"}
    before, _, rates = train_small("alignment", tmp_path, **warm_up)
    assert rates[-1] < 0.2
    adapter, recipe, rates = train_small(
        "pretrain", tmp_path, adapter=before, max_steps=40, predict_with_generate=True
    )
    assert rates[-1] < 0.2
    assert recipe.stage.lora_r == 16 and "down_proj" in recipe.stage.lora_target_modules
