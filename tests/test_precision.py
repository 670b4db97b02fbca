# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Which precision a recipe trains in, on CPUs with and without bfloat16."""

import pytest

from training_salmonn import precision
from training_salmonn.recipes import load_recipe


@pytest.fixture
def slow_cpu(monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: False)


def test_a_slow_cpu_trains_the_recipes_of_the_project_in_float32(slow_cpu, tmp_path, caplog):
    recipe = load_recipe("pretrain", model="base", output_dir=str(tmp_path), use_cpu=True)

    assert (recipe.training.bf16, recipe.stage.model_dtype) == (False, "float32")
    assert "`bf16` is False, `model_dtype` is float32. Set the field in the command to keep bfloat16" in caplog.text


def test_what_is_asked_for_stays(slow_cpu, tmp_path, caplog):
    asked = {"bf16": True, "model_dtype": "bfloat16"}
    recipe = load_recipe("pretrain", model="base", output_dir=str(tmp_path), use_cpu=True, **asked)

    assert (recipe.training.bf16, recipe.stage.model_dtype) == (True, "bfloat16")
    assert "slow in bfloat16" not in caplog.text


def test_a_fast_cpu_and_an_accelerator_keep_bfloat16(monkeypatch):
    recipe = {"bf16": True, "model_dtype": "bfloat16"}
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: True)
    assert precision.fit_precision(recipe | {"use_cpu": True}, {}) == recipe | {"use_cpu": True}
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: False)
    assert precision.fit_precision(recipe | {"use_cpu": False}, {}) == recipe | {"use_cpu": False}
