# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Recipes: reading them, and what each of the project's teaches."""

import json
import re

import pytest
from tiny_training import load_shrunk, save_clips, save_model

from training_salmonn.recipes import RECIPES, list_recipes, load_recipe
from training_salmonn.run import run_recipe


SETTINGS = {
    "asr_linear": {"connector_type": "linear"},
    "asr_cross_attention": {"connector_type": "cross_attention"},
    "longform": {"segment_position_embeddings": True},
}


@pytest.mark.parametrize("name", list_recipes())
def test_the_projects_recipes_can_be_read(name):
    recipe = load_recipe(name, ["bf16=false"])

    assert recipe.stage.stage in ("alignment", "asr", "longform", "pretrain", "instruct", "activate")
    assert recipe.training.output_dir.startswith("runs/")
    assert not recipe.training.remove_unused_columns


def test_the_papers_hyper_parameters():
    recipe = load_recipe("pretrain", ["bf16=false"])

    assert (recipe.stage.lora_r, recipe.stage.lora_alpha) == (8, 32)
    assert recipe.stage.trained == ["connector", "norms", "lora"]
    assert recipe.training.learning_rate == 3e-5
    assert recipe.training.lr_scheduler_kwargs["min_lr"] == 1e-5
    assert load_recipe("activate", ["bf16=false"]).training.max_steps == 12
    assert load_recipe("asr_qformer", ["bf16=false"]).stage.trained == ["connector", "norms"]


def test_overrides_and_extension(tmp_path):
    (tmp_path / "base.json").write_text('{"learning_rate": 1.0, "max_steps": 7, "output_dir": "x"}')
    (tmp_path / "mine.json").write_text('{"extends": "base.json", "learning_rate": 2.0}')

    recipe = load_recipe(tmp_path / "mine.json", ["max_steps=9", 'train=["a.json"]', "model=./base", "seed=3"])

    assert recipe.training.learning_rate == 2.0
    assert recipe.training.max_steps == 9
    assert recipe.data.train == ["a.json"]
    assert recipe.stage.model == "./base"
    assert recipe.fields == {
        "learning_rate": 2.0,
        "max_steps": 9,
        "output_dir": "x",
        "train": ["a.json"],
        "model": "./base",
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"learning_rte": 1}', "no field 'learning_rte', did you mean 'learning_rate'"),
        ('{"trained": ["whisper"]}', "`trained` must name parts of .* got \\['whisper'\\]"),
        ('{"trained": []}', "`trained` must name parts"),
        ('{"objective": "rl"}', "`objective` must be one of .* got 'rl'"),
        ('{"alignment_vocabulary": "some"}', "`alignment_vocabulary` must be 'data' or 'all', got 'some'"),
        ("[]", "must be a JSON object, got list"),
        ("{", "recipe .*bad.json: "),
        ('{"extends": "bad.json"}', "extends itself"),
        ('{"extends": "none.json"}', "none.json"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)

    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "bad.json")


def test_bad_overrides_and_names_are_refused():
    with pytest.raises(ValueError, match="must look like name=value, got 'max_steps'"):
        load_recipe("pretrain", ["max_steps"])
    with pytest.raises(ValueError, match="one of .*pretrain.* got 'no_such'"):
        load_recipe("no_such")


def test_committed_recipes_are_formatted_alike():
    for path in RECIPES.rglob("*.json"):
        text = path.read_text()
        assert text == json.dumps(json.loads(text), indent=2) + "\n", path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs the seconds-long variant of a recipe, once for each kind of model; returns its adapter and the recipe."""
    root, runs = tmp_path_factory.mktemp("recipes"), {}
    clips = save_clips(root / "clips")

    def run(name: str, kind: str = "pretrain", **fields):
        if (name, kind) not in runs:
            base = root / kind
            if not base.exists():
                save_model(base, **SETTINGS.get(kind, {}))
            fields = {"model": base, "train": [str(clips)], "eval": [str(clips)], "disable_tqdm": True} | fields
            recipe = load_shrunk(name, eval_steps=30, output_dir=root / f"{name}_{kind}", **fields)
            runs[name, kind] = run_recipe(recipe), recipe
        return runs[name, kind]

    return run


def find_error_rates(adapter) -> list[float]:
    curves = json.loads((adapter.parent / "curves.json").read_text())
    return [value for _, value in curves["eval_wer"]]


@pytest.mark.parametrize(
    "name", ["pretrain", "instruct", "asr_qformer", "asr_linear", "asr_cross_attention", "longform"]
)
def test_a_tiny_model_learns_sixteen_utterances(trained, name):
    """
    From random ears, through the stages before and the recipe: the answers become those of the training data, word for
    word.
    """
    kind = name if name in SETTINGS else "pretrain"
    # attention over the embedding table has to learn where to look first
    before, _ = trained("alignment", kind, **({"max_steps": 120} if name == "asr_cross_attention" else {}))
    assert find_error_rates(before)[-1] == 0
    if name == "instruct":
        before, _ = trained("pretrain", kind, adapter=before)
    adapter, _ = trained(name, kind, adapter=before)

    assert find_error_rates(adapter)[-1] == 0
    assert (adapter / "adapter_model.safetensors").exists()
    assert not (adapter / "model.safetensors").exists()  # the trained part only


def test_the_results_folder_tells_what_was_run(trained):
    adapter, recipe = trained("alignment")
    folder = adapter.parent

    assert json.loads((folder / "recipe.json").read_text()) == recipe.fields
    run = json.loads((folder / "run.json").read_text())
    assert run["versions"]["torch"] and run["versions"]["transformers"]
    assert run["seed"] == recipe.training.seed
    assert 0 < run["trained_parameters"] < run["parameters"]
    curves = json.loads((folder / "curves.json").read_text())
    steps, losses = zip(*curves["loss"])
    assert list(steps) == sorted(steps) and losses[-1] < losses[0] / 10
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_of_another_kind_is_refused(tmp_path):
    base, clips = save_model(tmp_path / "base"), save_clips(tmp_path / "clips")
    fields = {"model": base, "train": [str(clips)], "output_dir": tmp_path / "run"}

    with pytest.raises(
        ValueError, match=re.escape("must have connector_type=linear for this recipe, got connector_type=qformer")
    ):
        run_recipe(load_shrunk("asr_linear", **fields))
    with pytest.raises(ValueError, match="`train` must name at least one source"):
        run_recipe(load_shrunk("pretrain", **fields | {"train": []}))
    with pytest.raises(ValueError, match="`model` must name the folder or Hub id"):
        run_recipe(load_shrunk("pretrain", **fields | {"model": None}))
