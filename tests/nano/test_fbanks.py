# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Filter banks of made clips in a file, and the crops of them that a BEATs hears in training."""

import numpy as np
import pytest

from nano_salmonn.beats_classifier import make_targets, read_rows
from nano_salmonn.fbanks import CropArguments, FbankAlteration, FbankFile, RandomCrops, pad_fbanks
from tiny_beats import EXTRACTOR, NOTHING, make_split, render


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return make_split(tmp_path_factory.mktemp("clips"))


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


def test_are_those_of_the_extractor_and_made_once(split, tmp_path, monkeypatch):
    rows = read_rows([split])
    fbanks = FbankFile(rows, EXTRACTOR, tmp_path)
    expected = EXTRACTOR(render(rows[2]), sampling_rate=16000)["input_features"][0]
    assert fbanks[2] == pytest.approx(expected, abs=0.05)  # 16 bits of sound, then of features
    assert fbanks[2].dtype == np.float16
    assert list(fbanks.lengths) == [len(fbank) for fbank in fbanks]

    monkeypatch.setattr(FbankFile, "_write", None)
    assert np.array_equal(FbankFile(rows, EXTRACTOR, tmp_path)[2], fbanks[2])


def test_other_clips_have_another_file(split, tmp_path):
    for rows in (read_rows([split]), read_rows([split])[:3]):
        assert len(FbankFile(rows, EXTRACTOR, tmp_path)) == len(rows)
    assert len(list(tmp_path.glob("fbanks-*.npy"))) == 2


def test_crops_depend_on_the_seed_and_their_number_alone(crops_of):
    first, again, other = crops_of(), crops_of(), crops_of(seed=1)
    again[3]

    assert np.array_equal(first[7]["input_features"], again[7]["input_features"])
    assert not np.array_equal(first[7]["input_features"], other[7]["input_features"])


def test_crops_of_a_batch_are_equally_long(crops_of):
    crops = crops_of(presentations=80, crop_frames=[20, 40])
    lengths = [len(crops[number]["input_features"]) for number in range(80)]

    assert all(len(set(lengths[first : first + 8])) == 1 for first in range(0, 80, 8))
    assert set(lengths) == {20, 40}


def test_clips_of_sounds_in_turn_are_not_cropped(crops_of):
    crops = crops_of(crop_frames=[40, 120], stretch=0.0, mixup_probability=0.0, presentations=200)
    items = [crops[number] for number in range(200)]
    found = {(len(item["input_features"]), int(item["labels"].sum())) for item in items}

    assert found == {(40, 1), (48, 1), (98, 2)}


def test_joined_crops_keep_their_targets_apart(crops_of):
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


def test_nothing_that_can_be_joined(crops_of):
    crops = crops_of()
    nothing = np.zeros(len(crops.fbanks), dtype=bool)
    arguments = CropArguments(crop_frames=[200], join_probability=0.1)
    with pytest.raises(ValueError, match="`join_probability` is not 0, for which there are no clips"):
        RandomCrops(crops.fbanks, crops.targets, nothing, EXTRACTOR, arguments, batch_size=8)


def test_no_clips_for_a_length(crops_of):
    crops = crops_of()
    nothing = np.zeros(len(crops.fbanks), dtype=bool)
    with pytest.raises(ValueError, match="`crop_frames` has 20, for which there are no clips"):
        RandomCrops(crops.fbanks, crops.targets, nothing, EXTRACTOR, CropArguments(crop_frames=[20]), batch_size=8)


def test_labels_are_equally_frequent(crops_of):
    crops = crops_of(crop_frames=[20, 200], presentations=400, mixup_probability=0.0)
    targets = crops.targets.copy()
    targets[4:, 0] = 0  # one clip with castanets is left
    croppable = np.ones(len(targets), dtype=bool)
    crops = RandomCrops(crops.fbanks, targets, croppable, EXTRACTOR, crops.arguments, batch_size=8)
    counts = sum(crops[number]["labels"] for number in range(400))

    assert counts.min() > 70


def test_a_mixture_has_both_labels_and_both_sounds(crops_of):
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


def test_sums_are_of_energies():
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, 16000))
    fbanks = EXTRACTOR.extract_fbank(np.stack([*samples, samples.sum(axis=0)]))
    alter = FbankAlteration(EXTRACTOR, NOTHING)

    assert alter.add(*fbanks[:2]).mean() == pytest.approx(fbanks[2].mean(), abs=0.03)
    louder = EXTRACTOR.extract_fbank(samples[:1] * 10)
    heard = louder > alter.floor + 0.5
    assert (louder - fbanks[:1])[heard] == pytest.approx(20 * alter.decibel, abs=1e-4)


def test_nothing_is_changed_if_all_is_off(split, tmp_path):
    fbank = FbankFile(read_rows([split]), EXTRACTOR, tmp_path)[2].astype(np.float32)
    alter, rng = FbankAlteration(EXTRACTOR, NOTHING), np.random.default_rng(0)

    # but for the floor, which float16 has missed by a little
    crop = alter.shift(fbank, alter.choose_frames(fbank, 200, rng), rng)
    assert alter.disturb(crop, rng) == pytest.approx(fbank, abs=1e-3)


def test_crops_hold_what_is_loud():
    fbank = np.full((300, 128), -2.0, dtype=np.float32)
    fbank[140:150] = 1.0
    alter = FbankAlteration(EXTRACTOR, CropArguments(stretch=0.3))
    for seed in range(50):
        rng = np.random.default_rng(seed)
        crop = alter.shift(fbank, alter.choose_frames(fbank, 40, rng), rng)
        assert crop.shape == (40, 128)
        assert crop.max() == 1.0


def test_masks():
    fbank = np.random.default_rng(0).standard_normal((100, 128)).astype(np.float32)
    settings = NOTHING.__dict__ | {"time_masks": 1, "mel_masks": 1, "time_mask_share": 0.5, "mel_mask_bins": 20}
    alter = FbankAlteration(EXTRACTOR, CropArguments(**settings))
    plain = np.maximum(fbank, np.float32(alter.floor))
    masked = [alter.disturb(fbank, np.random.default_rng(seed)) != plain for seed in range(50)]
    frames, bins = ([mask.all(axis=axis).sum() for mask in masked] for axis in (1, 0))

    assert 40 < max(frames) <= 50
    assert 15 < max(bins) <= 20


def test_padding():
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
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CropArguments(**settings)
