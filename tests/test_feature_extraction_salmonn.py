"""Clips to the packed tensor: against Whisper's and BEATs' own extractors, in batches, and refused if they are bad."""

import tracemalloc

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from feature_extraction_beats import BeatsFeatureExtractor
from feature_extraction_salmonn import SalmonnFeatureExtractor, cut_at_silence
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
    assert features.segment_ids.tolist() == [0, 1, 2, 0]
    assert features.input_features_mask.unique().tolist() == [0, 1]
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


def test_the_asr_pipeline_gets_a_row_for_each_clip():
    extractor = SalmonnFeatureExtractor()
    clip = noise(65)
    clip[16000 * 25 : 16000 * 26] = 0
    clips = [noise(2), clip]
    features = extractor(clips, sampling_rate=16000, return_attention_mask=True)
    assert set(features) == {"input_features", "attention_mask"}
    assert features["input_features"].shape == (2, 9000, 208) and features["attention_mask"].shape == (2, 9000)
    assert features["attention_mask"].sum(-1).tolist()[0] == 198
    segments = extractor(clips, sampling_rate=16000, cut_at_silence=True)
    for i, features_of_segment in enumerate(segments["input_features"][1:]):
        assert np.array_equal(features["input_features"][1, 3000 * i : 3000 * (i + 1)].T, features_of_segment)


def test_clips_are_cut_where_they_are_quiet_and_nothing_is_lost():
    clip = noise(70)
    for quiet in (27.0, 48.5):
        clip[int(16000 * quiet) : int(16000 * (quiet + 0.3))] *= 1e-3
    pieces = list(cut_at_silence([clip], 480000, 16000))
    assert np.array_equal(np.concatenate(pieces), clip) and len(pieces) == 3
    ends = np.cumsum([len(piece) for piece in pieces])[:-1] / 16000
    assert 27.0 <= ends[0] <= 27.3 and 48.5 <= ends[1] <= 48.8
    # digital silence is cut as late as can be, and no piece is too long whatever comes
    assert [len(piece) for piece in cut_at_silence([np.zeros(1000000)], 480000, 16000)] == [479840, 479840, 40320]
    for seconds in (30.01, 59.99, 60, 95.123):
        pieces = list(cut_at_silence([noise(seconds)], 480000, 16000))
        assert max(map(len, pieces)) <= 480000 and sum(map(len, pieces)) == int(16000 * seconds)


@pytest.mark.parametrize("size", [100, 1999, 16000, 700000])
def test_cuts_do_not_depend_on_blocks(size):
    longest = 32000 if size == 100 else 480000
    clip = noise(8 if size == 100 else 95.123)
    clip[16000 * 3 : 16000 * 4] = 0
    blocks = [clip[start : start + size] for start in range(0, len(clip), size)]
    found, expected = (list(cut_at_silence(parts, longest, 16000)) for parts in (blocks, [clip]))
    assert [len(piece) for piece in found] == [len(piece) for piece in expected] and len(found) > 2
    assert np.array_equal(np.concatenate(found), clip)


def test_cutting_takes_no_more_memory_than_a_piece():
    minute = noise(60)
    tracemalloc.start()
    taken = sum(len(piece) for piece in cut_at_silence((minute.copy() for _ in range(20)), 480000, 16000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken == 20 * len(minute) and peak < 5 * minute.nbytes


def test_no_more_blocks_are_taken_than_a_piece_needs():
    second, taken = noise(1), []
    blocks = (taken.append(number) or second for number in range(1000))
    first = next(SalmonnFeatureExtractor().split_for_transcription(blocks))
    assert len(first) <= 480000 and len(taken) < 33


def test_only_long_clips_are_cut_at_silence():
    clip = noise(61)
    fixed = extract(clip)
    pieces = SalmonnFeatureExtractor(max_audio_seconds=None)._cut(clip, True)
    assert [len(piece) for piece in pieces] == [480000, 480000, 16000]
    shorter = SalmonnFeatureExtractor(max_audio_seconds=12)._cut(clip, True)
    assert max(map(len, shorter)) <= 12 * 16000 and len(shorter) >= 6
    assert len(fixed.segment_ids) == 3 and len(SalmonnFeatureExtractor()._cut(clip[:480000], True)) == 1


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
