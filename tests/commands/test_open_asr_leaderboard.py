# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The script for the Open ASR leaderboard: a folder of clips becomes a manifest, WER and RTFx."""

import csv
import json
from pathlib import Path

import pytest
import soundfile

from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor


pytest.importorskip("datasets")
pytest.importorskip("jiwer")
from examples.open_asr_leaderboard import run_eval  # noqa: E402


TEXTS = {"0.wav": "Good morning!", "1.wav": "It's the colour grey.", "2.wav": "...", "3.wav": "Two dogs bark."}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(max_audio_seconds=2, fixed_length=False)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    config.transcription_separator_ids = processor.transcription_separator_ids()
    tiny_model(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    """Clips of 8 kHz and a manifest, one clip longer than the model was trained on, one without a text to compare."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate(TEXTS):
        soundfile.write(folder / name, noise(0.5 + number, seed=number)[::2], 8000)
    with open(folder / "metadata.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("audio", "text"), *TEXTS.items()])
    return folder


def test_manifest_and_scores(model, data, tmp_path, capsys):
    options = [f"--model_id={model}", f"--dataset_path={data}", f"--output={tmp_path / 'results'}", "--dtype=float32"]
    wer, rtfx = run_eval.main([*options, "--batch_size=2", "--max_new_tokens=6", "--warmup_steps=1"])

    (file,) = (tmp_path / "results").iterdir()
    assert file.name.startswith("MODEL_") and file.name.endswith("_default_test.jsonl") and "_DATASET_" in file.name
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["audio_filepath"] for row in rows] == ["0.wav", "1.wav", "3.wav"]
    assert [row["text"] for row in rows] == [TEXTS[row["audio_filepath"]] for row in rows]  # as they are
    assert [row["duration"] for row in rows] == pytest.approx([0.5, 1.5, 3.5])
    assert all(row["time"] > 0 and row["pred_text"] for row in rows)
    assert rtfx == pytest.approx(5.5 / sum(row["time"] for row in rows))
    assert wer > 0 and f"WER: {wer:.2f} %" in capsys.readouterr().out

    # a clip's transcript does not depend on its batch, and goes on to the end of a long clip
    loaded = run_eval.Transcriber(
        *(auto.from_pretrained(model) for auto in (run_eval.AutoModelForMultimodalLM, run_eval.AutoProcessor)),
        max_new_tokens=6,
        num_beams=1,
    )
    for row in rows:
        clip = {"path": str(data / row["audio_filepath"])}
        assert loaded({"audio": [clip], "text": [""]})["pred_text"] == [row["pred_text"]]
    longest = loaded.processor.tokenizer(rows[-1]["pred_text"], add_special_tokens=False).input_ids
    assert len(longest) > 6  # of two pieces


def test_wer_is_of_the_normalised_corpus():
    pairs = [("Good morning!", "good  morning"), ("It is a dog, isn't it?", "it's a cat isn't it"), ("Mr. Smith", "")]
    rows = [{"text": text, "pred_text": said, "duration": 2.0, "time": 0.5} for text, said in pairs]
    # "it is a dog is not it" has 7 words, one of them wrong; "mister smith" is lost: 3 of 11
    assert run_eval.score(rows) == pytest.approx((100 * 3 / 11, 4.0))


def test_names_of_manifests_are_the_boards(tmp_path):
    row = dict.fromkeys(run_eval.RESULTS, 0)
    file = run_eval.write_manifest([row], tmp_path, "org/model", "hf-audio/open-asr-leaderboard", "ami", "test")
    assert file.name == "MODEL_org-model_DATASET_hf-audio-open-asr-leaderboard_ami_test.jsonl"


def test_data_that_cannot_be_scored(data, monkeypatch):
    Path(data, "metadata.csv").write_text("audio,text\n0.wav,?\n")
    with pytest.raises(ValueError, match="has no row with a text"):
        run_eval.load_data(str(data), None, "test")
    Path(data, "metadata.csv").write_text("audio,text\ngone.wav,x\n")
    with pytest.raises(ValueError, match="gone.wav"):
        run_eval.load_data(str(data), None, "test")


def test_a_data_set_of_the_hub(monkeypatch, data):
    """With another name of the texts, and undecoded audio."""
    found = run_eval.Dataset.from_dict(
        {"audio": [str(data / "0.wav")] * 3, "sentence": ["a", run_eval.NOT_SCORED, "b"]}
    )
    asked = []
    monkeypatch.setattr(run_eval, "load_dataset", lambda *args, **options: asked.append((args, options)) or found)
    rows = run_eval.load_data("hf-audio/open-asr-leaderboard", "ami", "test", max_samples=2)
    assert asked == [(("hf-audio/open-asr-leaderboard", "ami"), {"split": "test"})]
    assert rows["text"][:] == ["a"] and rows[0]["audio"]["path"].endswith("0.wav")
    monkeypatch.setattr(run_eval, "load_dataset", lambda *args, **options: found.rename_column("sentence", "words"))
    with pytest.raises(ValueError, match="must have the column audio and one of text, sentence"):
        run_eval.load_data("some/set", None, "test")
