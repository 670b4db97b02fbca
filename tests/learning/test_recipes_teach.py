# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What each of the project's recipes teaches, to a tiny model from random ears on."""

import json

import pytest
import yaml
from safetensors.torch import load_file
from tiny_training import TEXTS, load_shrunk, save_clips, save_model, shrink

from cli_salmonn.main import main
from data_salmonn.error_rates import word_error_rate
from training_salmonn.run import run_recipe


SETTINGS = {
    "asr_linear": {"connector_type": "linear"},
    "asr_cross_attention": {"connector_type": "cross_attention"},
    "longform": {"segment_position_embeddings": True},
}
# Four nouns with four verbs: who hears nothing answers all clips alike, and has at best a quarter of the words right; who
# hears only one of the two words, five eighths. Seeds, kernels and machines differ by a few words of 32.
CHANCE, DEAF_TO_ONE_WORD, BOUND = 0.75, 0.375, 0.25


def test_what_a_deaf_model_reaches():
    alike = [word_error_rate(TEXTS, [text] * len(TEXTS)) for text in TEXTS]
    one_word = [word_error_rate(TEXTS, [f"{text.split()[0]} talk" for text in TEXTS])]
    assert min(alike) == CHANCE and min(one_word) == DEAF_TO_ONE_WORD > BOUND


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs a recipe, made small, once for each kind of model; returns its adapter and the recipe."""
    root, runs = tmp_path_factory.mktemp("recipes"), {}
    clips = save_clips(root / "clips")

    def run(name: str, kind: str = "pretrain", **fields):
        if (name, kind) not in runs:
            base = root / kind
            if not base.exists():
                save_model(base, **SETTINGS.get(kind, {}))
            sources = {"model": base, "train": [str(clips)], "eval": [str(clips)]}
            folders = {"feature_cache": root / f"{kind}_features", "output_dir": root / f"{name}_{kind}"}
            recipe = load_shrunk(name, **sources | folders | FEW_STEPS | fields)
            runs[name, kind] = run_recipe(recipe), recipe
        return runs[name, kind]

    return run


# All clips in each batch, so that losses can be compared.
FEW_STEPS = {"warmup_steps": 1, "logging_strategy": "steps", "logging_steps": 1, "disable_tqdm": True}
# Those of the warm-up. Attention over the embedding table has to learn where to look first, and would need six times as
# many to write the sixteen texts: of it only the loss is looked at.
WARM_UP = {"pretrain": 40, "asr_linear": 30, "longform": 60, "asr_cross_attention": 20}


def warm_up(trained, kind: str):
    steps = WARM_UP[kind]
    logging = {"logging_strategy": "steps" if kind == "pretrain" else "no"}
    return trained("alignment", kind, max_steps=steps, eval_steps=steps, warmup_steps=5, **logging)


def find_error_rates(adapter) -> list[float]:
    curves = json.loads((adapter.parent / "curves.json").read_text())
    return [value for _, value in curves["eval_wer"]]


@pytest.mark.parametrize(
    "name", ["pretrain", "instruct", "asr_qformer", "asr_linear", "asr_cross_attention", "longform"]
)
def test_a_tiny_model_learns_sixteen_utterances(trained, name):
    """From random ears, through the warm-up and the recipe: the answers become those of the training data."""
    kind = name if name in SETTINGS else "pretrain"
    before, _ = warm_up(trained, kind)
    adapter, _ = trained(name, kind, adapter=before, max_steps=6, eval_steps=6)

    if name != "asr_cross_attention":
        assert find_error_rates(before)[-1] < BOUND
        assert find_error_rates(adapter)[-1] < BOUND
    losses = [value for _, value in json.loads((adapter.parent / "curves.json").read_text())["loss"]]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert (adapter / "adapter_model.safetensors").exists()
    assert not (adapter / "model.safetensors").exists()  # the trained part only


def test_a_model_without_whisper_is_trained_by_the_command(tmp_path, capsys):
    """By `salmonn train`, whose adapter `salmonn ask` takes: it has learnt what it heard, and Whisper is in neither."""
    base, clips = save_model(tmp_path / "base", speech_config=None, segment_seconds=2), save_clips(tmp_path / "clips")
    fields = shrink("alignment", warmup_steps=5, model=base, output_dir=tmp_path / "run", train=[str(clips)])
    recipe = {"extends": "alignment"} | fields | {"logging_strategy": "steps", "logging_steps": 10}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(tmp_path / "mine.yaml"), "--max_steps", "40"]) == 0
    losses = [value for _, value in json.loads((tmp_path / "run" / "curves.json").read_text())["loss"]]
    assert losses[-1] < losses[0] / 5
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any("beats_layer_norm" in name for name in tensors) and not any("speech" in name for name in tensors)
    capsys.readouterr()
    assert main(["ask", str(tmp_path / "run" / "adapter"), str(tmp_path / "clips" / "0.wav")]) == 0
    assert capsys.readouterr().out


def test_the_results_folder_tells_what_was_run(trained):
    adapter, recipe = warm_up(trained, "pretrain")
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
