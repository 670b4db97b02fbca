# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Recipes: reading them, from files and from the command line."""

import re
import shlex
from dataclasses import fields

import pytest
from tiny_training import load_shrunk, save_clips, save_model

from cli_salmonn.main import build_parser
from training_salmonn.recipe_files import list_recipes
from training_salmonn.recipes import RECIPES, SECTIONS, load_recipe
from training_salmonn.run import run_recipe


@pytest.mark.parametrize("name", list_recipes(RECIPES))
def test_the_projects_recipes_can_be_read(name):
    recipe = load_recipe(name, bf16=False)

    assert recipe.stage.stage in ("alignment", "asr", "longform", "pretrain", "instruct", "activate")
    assert recipe.training.output_dir.startswith("runs/")
    assert not recipe.training.remove_unused_columns


def test_the_papers_hyper_parameters():
    recipe = load_recipe("pretrain", bf16=False)

    assert (recipe.stage.lora_r, recipe.stage.lora_alpha) == (8, 32)
    assert recipe.stage.trained == ["connector", "norms", "lora"]
    assert recipe.training.learning_rate == 3e-5
    assert recipe.training.lr_scheduler_kwargs["min_lr"] == 1e-5
    assert load_recipe("activate", bf16=False).training.max_steps == 12
    assert load_recipe("asr_qformer", bf16=False).stage.trained == ["connector", "norms"]


def test_extension_and_overrides(tmp_path):
    """A recipe may be YAML or JSON, and extend one that is beside it or of the project."""
    (tmp_path / "base.json").write_text('{"learning_rate": 1.0, "max_steps": 7, "output_dir": "x"}')
    (tmp_path / "mine.yaml").write_text(
        "extends: base.json  # a comment\nlearning_rate: 2e-4\neval_strategy: no\nlora_alpha: 16\n"
        "train: [a.json, {source: b.jsonl, weight: 0.5}]\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml", max_steps=9, model="./base")

    assert recipe.training.learning_rate == 2e-4  # a number, though YAML 1.1 takes it for a text
    assert recipe.training.eval_strategy == "no"  # and this for a false
    assert recipe.training.max_steps == 9
    assert recipe.stage.model == "./base"
    assert recipe.stage.lora_alpha == 16.0
    assert recipe.data.train == ["a.json", {"source": "b.jsonl", "weight": 0.5}]
    assert recipe.fields == {
        "learning_rate": 2e-4,
        "max_steps": 9,
        "output_dir": "x",
        "eval_strategy": "no",
        "lora_alpha": 16,
        "train": ["a.json", {"source": "b.jsonl", "weight": 0.5}],
        "model": "./base",
    }
    (tmp_path / "pretrain.yaml").write_text("extends: pretrain\nbf16: false\n")
    assert load_recipe(tmp_path / "pretrain.yaml").training.weight_decay == 0.05


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rte: 1", "no field 'learning_rte', did you mean 'learning_rate'"),
        ("trained: [whisper]", "`trained` must name parts of .* got \\['whisper'\\]"),
        ("trained: []", "`trained` must name parts"),
        ("objective: rl", "`objective` must be one of .* got 'rl'"),
        ("alignment_vocabulary: some", "`alignment_vocabulary` must be 'data' or 'all', got 'some'"),
        ("max_steps: abc", "`max_steps` must be int, got 'abc'"),
        ("max_steps: 1.5", "`max_steps` must be int, got 1.5"),
        ("learning_rate: fast", "`learning_rate` must be float, got 'fast'"),
        ("bf16: maybe", "`bf16` must be bool, got 'maybe'"),
        ("train: a.jsonl", r"`train` must be list\[str \| dict\], got 'a.jsonl'"),
        ("train: [1]", r"`train` must be list\[str \| dict\], got \[1\]"),
        ("model: 3", r"`model` must be str \| None, got 3"),
        ("eval_strategy: sometimes", "sometimes"),
        ("[]", "must be a mapping of fields, got list"),
        ("{", "recipe .*bad.yaml: no YAML"),
        ("seed: 1\nseed: 2", "bad.yaml: seed stands twice"),
        ("extends: bad.yaml", "extends itself"),
        ("extends: none.yaml", "none.yaml"),
        ("extends: [a]", "`extends` must name a recipe"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(content)

    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "bad.yaml")


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="one of .*pretrain.* got 'no_such'"):
        load_recipe("no_such")
    with pytest.raises(ValueError, match="no field 'sead', did you mean 'seed'"):
        load_recipe("pretrain", sead=1)


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def parse(line: str):
    """The options of a command line with a recipe."""
    return build_parser().parse_args(shlex.split(line))


def test_every_field_is_an_option():
    options = parse(
        "train pretrain --model ./base --train a.jsonl '{source: b.jsonl, weight: 2}' --learning-rate 1e-4 "
        "--max_steps 3 --bf16 false --streaming --requires '{connector_type: linear}' --resume"
    )

    assert options.recipe == "pretrain" and options.resume is True
    assert options.fields == {
        "model": "./base",
        "train": ["a.jsonl", {"source": "b.jsonl", "weight": 2}],
        "learning_rate": 1e-4,
        "max_steps": 3,
        "bf16": False,
        "streaming": True,
        "requires": {"connector_type": "linear"},
    }
    recipe = load_recipe(options.recipe, **options.fields)
    assert recipe.training.max_steps == 3 and recipe.training.weight_decay == 0.05
    names = {item.name for section in SECTIONS for item in fields(section) if item.init}
    given = parse("train pretrain").fields
    assert given == {} and names > {"train", "lora_r", "answer_tasks", "learning_rate", "ddp_timeout"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train pretrain --max_steps abc", "argument --max_steps/--max-steps: invalid int value: 'abc'"),
        ("train pretrain --learning_rte 1", "no option --learning_rte, did you mean 'learning_rate'?"),
        ("activate activate --learning-rte=1", "no option --learning-rte, did you mean 'learning_rate'?"),
        ("train pretrain --train '{source: a'", "argument --train: invalid"),
    ],
)
def test_bad_options_are_one_line(capsys, line, message):
    with pytest.raises(SystemExit) as stopped:
        parse(line)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_help_lists_every_field_with_the_values_of_the_recipe(capsys):
    with pytest.raises(SystemExit):
        parse("train longform --help")
    text = " ".join(capsys.readouterr().out.split())
    for name in (item.name for section in SECTIONS for item in fields(section) if item.init):
        assert f"--{name} " in text, name
    assert text.index("--lora_r ") < text.index("--predict_with_generate ") < text.index("--weight_decay ")
    assert "Longest clip that joining makes. (default: 90.0)" in text


def test_a_model_of_another_kind_is_refused(tmp_path):
    base, clips = save_model(tmp_path / "base"), save_clips(tmp_path / "clips")
    fields = {"model": base, "train": [str(clips)], "output_dir": tmp_path / "run"}

    with pytest.raises(
        ValueError, match=re.escape("must have connector_type=linear for this recipe, got connector_type=qformer")
    ):
        run_recipe(load_shrunk("asr_linear", **fields))
    with pytest.raises(ValueError, match="`train` must name at least one source"):
        run_recipe(load_shrunk("pretrain", **fields | {"train": []}))
    with pytest.raises(ValueError, match="or objects with a `source`, got {'weight': 1}"):
        run_recipe(load_shrunk("pretrain", **fields | {"train": [{"weight": 1}]}))
    with pytest.raises(ValueError, match="`model` must name the folder or Hub id"):
        run_recipe(load_shrunk("pretrain", **fields | {"model": None}))
