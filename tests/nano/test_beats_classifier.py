# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A small BEATs learns the labels of made clips, and is an ordinary BEATs afterwards."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import pipeline

from cli_salmonn.main import main
from configuration_beats import BeatsConfig
from conversion_salmonn.parts import read_beats
from feature_extraction_beats import BeatsFeatureExtractor
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
from nano_salmonn.data_makers.clips import write_clips
from nano_salmonn.fbanks import CropArguments, FbankAlteration, FbankFile, RandomCrops, pad_fbanks


TINY = {
    "beats": {
        "patch_embed_dim": 16,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "layerdrop": 0.0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.1,
    },
    "max_clips": {"speech": 3},
    "presentations": 640,
    "crop_frames": [32, 100],
    "mel_shift": 2,
    "mixup_probability": 0.2,
    "gain_db": 3.0,
    "equalizer_db": 2.0,
    "noise_probability": 0.1,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-2,
    "warmup_steps": 3,
    "save_steps": 20,
    "eval_strategy": "steps",
    "eval_steps": 20,
    "report_to": [],
    "disable_tqdm": True,
}
NOTHING = CropArguments(
    stretch=0.0,
    mel_shift=0,
    gain_db=0.0,
    equalizer_db=0.0,
    mixup_probability=0.0,
    noise_probability=0.0,
    time_masks=0,
    mel_masks=0,
)
EXTRACTOR = BeatsFeatureExtractor()


def sound_of(label: str, rng: np.random.Generator) -> np.ndarray:
    """Half a second of what a label sounds like here."""
    time = np.arange(8000) / 16000
    noise = rng.standard_normal(8000)
    if label == "whistle":
        return np.sin(2 * np.pi * 3000 * time)
    if label == "rain":
        return 0.3 * noise
    if label == "castanets":
        return noise * np.exp(-200 * (time % 0.1))
    return np.sin(2 * np.pi * (200 + 2000 * time) * time)  # speech is a chirp


def render(row: dict) -> np.ndarray:
    """The sounds of the labels, one after the other, in faint hiss."""
    rng = np.random.default_rng(row["seed"])
    labels = (*row.get("classes", ()), *row.get("instruments", ())) or ("speech",)
    clip = np.concatenate([sound_of(label, rng) for label in labels])
    return 0.3 * clip + 0.003 * rng.standard_normal(len(clip))


def make_split(folder, clips_each: int = 4):
    """Clips of each label alone, and of two sounds."""
    facts = [
        {"kind": "sound", "classes": ["whistle"], "arrangement": "single"},
        {"kind": "sound", "classes": ["rain"], "arrangement": "single"},
        {"kind": "sound", "classes": ["rain", "whistle"], "arrangement": "sequence"},
        {"kind": "music", "instruments": ["castanets"]},
        {"kind": "speech", "text": "a"},
    ]
    rows = [
        {"id": f"{number}-{take}", "seed": 10 * take + number, **fact}
        for take in range(clips_each)
        for number, fact in enumerate(facts)
    ]
    write_clips(folder, rows, render, workers=1)
    return folder


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


@pytest.fixture
def crops_of(split, tmp_path):
    """Makes `RandomCrops` of the split from arguments."""

    def make(seed: int = 0, **arguments):
        rows = read_rows([split])
        targets = make_targets(rows, {"castanets": 0, "rain": 1, "speech": 2, "whistle": 3})
        croppable = targets.sum(axis=1) == 1
        fbanks = FbankFile(rows, EXTRACTOR, tmp_path)
        return RandomCrops(fbanks, targets, croppable, EXTRACTOR, CropArguments(**arguments), batch_size=8, seed=seed)

    return make


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

    def test_the_command_scores_it(self, trained, split, tmp_path, capsys):
        copy = shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("training", "scores.json"))

        assert main(["nano", "score-beats", str(copy), str(split)]) == 0

        expected = score_beats(trained, [split]) | {"model": str(copy)}
        assert json.loads((copy / "scores.json").read_text()) == expected
        assert capsys.readouterr().out == f"wrote {copy / 'scores.json'}\n"

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

    def test_goes_on_from_another_one(self, trained, recipe):
        known = BeatsForAudioClassification.from_pretrained(trained, dtype=torch.float32)

        model = new_model(replace(recipe.model, start=str(trained)), {"bell": 0, "whistle": 1})

        expected, state = known.beats.state_dict(), model.beats.state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        row = known.config.label2id["whistle"]
        assert torch.equal(model.classifier.weight[1], known.classifier.weight[row])
        assert model.classifier.bias[0].sigmoid().item() == pytest.approx(0.5)  # one of two labels is expected

    def test_goes_on_from_one_of_its_sizes_only(self, trained, recipe):
        wider = replace(recipe.model, start=str(trained), beats={**recipe.model.beats, "hidden_size": 64})

        with pytest.raises(ValueError, match="`start` .* must have the sizes of `beats`"):
            new_model(wider, {"rain": 0})


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


