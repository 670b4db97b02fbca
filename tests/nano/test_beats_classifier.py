# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A small BEATs learns the labels of made clips, and is an ordinary BEATs afterwards."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import pipeline

from configuration_beats import BeatsConfig
from conversion_salmonn.parts import read_beats
from modeling_beats import BeatsForAudioClassification
from nano_salmonn.beats_classifier import (
    average_precision,
    labels_of,
    load_beats_recipe,
    make_targets,
    new_model,
    pool_parts,
    read_rows,
    score_beats,
    top1_by_kind,
    train_beats,
)
from tiny_beats import EXTRACTOR, TINY, make_split, render


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return make_split(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "tiny.json"
    file.write_text(json.dumps(TINY))
    return load_beats_recipe(file)


@pytest.fixture(scope="module")
def trained(split, recipe, tmp_path_factory):
    return train_beats([split], [split], tmp_path_factory.mktemp("model"), recipe)


class TestTraining:
    def test_learns(self, trained, split):
        scores = score_beats(trained, [split])

        assert scores["clips"] == 20
        assert scores["mean_average_precision"] > 0.9
        assert scores["top1"]["sound"]["accuracy"] > 0.9
        assert scores["top1"]["sound"]["by_label"].keys() == {"rain", "whistle"}
        assert scores["top1"]["sound"]["clips"] == 8  # those of two labels have no best one
        assert scores["top1"]["music"]["clips"] == scores["top1"]["speech"]["clips"] == 4
        assert json.loads((trained / "scores.json").read_text()) == scores

    def test_is_a_part_of_a_salmonn(self, trained):
        part = read_beats(trained)

        assert part.config.hidden_size == 32
        assert not any("classifier" in name for name in part.state)

    def test_is_a_pipeline(self, trained, split):
        classify = pipeline("audio-classification", model=str(trained), trust_remote_code=True, device="cpu")
        row = next(row for row in read_rows([split]) if row["kind"] == "music")

        assert classify(render(row).astype(np.float32), top_k=1)[0]["label"] == "castanets"

    def test_results_folder(self, trained):
        curves = json.loads((trained / "training" / "curves.json").read_text())

        assert "eval_top1" in curves
        assert "eval_mean_average_precision" in curves
        assert json.loads((trained / "training" / "recipe.json").read_text()) == TINY

    def test_resumed_run_ends_the_same(self, trained, split, recipe, tmp_path):
        last = trained / "training" / "checkpoint-20"
        (tmp_path / "training").mkdir()
        (tmp_path / "training" / last.name).symlink_to(last)

        with pytest.raises(ValueError, match="holds checkpoint-20 of a run: resume it"):
            train_beats([split], [split], tmp_path, recipe)
        resumed = train_beats([split], [split], tmp_path, recipe, resume=True)

        expected, state = read_beats(trained).state, read_beats(resumed).state
        assert all(torch.equal(state[name], expected[name]) for name in expected)

    def test_learns_which_frames_hold_which_label(self, split, recipe, tmp_path):
        joining = replace(recipe, crops=replace(recipe.crops, join_probability=0.5))
        model = BeatsForAudioClassification.from_pretrained(train_beats([split], [split], tmp_path, joining)).eval()
        rows = [row for row in read_rows([split]) if row["kind"] == "sound" and len(set(row["classes"])) == 1]
        whistle, rain = (next(row for row in rows if label in row["classes"]) for label in ("whistle", "rain"))
        clip = np.concatenate([render(whistle), render(rain)])
        inputs = EXTRACTOR(clip, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            tokens = model.classifier(model.beats(**inputs).last_hidden_state)
        half = inputs["input_features"].shape[1] // 2

        best = pool_parts(tokens, torch.tensor([[half, half]]), model.config).argmax(-1)
        assert [model.config.id2label[number] for number in best[0].tolist()] == ["whistle", "rain"]

    def test_expects_one_label_at_first(self, recipe):
        model = new_model(recipe.model, {label: number for number, label in enumerate("abcde")})

        assert model.classifier.bias.sigmoid().sum().item() == pytest.approx(1.0)
        assert model.config.id2label[4] == "e"
        assert model.config.problem_type == "multi_label_classification"


class TestParts:
    def test_means_over_parts(self):
        config = BeatsConfig(num_mel_bins=32, patch_size=16)  # two bands
        tokens = torch.arange(8.0)[None, :, None].expand(2, -1, 3)  # four times of two tokens
        part_frames = torch.tensor([[23, 40], [64, 0]])  # the second patch of the first clip has its middle at 24

        means = pool_parts(tokens, part_frames, config)

        assert means.shape == (2, 2, 3)
        assert means[..., 0].tolist() == [[0.5, 4.5], [3.5, 0.0]]

    def test_a_single_part_is_the_whole_clip(self, trained):
        model = BeatsForAudioClassification.from_pretrained(trained, dtype=torch.float32)
        features, mask = torch.randn(2, 64, 128), torch.ones(2, 64, dtype=torch.long)
        mask[1, 40:] = 0
        labels = torch.zeros(2, model.config.num_labels)
        labels[:, 1] = 1.0
        with torch.no_grad():
            outputs = model(features, mask, labels=labels, output_hidden_states=True)
            tokens = model.classifier(outputs.hidden_states[-1])

        pooled = pool_parts(tokens, torch.tensor([[64, 0], [32, 0]]), model.config)
        torch.testing.assert_close(pooled[:, 0], outputs.logits)


class TestRows:
    def test_at_most_so_many_of_a_kind(self, split):
        rows = read_rows([split], {"speech": 1, "music": 100})

        assert len(rows) == 17
        assert sum(row["kind"] == "speech" for row in rows) == 1

    def test_labels(self):
        assert labels_of({"kind": "sound", "classes": ["dog", "cat", "dog"]}) == {"dog", "cat"}
        assert labels_of({"kind": "music", "instruments": ["flute"]}) == {"flute"}
        assert labels_of({"kind": "speech"}) == {"speech"}

    def test_unknown_labels(self, split):
        with pytest.raises(ValueError, match="has not: speech, whistle"):
            make_targets(read_rows([split]), {"castanets": 0, "rain": 1})

    def test_unfinished_folder(self, tmp_path, recipe):
        with pytest.raises(ValueError, match="no finished clips"):
            train_beats([tmp_path], [tmp_path], tmp_path / "model", recipe)


class TestScores:
    def test_average_precision(self):
        assert average_precision(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx(5 / 6)
        assert average_precision(np.array([1, 0]), np.array([0.5, 0.5])) == 0.5  # a tie is no success
        assert np.isnan(average_precision(np.zeros(2), np.ones(2)))

    def test_top1(self):
        rows = [
            {"kind": "sound", "classes": ["dog"]},
            {"kind": "sound", "classes": ["dog"]},
            {"kind": "sound", "classes": ["cat"]},
            {"kind": "sound", "classes": ["cat", "dog"]},
        ]
        result = top1_by_kind(rows, ["dog", "cat", "cat", "cow"])

        assert result["sound"]["accuracy"] == pytest.approx(2 / 3)
        assert result["sound"]["by_label"]["dog"] == {"accuracy": 0.5, "clips": 2}


class TestRecipes:
    def test_the_projects_recipe(self):
        recipe = load_beats_recipe("nano", bf16=False, learning_rate=0.5)
        model = new_model(recipe.model, {str(number): number for number in range(60)})

        assert recipe.training["learning_rate"] == 0.5
        assert recipe.model.max_clips == {"speech": 1500}
        assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 5e6

    @pytest.mark.parametrize(
        ("recipe", "overrides", "message"),
        [
            ("none", {}, "`recipe` must be a file or one of nano, got 'none'"),
            ("nano", {"learning_rte": 1}, "no field 'learning_rte', did you mean 'learning_rate'"),
            ("nano", {"crop_frames": 128}, r"`crop_frames` must be list\[int\], got 128"),
        ],
    )
    def test_errors(self, recipe, overrides, message):
        with pytest.raises(ValueError, match=message):
            load_beats_recipe(recipe, **overrides)
