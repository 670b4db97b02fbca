"""Clips to the packed tensor: against Whisper's and BEATs' own extractors, in batches, and refused if they are bad."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from feature_extraction_beats import BeatsFeatureExtractor
from feature_extraction_salmonn import SalmonnFeatureExtractor
from tiny_salmonn import noise


def extract(clips, **settings):
    return SalmonnFeatureExtractor(**settings)(clips, sampling_rate=16000, return_tensors="pt")


@pytest.mark.parametrize("mel_bins", [80, 128])
def test_rows_are_whispers_and_beats(mel_bins):
    clip = noise(7.77)
    features = extract(clip, feature_size=mel_bins)
    mel = WhisperFeatureExtractor(mel_bins)(clip, sampling_rate=16000, return_tensors="pt").input_features
    fbank = BeatsFeatureExtractor()(clip, sampling_rate=16000, return_tensors="pt").input_features
    assert features.input_features.shape == (1, mel_bins + 128, 3000)
    torch.testing.assert_close(features.input_features[:, :mel_bins], mel)
    torch.testing.assert_close(features.input_features[:, mel_bins:, : fbank.shape[1]], fbank.transpose(1, 2))
    assert not features.input_features[:, mel_bins:, fbank.shape[1] :].any()
    assert features.input_features_mask.sum() == fbank.shape[1] == 1 + (len(clip) - 400) // 160


def test_less_than_a_second_is_padded_to_one():
    assert extract(noise(0.1)).input_features_mask.sum() == 98


@pytest.mark.parametrize("fixed_length", [True, False])
def test_a_clip_does_not_depend_on_its_batch(fixed_length):
    clips = [noise(1.3, 1), noise(12, 2), noise(0.4, 3), noise(31, 4)]
    together = extract(clips, fixed_length=fixed_length)
    first = 0
    for clip in clips:
        alone = extract(clip, fixed_length=fixed_length)
        rows = slice(first, first := first + len(alone.input_features))
        frames = alone.input_features.shape[-1]
        torch.testing.assert_close(together.input_features[rows, :, :frames], alone.input_features, atol=2e-6, rtol=0)
        assert torch.equal(together.input_features_mask[rows, :frames], alone.input_features_mask)
        assert not together.input_features_mask[rows, frames:].any()
        if not fixed_length:
            assert not together.input_features[rows, :, frames:].any()


def test_long_clips_become_segments_and_lose_nothing():
    clip = noise(70)
    features = extract([clip, noise(2)])
    assert features.input_features.shape == (4, 208, 3000)
    assert features.input_features_mask.amax(-1).tolist() == [1, 2, 3, 1]
    for i in range(3):
        alone = extract(clip[i * 480000 : (i + 1) * 480000]).input_features[0]
        torch.testing.assert_close(features.input_features[i], alone, atol=2e-6, rtol=0)


def test_real_length_is_whole_encoder_frames():
    extractor = SalmonnFeatureExtractor(fixed_length=False)
    for samples in (1, 16000, 16001, 16320, 479999, 480000, 480001):
        features = extractor(noise(samples / 16000), sampling_rate=16000, return_tensors="pt")
        frames = [length // 320 for length in extractor.segment_lengths(samples)]
        assert features.input_features.shape == (len(frames), 208, 3000)
        short = extractor(noise(samples / 16000), sampling_rate=16000, padding="longest", return_tensors="pt")
        assert short.input_features.shape[-1] == 2 * max(frames)
        for name in ("input_features", "input_features_mask"):
            assert torch.equal(features[name][..., : 2 * max(frames)], short[name])
            assert not features[name][..., 2 * max(frames) :].any()
        # the relation by which the model finds the number of frames again
        assert ((features.input_features_mask != 0).sum(-1) // 2 + 1).tolist() == frames


def test_speech_only_has_no_filter_banks():
    features = extract(noise(2), num_fbank_bins=0)
    assert features.input_features.shape == (1, 80, 3000)
    assert features.input_features_mask.sum() == 198


def test_mask_is_called_as_the_asr_pipeline_calls_it_on_request():
    extractor = SalmonnFeatureExtractor()
    features = extractor(noise(2), sampling_rate=16000, return_attention_mask=True)
    assert set(features) == {"input_features", "attention_mask"}


def test_text_arguments_do_not_crop_audio():
    extractor = SalmonnFeatureExtractor()
    features = extractor(noise(2), sampling_rate=16000, max_length=10, truncation=True, padding=False)
    assert features.input_features.shape == (1, 208, 3000)


def test_inputs_of_every_kind_give_the_same():
    clip = noise(1.5)
    expected = extract(clip).input_features
    for same in (
        torch.tensor(clip),
        clip.tolist(),
        [clip],
        (torch.tensor(clip),),
        clip[None],
        clip.astype(np.float64),
    ):
        torch.testing.assert_close(extract(same).input_features, expected, atol=1e-6, rtol=0)


def test_round_trip(tmp_path):
    extractor = SalmonnFeatureExtractor(feature_size=128, num_fbank_bins=0, fixed_length=False)
    extractor.save_pretrained(tmp_path)
    loaded = SalmonnFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert torch.equal(
        loaded(noise(1), sampling_rate=16000, return_tensors="pt").input_features,
        extractor(noise(1), sampling_rate=16000, return_tensors="pt").input_features,
    )


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        (np.zeros(0, dtype=np.float32), ValueError, "empty"),
        ([], ValueError, "raw_speech"),
        (np.array([0.1, np.nan], dtype=np.float32), ValueError, "NaN"),
        (np.array([0.1, np.inf], dtype=np.float32), ValueError, "inf"),
        (np.zeros(16000, dtype=np.int16), TypeError, "int16"),
        (np.zeros((2, 16000), dtype=np.float32), ValueError, "mono"),
        (np.zeros((16000, 2), dtype=np.float32), ValueError, "mono"),
        ([noise(1), np.zeros((2, 16000), dtype=np.float32)], ValueError, "mono"),
        (None, TypeError, "raw_speech"),
        ({"array": noise(1)}, TypeError, "raw_speech"),
    ],
)
def test_bad_audio_is_refused(clip, error, message):
    with pytest.raises(error, match=message):
        extract(clip)


@pytest.mark.parametrize("sampling_rate", [None, 8000, 44100])
def test_wrong_and_missing_sampling_rates_are_refused(sampling_rate):
    with pytest.raises(ValueError, match=f"16000.*{sampling_rate}"):
        SalmonnFeatureExtractor()(noise(1), sampling_rate=sampling_rate)
