"""Clips that are read block by block: the samples are those of reading them at once, and so is what is wrong with them."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_reading_salmonn import BLOCK_FRAMES, read_blocks, read_file
from cli_salmonn import audio_files
from cli_salmonn.inference import Listener
from data_salmonn import audio
from data_salmonn.audio import open_audio, read_audio
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor


def write(path: Path, seconds: float, rate: int, channels: int = 1) -> Path:
    samples = np.stack([noise(seconds * rate / 16000, seed) for seed in range(channels)], axis=1)
    soundfile.write(path, samples, rate)
    return path


@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2), (8000, 1), (11025, 3)])
@pytest.mark.parametrize("seconds", [0.01, 40])
def test_blocks_are_the_file(tmp_path, rate, channels, seconds):
    file = write(tmp_path / "a.wav", seconds, rate, channels)
    blocks = list(read_blocks(file, 16000, "a"))
    whole = read_file(file, 16000, "a")
    assert np.array_equal(np.concatenate(blocks), whole) and whole.dtype == np.float32
    assert len(whole) == -(-int(seconds * rate) * 16000 // rate)
    assert seconds < 1 or len(blocks) > 1
    assert max(map(len, blocks)) <= BLOCK_FRAMES * max(1, 16000 / rate) + 16000


def test_a_header_that_names_no_length(tmp_path, monkeypatch):
    """MP3 and piped WAV end elsewhere than their header says: what is read is what there is."""
    file = write(tmp_path / "a.wav", 40, 16000)
    monkeypatch.setattr("audio_reading_salmonn._resampled_length", lambda *_: 1000)
    assert np.array_equal(read_file(file, 16000, "a"), soundfile.read(file, dtype="float32")[0])


@pytest.mark.parametrize("kept_seconds", [600, 1])
def test_a_recording_can_be_gone_through_again(tmp_path, monkeypatch, kept_seconds):
    monkeypatch.setattr(audio, "KEPT_SECONDS", kept_seconds)
    one, two = write(tmp_path / "a.flac", 30, 22050), write(tmp_path / "b.wav", 1, 16000)
    clips = [str(one), {"bytes": two.read_bytes()}, noise(0.5), {"array": noise(1), "sampling_rate": 8000}]
    for clip in (clips, *clips):
        recording, expected = open_audio(clip), read_audio(clip)
        assert recording.num_samples == len(expected)
        for _ in range(2):
            assert np.array_equal(np.concatenate(list(recording)), expected)
    soundfile.write(one, np.zeros(100, np.float32), 22050)
    recording = open_audio(str(one))
    one.unlink()
    assert sum(map(len, recording)) == recording.num_samples  # short ones are kept


def test_what_is_wrong_at_the_end_is_found_first(tmp_path):
    samples = noise(40)
    samples[-1] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"`audio` .*a.wav must hold finite samples"):
        audio_files.open_clip(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="at least one clip, got an empty list"):
        open_audio([])
    with pytest.raises(ValueError, match="`silence_seconds` must be from 0 to 60"):
        open_audio([noise(1)], silence_seconds=-1)
    with pytest.raises(ValueError, match="does not exist"):
        audio_files.open_clip(tmp_path / "b.wav")


def test_no_more_than_some_pieces_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "KEPT_SECONDS", 1)
    config = tiny_config(segment_seconds=4, max_audio_seconds=3, fixed_length=False)
    listener = Listener(tiny_model(config), tiny_processor(config))
    monkeypatch.setattr(listener, "_transcribe", lambda pieces, _: [""] * len(pieces))
    samples = 300 * 16000
    soundfile.write(tmp_path / "a.wav", np.tile(noise(10), 30), 16000)
    tracemalloc.start()
    last = list(listener.transcribe(audio_files.open_clip(tmp_path / "a.wav")))[-1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last.end == 300 and peak < 4 * samples / 3


def test_a_recording_is_transcribed_as_its_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "KEPT_SECONDS", 1)
    config = tiny_config(segment_seconds=4, max_audio_seconds=3, fixed_length=False)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    listener = Listener(tiny_model(config), processor, max_new_tokens=4)
    for seconds in (2, 40):
        file = write(tmp_path / "a.wav", seconds, 16000)
        segments = list(listener.transcribe(audio_files.open_clip(file)))
        assert segments == list(listener.transcribe(audio_files.read_clip(file)))
        assert segments[-1].end == seconds and (len(segments) > 13) == (seconds == 40)