class TestFbanks:
    def test_are_those_of_the_extractor_and_made_once(self, split, tmp_path, monkeypatch):
        rows = read_rows([split])
        fbanks = FbankFile(rows, EXTRACTOR, tmp_path)
        expected = EXTRACTOR(render(rows[2]), sampling_rate=16000)["input_features"][0]
        assert fbanks[2] == pytest.approx(expected, abs=0.05)  # 16 bits of sound, then of features
        assert fbanks[2].dtype == np.float16
        assert list(fbanks.lengths) == [len(fbank) for fbank in fbanks]

        monkeypatch.setattr(FbankFile, "_write", None)
        assert np.array_equal(FbankFile(rows, EXTRACTOR, tmp_path)[2], fbanks[2])

    def test_other_clips_have_another_file(self, split, tmp_path):
        for rows in (read_rows([split]), read_rows([split])[:3]):
            assert len(FbankFile(rows, EXTRACTOR, tmp_path)) == len(rows)
        assert len(list(tmp_path.glob("fbanks-*.npy"))) == 2

    def test_crops_depend_on_the_seed_and_their_number_alone(self, crops_of):
        first, again, other = crops_of(), crops_of(), crops_of(seed=1)
        again[3]

        assert np.array_equal(first[7]["input_features"], again[7]["input_features"])
        assert not np.array_equal(first[7]["input_features"], other[7]["input_features"])

    def test_crops_of_a_batch_are_equally_long(self, crops_of):
        crops = crops_of(presentations=80, crop_frames=[20, 40])
        lengths = [len(crops[number]["input_features"]) for number in range(80)]

        assert all(len(set(lengths[first : first + 8])) == 1 for first in range(0, 80, 8))
        assert set(lengths) == {20, 40}

    def test_clips_of_sounds_in_turn_are_not_cropped(self, crops_of):
        crops = crops_of(crop_frames=[40, 120], stretch=0.0, mixup_probability=0.0, presentations=200)
        items = [crops[number] for number in range(200)]
        found = {(len(item["input_features"]), int(item["labels"].sum())) for item in items}

        assert found == {(40, 1), (48, 1), (98, 2)}

    def test_joined_crops_keep_their_targets_apart(self, crops_of):
        crops = crops_of(crop_frames=[40], join_probability=0.5, mixup_probability=0.0, stretch=0.0, presentations=200)
        items = [crops[number] for number in range(200)]
        joined = [item for item in items if item["part_frames"][1]]

        assert 60 < len(joined) < 140
        assert all(len(item["input_features"]) == item["part_frames"].sum() == 40 for item in joined)
        assert {int(item["part_frames"][0]) for item in joined} <= set(range(12, 28))
        # crops are of clips with one label, and each label comes first and second
        assert all(item["labels"].sum(axis=1).tolist() == [1, 1] for item in joined)
        assert all(np.any([item["labels"] for item in joined], axis=0).ravel())
        alone = [item for item in items if not item["part_frames"][1]]
        assert all(item["labels"][1].sum() == 0 for item in alone)

    def test_nothing_that_can_be_joined(self, crops_of):
        crops = crops_of()
        nothing = np.zeros(len(crops.fbanks), dtype=bool)
        arguments = CropArguments(crop_frames=[200], join_probability=0.1)
        with pytest.raises(ValueError, match="`join_probability` is not 0, for which there are no clips"):
            RandomCrops(crops.fbanks, crops.targets, nothing, EXTRACTOR, arguments, batch_size=8)

    def test_no_clips_for_a_length(self, crops_of):
        crops = crops_of()
        nothing = np.zeros(len(crops.fbanks), dtype=bool)
        with pytest.raises(ValueError, match="`crop_frames` has 20, for which there are no clips"):
            RandomCrops(crops.fbanks, crops.targets, nothing, EXTRACTOR, CropArguments(crop_frames=[20]), batch_size=8)

    def test_labels_are_equally_frequent(self, crops_of):
        crops = crops_of(crop_frames=[20, 200], presentations=400, mixup_probability=0.0)
        targets = crops.targets.copy()
        targets[4:, 0] = 0  # one clip with castanets is left
        croppable = np.ones(len(targets), dtype=bool)
        crops = RandomCrops(crops.fbanks, targets, croppable, EXTRACTOR, crops.arguments, batch_size=8)
        counts = sum(crops[number]["labels"] for number in range(400))

        assert counts.min() > 70

    def test_a_mixture_has_both_labels_and_both_sounds(self, crops_of):
        alter = FbankAlteration(EXTRACTOR, CropArguments(mixup_db=0.0))
        crops = crops_of()
        whistle, rain = (crops.fbanks[number].astype(np.float32) for number in (0, 1))
        mixed = alter.mix(whistle, rain, np.random.default_rng(0))
        rain = rain + alter.level(whistle) - alter.level(rain)

        louder = np.maximum(whistle, rain)
        assert (mixed >= louder - 1e-4).all()
        assert (mixed <= louder + 3.02 * alter.decibel).all()
        always = crops_of(mixup_probability=1.0, presentations=50)
        assert max(always[number]["labels"].sum() for number in range(50)) >= 2

    def test_sums_are_of_energies(self):
        samples = 0.1 * np.random.default_rng(0).standard_normal((2, 16000))
        fbanks = EXTRACTOR.extract_fbank(np.stack([*samples, samples.sum(axis=0)]))
        alter = FbankAlteration(EXTRACTOR, NOTHING)

        assert alter.add(*fbanks[:2]).mean() == pytest.approx(fbanks[2].mean(), abs=0.03)
        louder = EXTRACTOR.extract_fbank(samples[:1] * 10)
        heard = louder > alter.floor + 0.5
        assert (louder - fbanks[:1])[heard] == pytest.approx(20 * alter.decibel, abs=1e-4)

    def test_nothing_is_changed_if_all_is_off(self, split, tmp_path):
        fbank = FbankFile(read_rows([split]), EXTRACTOR, tmp_path)[2].astype(np.float32)
        alter, rng = FbankAlteration(EXTRACTOR, NOTHING), np.random.default_rng(0)

        # but for the floor, which float16 has missed by a little
        crop = alter.shift(fbank, alter.choose_frames(fbank, 200, rng), rng)
        assert alter.disturb(crop, rng) == pytest.approx(fbank, abs=1e-3)

    def test_crops_hold_what_is_loud(self):
        fbank = np.full((300, 128), -2.0, dtype=np.float32)
        fbank[140:150] = 1.0
        alter = FbankAlteration(EXTRACTOR, CropArguments(stretch=0.3))
        for seed in range(50):
            rng = np.random.default_rng(seed)
            crop = alter.shift(fbank, alter.choose_frames(fbank, 40, rng), rng)
            assert crop.shape == (40, 128)
            assert crop.max() == 1.0

    def test_masks(self):
        fbank = np.random.default_rng(0).standard_normal((100, 128)).astype(np.float32)
        settings = NOTHING.__dict__ | {"time_masks": 1, "mel_masks": 1, "time_mask_share": 0.5, "mel_mask_bins": 20}
        alter = FbankAlteration(EXTRACTOR, CropArguments(**settings))
        plain = np.maximum(fbank, np.float32(alter.floor))
        masked = [alter.disturb(fbank, np.random.default_rng(seed)) != plain for seed in range(50)]
        frames, bins = ([mask.all(axis=axis).sum() for mask in masked] for axis in (1, 0))

        assert 40 < max(frames) <= 50
        assert 15 < max(bins) <= 20

    def test_padding(self):
        items = [{"input_features": np.ones((n, 128), np.float32), "labels": np.ones(3, np.float32)} for n in (5, 8)]
        batch = pad_fbanks(items)

        assert batch["attention_mask"].sum(dim=1).tolist() == [5, 8]
        assert batch["input_features"].sum(dim=(1, 2)).tolist() == [5 * 128, 8 * 128]
        assert batch["labels"].shape == (2, 3)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"crop_frames": []}, "`crop_frames` must hold"),
            ({"presentations": 0}, "`presentations` must be at least 1, got 0"),
            ({"join_probability": 1.5}, "`join_probability` must be in"),
            ({"join_probability": 0.5, "crop_frames": [3]}, "`crop_frames` must be long enough for two parts"),
            ({"stretch": 1.0}, "`stretch` must be in"),
            ({"noise_db": [0.0, -5.0]}, "`noise_db` must be the lowest and the highest"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            CropArguments(**settings)


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
