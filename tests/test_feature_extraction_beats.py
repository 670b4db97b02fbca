# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Filter banks of BEATs: equal to those of the released code, whatever else is in the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor

from feature_extraction_beats import BeatsFeatureExtractor, kaldi_mel_filters, povey_window, validate_waveform


FIXTURES = Path(__file__).parent / "fixtures" / "beats"
EXPECTED = load_file(FIXTURES / "expected.safetensors")


@pytest.fixture(scope="module")
def waveforms() -> dict[str, np.ndarray]:
    """The clips as the released SALMONN hears them: at least one second long."""
    with np.load(FIXTURES / "waveforms.npz") as file:
        clips = {name: file[name] / 2.0**15 for name in file.files}
    return {name: np.pad(clip, (0, max(0, 16000 - len(clip)))) for name, clip in clips.items()}


@pytest.fixture
def extractor() -> BeatsFeatureExtractor:
    return BeatsFeatureExtractor()


@pytest.mark.parametrize("name", ["short", "speech", "pair", "stereo", "long"])
def test_equals_the_released_code(extractor, waveforms, name):
    features = extractor(waveforms[name][:480000], sampling_rate=16000, return_tensors="pt")["input_features"][0]
    assert features.dtype == torch.float32
    step = 41 if name == "long" else 5
    torch.testing.assert_close(features[::step], EXPECTED[f"{name}/fbank"], atol=5e-5, rtol=1e-5)


def test_a_frame_computed_step_by_step(extractor, waveforms):
    frame = waveforms["speech"][3200:3600] * 2**15
    frame = frame - frame.mean()
    frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    np.testing.assert_allclose(povey_window(400), window, atol=1e-12)
    power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
    energy = power[:256] @ kaldi_mel_filters(128, 16000, 512).numpy()
    expected = (np.log(np.maximum(energy, np.finfo(np.float32).eps)) - 15.41663) / (2 * 6.55582)
    np.testing.assert_allclose(extractor.extract_fbank(waveforms["speech"][None])[0, 20], expected, atol=1e-6)


def test_silence_is_the_floor(extractor):
    np.testing.assert_allclose(extractor.extract_fbank(np.zeros((1, 800))), -2.3917, atol=1e-4)


def test_a_clip_does_not_depend_on_its_batch(extractor, waveforms):
    names = ["short", "stereo", "speech"]
    batch = extractor([waveforms[name] for name in names], sampling_rate=16000, return_tensors="np")
    for row, mask, name in zip(batch["input_features"], batch["attention_mask"], names):
        alone = extractor(waveforms[name], sampling_rate=16000, return_tensors="np")["input_features"][0]
        assert mask.sum() == len(alone) == extractor.num_frames(len(waveforms[name]))
        np.testing.assert_allclose(row[: len(alone)], alone, atol=1e-6)
        assert not row[len(alone) :].any() and not mask[len(alone) :].any()


@pytest.mark.parametrize("samples, frames", [(399, 0), (400, 1), (559, 1), (560, 2), (16000, 98), (480000, 2998)])
def test_number_of_frames(extractor, samples, frames):
    assert extractor.num_frames(samples) == frames
    if frames:
        assert extractor.extract_fbank(np.zeros((2, samples), np.float32)).shape == (2, frames, 128)


def test_kinds_of_input(extractor):
    clip = np.random.default_rng(0).uniform(-1, 1, 800).astype(np.float32)
    expected = extractor(clip, sampling_rate=16000)["input_features"]
    assert expected.shape == (1, 3, 128)
    for same in (clip.astype(np.float64), torch.from_numpy(clip), clip.tolist(), [clip], clip[None], [clip.tolist()]):
        np.testing.assert_array_equal(extractor(same, sampling_rate=16000)["input_features"], expected)


def test_padding_and_truncation(extractor):
    clips = [np.zeros(800), np.zeros(1600)]
    batch = extractor(clips, sampling_rate=16000, pad_to_multiple_of=16, return_tensors="pt")
    assert batch["input_features"].shape == (2, 16, 128)
    assert batch["attention_mask"].sum(1).tolist() == [3, 8]
    batch = extractor(clips, sampling_rate=16000, padding="max_length", max_length=5, truncation=True)
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert "attention_mask" not in extractor(clips, sampling_rate=16000, return_attention_mask=False)
    assert [len(row) for row in extractor(clips, sampling_rate=16000, padding=False)["input_features"]] == [3, 8]


@pytest.mark.parametrize(
    "raw_speech, error, message",
    [
        (np.zeros(800, np.int16), TypeError, "`raw_speech` must hold floating-point samples .* got dtype int16"),
        (torch.zeros(800, dtype=torch.int16), TypeError, "got dtype int16"),
        ([1, 2, 3], TypeError, "got dtype int"),
        (["a", "b"], TypeError, "`raw_speech` must hold floating-point"),
        ("clip.wav", TypeError, "`raw_speech` must be an array, a tensor or a list of floats, got str"),
        (None, TypeError, "got NoneType"),
        ([], ValueError, "`raw_speech` is empty"),
        (np.zeros((2, 800)), ValueError, r"list of clips, got an array of shape \(2, 800\)"),
        ([np.zeros(800), np.zeros(0)], ValueError, r"`raw_speech\[1\]` is empty"),
        (np.zeros(399), ValueError, "at least one frame of 400 samples"),
        (np.zeros((1, 2, 800)), ValueError, r"of shape \(1, 2, 800\)"),
        ([np.zeros((2, 800))], ValueError, r"`raw_speech\[0\]` must be one mono clip .* got shape \(2, 800\)"),
        (np.full(800, np.nan), ValueError, "finite"),
        (np.full(800, np.inf), ValueError, "finite"),
    ],
)
def test_audio_that_is_refused(extractor, raw_speech, error, message):
    with pytest.raises(error, match=message):
        extractor(raw_speech, sampling_rate=16000)


def test_wrong_sampling_rate(extractor):
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000.*got 44100"):
        extractor(np.zeros(800), sampling_rate=44100)


def test_sizes_that_contradict():
    with pytest.raises(ValueError, match="`feature_size` .80. must equal `num_mel_bins` .128."):
        BeatsFeatureExtractor(feature_size=80)


def test_validation_keeps_the_samples():
    clip = validate_waveform("clip", torch.tensor([0.5, -0.25], dtype=torch.bfloat16))
    assert clip.dtype == np.float64
    assert clip.tolist() == [0.5, -0.25]


def test_save_and_load(tmp_path):
    extractor = BeatsFeatureExtractor(num_mel_bins=64, fbank_mean=1.0)
    extractor.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(loaded, BeatsFeatureExtractor)
    assert loaded.to_dict() == extractor.to_dict() | {"auto_map": loaded.auto_map}
    assert loaded.feature_size == loaded.num_mel_bins == 64
    assert loaded.extract_fbank(np.zeros((1, 800))).shape == (1, 3, 64)
