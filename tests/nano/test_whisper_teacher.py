# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A small BEATs learns to write what a layer of Whisper makes of clips."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import run_forked
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from data_salmonn.audio import read_audio
from modeling_beats import BeatsForAudioClassification
from nano_salmonn.beats_classifier import load_beats_recipe, make_targets, new_model, read_rows, train_beats
from nano_salmonn.fbanks import CropArguments, FbankFile, RandomCrops, pad_fbanks
from nano_salmonn.whisper_teacher import TeacherArguments, WhisperTeacher, teacher_loss
from tiny_beats import EXTRACTOR, NOTHING, TINY, make_split


LABELS = {"castanets": 0, "rain": 1, "speech": 2, "whistle": 3}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return make_split(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = WhisperConfig(
        d_model=24,
        encoder_layers=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_ffn_dim=8,
        init_std=0.2,
        **heads,
    )
    torch.manual_seed(0)
    WhisperModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher_of(split, whisper, tmp_path_factory):
    """Makes a teacher of the split's clips."""
    rows = read_rows([split])
    folder = tmp_path_factory.mktemp("teacher")
    fbanks = FbankFile(rows, EXTRACTOR, folder)

    def make(**arguments):
        arguments = {"teacher": str(whisper), "teacher_components": 8} | arguments
        return WhisperTeacher(rows, fbanks.lengths, TeacherArguments(**arguments), folder)

    return make


class TestStates:
    @torch.no_grad()
    def test_are_those_of_the_layer(self, teacher_of, whisper, split):
        teacher, row = teacher_of(), read_rows([split])[3]
        model = WhisperModel.from_pretrained(whisper).encoder
        extract = WhisperFeatureExtractor(feature_size=80)
        mels = extract(read_audio(row["path"]), sampling_rate=16000, padding="longest", return_tensors="pt")
        mels = mels.input_features[..., :48]  # as many frames of 10 ms as the filter bank has
        states = torch.nn.functional.gelu(model.conv2(torch.nn.functional.gelu(model.conv1(mels))))
        states = states.transpose(1, 2) + model.embed_positions.weight[: states.shape[2]]
        states = model.layers[0](states, None)
        expected = states[0].unflatten(0, (12, 2)).mean(1)

        start, end = teacher.starts[3:5]
        found = torch.from_numpy(teacher.states[start:end].astype(np.float32))
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)

    def test_layers_differ(self, teacher_of):
        first, second = teacher_of(), teacher_of(teacher_layer=2)

        assert np.abs(first.states.astype(np.float32) - second.states.astype(np.float32)).max() > 0.1

    def test_are_read_again(self, teacher_of, monkeypatch):
        expected = teacher_of().states
        monkeypatch.setattr(WhisperTeacher, "_write", None)

        assert np.array_equal(teacher_of().states, expected)

    def test_are_whitened(self, teacher_of):
        teacher = teacher_of()
        # one patch of 16 frames reads the states of its frames 2, 6, 10 and 14: of four states each
        numbers = np.repeat(np.arange(len(teacher.states) // 4 * 4), 4)

        targets, is_known = teacher.patches(numbers, 16)
        components = targets.reshape(-1, 8)

        assert is_known.all()
        assert components.mean(axis=0) == pytest.approx(np.zeros(8), abs=0.1)
        assert np.cov(components, rowvar=False) == pytest.approx(np.eye(8), abs=0.1)


class TestTargets:
    def test_belong_to_the_frames(self, teacher_of):
        teacher = teacher_of()
        numbers = teacher.numbers(2, np.arange(8, 40))  # two patches from the third state of the clip on

        targets, is_known = teacher.patches(numbers, 16)

        states = teacher.states[teacher.starts[2] + 2 : teacher.starts[2] + 10].astype(np.float32)
        expected = ((states - teacher.mean) @ teacher.projection).reshape(2, 32)
        assert targets == pytest.approx(expected, abs=1e-5)
        assert is_known.tolist() == [1, 1]

    def test_are_unknown_where_anything_is(self, teacher_of):
        numbers = teacher_of().numbers(0, np.arange(39))
        numbers[20:24] = -1

        targets, is_known = teacher_of().patches(numbers, 16)

        assert is_known.tolist() == [1, 0]
        assert targets[0].any() and not targets[1].any()

    def test_of_crops(self, teacher_of, split, tmp_path):
        teacher, rows = teacher_of(), read_rows([split])
        targets = make_targets(rows, LABELS)
        settings = NOTHING.__dict__ | {"crop_frames": [40], "presentations": 100, "mixup_probability": 0.5}
        fbanks = FbankFile(rows, EXTRACTOR, tmp_path)
        arguments = CropArguments(**settings | {"join_probability": 0.5})
        crops = RandomCrops(fbanks, targets, targets.sum(1) == 1, EXTRACTOR, arguments, 10, teacher=teacher)
        items = [crops[number] for number in range(100)]
        all_states, _ = teacher.patches(np.arange(len(teacher.states)).repeat(4), 4)

        unmixed = [item for item in items if item["labels"].sum() == (item["part_frames"] > 0).sum()]
        mixed = [item for item in items if item["labels"][0].sum() == 2 and item["part_frames"][1] == 0]
        assert mixed and not any(item["teacher_mask"].any() for item in mixed)
        known = [item for item in unmixed if item["teacher_mask"].all()]
        assert len(known) > 20
        for item in known:
            # Products of matrices of other shapes round differently: by 5e-7 here. No two states are closer than 0.1.
            differences = np.abs(item["teacher_states"].reshape(-1, 1, 8) - all_states).max(axis=-1)
            assert (differences.min(axis=1) < 1e-4).all()
        batch = pad_fbanks(items[:10])
        assert batch["teacher_states"].shape == (10, 2, 32)
        assert batch["teacher_mask"].shape == (10, 2)

    def test_crops_are_the_same_without_a_teacher(self, teacher_of, split, tmp_path):
        rows = read_rows([split])
        targets = make_targets(rows, LABELS)
        arguments = CropArguments(crop_frames=[40], presentations=10, join_probability=0.5)
        common = FbankFile(rows, EXTRACTOR, tmp_path), targets, targets.sum(1) == 1, EXTRACTOR, arguments, 10
        taught, plain = RandomCrops(*common, teacher=teacher_of()), RandomCrops(*common)

        for number in range(10):
            assert np.array_equal(taught[number]["input_features"], plain[number]["input_features"])
            assert "teacher_mask" not in plain[number]

    def test_loss(self):
        targets = torch.tensor([[[1.0, 0.0], [5.0, 5.0]]])

        assert teacher_loss(torch.zeros(1, 2, 2), targets, torch.tensor([[1.0, 0.0]])).item() == 0.5
        assert teacher_loss(torch.zeros(1, 2, 2), targets, torch.zeros(1, 2)).item() == 0


class TestTraining:
    @pytest.mark.parametrize("join", [0.0, 0.5])
    def test_writes_states_of_the_teacher(self, join, split, whisper, tmp_path):
        file = tmp_path / "recipe.json"
        taught = {"teacher": str(whisper), "teacher_components": 4, "teacher_weight": 1.0, "join_probability": join}
        file.write_text(json.dumps(TINY | taught | {"save_strategy": "no", "logging_steps": 10, "presentations": 960}))

        output = train_beats([split], [split], tmp_path / "model", load_beats_recipe(file))

        losses = [loss for _, loss in json.loads((output / "training" / "curves.json").read_text())["loss"]]
        model = BeatsForAudioClassification.from_pretrained(output)
        assert not any("teacher" in name for name in model.state_dict())
        assert losses[-1] < 1.1 < 1.4 < losses[0]  # states that are not learnt have 1, and labels 0.4 in the end

    def test_resumed_run_ends_the_same(self, split, whisper, tmp_path):
        overrides = {"teacher": str(whisper), "teacher_components": 4, "presentations": 320, "save_steps": 10}
        file = tmp_path / "recipe.json"
        file.write_text(json.dumps(TINY | overrides))
        recipe = load_beats_recipe(file)
        whole = train_beats([split], [split], tmp_path / "whole", recipe)
        (tmp_path / "half" / "training").mkdir(parents=True)
        (tmp_path / "half" / "training" / "checkpoint-10").symlink_to(whole / "training" / "checkpoint-10")

        half = train_beats([split], [split], tmp_path / "half", recipe, resume=True)

        expected, state = (
            BeatsForAudioClassification.from_pretrained(folder).state_dict() for folder in (whole, half)
        )
        assert all(torch.equal(state[name], expected[name]) for name in expected)

    def test_two_processes(self, split, whisper, tmp_path):
        file, output = tmp_path / "recipe.json", tmp_path / "model"
        taught = {"teacher": str(whisper), "teacher_components": 4, "join_probability": 0.5, "presentations": 128}
        file.write_text(json.dumps(TINY | taught | {"logging_steps": 1, "save_strategy": "no"}))
        command = [
            "nano",
            "train-beats",
            output,
            "--recipe",
            file,
            "--train",
            split,
            "--validation",
            split,
            "--test",
            split,
        ]

        said = run_forked([str(word) for word in command], 2, tmp_path)

        losses = [loss for _, loss in json.loads((output / "training" / "curves.json").read_text())["loss"]]
        assert len(losses) == 4  # of 32 crops each
        assert BeatsForAudioClassification.from_pretrained(output).config.num_labels == 4
        assert json.loads((output / "scores.json").read_text())["test_folders"] == [str(split)]
        assert [words.count(f"wrote {output}") for words in said] == [1, 0]  # one of them wrote it, and says so


class TestErrors:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"teacher_layer": 3}, "`teacher_layer` must be at most 2, the layers of .*, got 3"),
            ({"teacher_layer": 0}, "`teacher_layer` must be at least 1, got 0"),
            ({"teacher_components": 25}, "`teacher_components` must be at most 24, the width of .*, got 25"),
            ({"teacher_weight": 0.0}, "`teacher_weight` must be above 0, got 0"),
            ({"teacher": "/no/folder"}, "teacher"),
        ],
    )
    def test_arguments(self, teacher_of, arguments, message):
        with pytest.raises(ValueError, match=message):
            teacher_of(**arguments)

    def test_clip_that_is_too_long(self, split, whisper, tmp_path):
        rows = read_rows([split])[:2]

        with pytest.raises(ValueError, match=f"at most 30 s for `teacher`, {rows[1]['path']} is longer"):
            WhisperTeacher(rows, np.array([50, 3001]), TeacherArguments(str(whisper), 1, 8), tmp_path)

    def test_patches_that_states_do_not_fit(self, split, whisper, tmp_path):
        file = tmp_path / "recipe.json"
        file.write_text(json.dumps(TINY | {"teacher": str(whisper), "beats": TINY["beats"] | {"patch_size": 2}}))

        with pytest.raises(ValueError, match="`patch_size` of `beats` must be a multiple of 4 frames.* got 2"):
            train_beats([split], [split], tmp_path / "model", load_beats_recipe(file))
        assert not list(tmp_path.rglob("*.npy"))

    def test_is_off_by_default(self):
        recipe = load_beats_recipe("nano")

        assert TeacherArguments().teacher is None
        assert not hasattr(new_model(replace(recipe.model), {"a": 0}), "teacher_head")
