# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Corpora: every row is answered once, whatever happens on the way, with the answers that it has alone."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from forked import run_forked

from cli_salmonn.main import main
from data_salmonn.journals import read_journals
from feature_extraction_salmonn import cut_at_silence
from serving_salmonn import engines
from serving_salmonn.answerers import Settings
from serving_salmonn.corpus import COLUMNS, Item, answer_corpus, make_batches, read_items, read_output, write_output
from serving_salmonn.engines import TransformersEngine, VllmEngine
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor


LENGTHS = (0.4, 1.2, 0.7, 5.0, 2.0, 0.9, 1.1, 0.5, 3.3, 1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "model"
    config = tiny_config(segment_seconds=4, max_audio_seconds=2, fixed_length=False)
    loaded = tiny_model(config)
    loaded.generation_config.max_new_tokens = 5
    loaded.save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Clips to transcribe, of one piece and of several; and every third row asks something."""
    folder = tmp_path_factory.mktemp("manifest")
    with open(folder / "corpus.jsonl", "w") as file:
        for number, seconds in enumerate(LENGTHS):
            soundfile.write(folder / f"{number}.wav", noise(seconds, number), 16000)
            row = {"id": f"row-{number}", "audio": f"{number}.wav"} | ({"question": "Who?"} if number % 3 == 2 else {})
            file.write(json.dumps(row) + "\n")
    return folder / "corpus.jsonl"


@pytest.fixture(scope="module")
def whole(model, manifest, tmp_path_factory):
    """The output of a job that nothing has interrupted."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    summary = answer_corpus(model, manifest, output, batch_size=3)
    assert (summary.rows, summary.answered_now, summary.errors) == (len(LENGTHS), len(LENGTHS), 0)
    assert summary.seconds_now == pytest.approx(sum(LENGTHS), abs=0.01)
    return output


def test_answers_are_those_of_each_clip_alone(model, whole):
    answerer = engines.Answerer(Settings(str(model)))
    processor = answerer.processor
    rows = list(read_output(whole))
    assert [row["id"] for row in rows] == [f"row-{number}" for number in range(len(LENGTHS))]  # as in the manifest
    for number, row in enumerate(rows):
        clip = noise(LENGTHS[number], number)
        clip = (clip * 32768).round().astype("float32").clip(-32768, 32767) / 32768  # as the files have it
        assert row["question"] == ("Who?" if number % 3 == 2 else None)
        pieces = [clip] if row["question"] or LENGTHS[number] <= 2 else list(cut_at_silence([clip], 32000, 16000))
        answers = []
        for piece in pieces:
            inputs = ask(processor, question(piece, text=row["question"] or processor.transcription_prompt))
            with torch.no_grad():
                output = answerer.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
            answers.append(processor.decode(output, skip_special_tokens=True).strip())
        assert row["answer"] == " ".join(filter(None, answers))
        if row["question"]:
            assert row["segments"] is None
            continue
        ends = np.cumsum([len(piece) for piece in pieces]) / 16000
        assert [segment["text"] for segment in row["segments"]] == answers
        assert [segment["end"] for segment in row["segments"]] == pytest.approx(ends, abs=1e-3)
        assert [segment["start"] for segment in row["segments"]] == pytest.approx([0, *ends[:-1]], abs=1e-3)
    assert len({row["answer"] for row in rows}) > 3


def test_parquet_holds_the_same(model, manifest, whole, tmp_path):
    pytest.importorskip("pyarrow")
    answer_corpus(model, manifest, tmp_path / "out.parquet", batch_size=3)
    assert list(read_output(tmp_path / "out.parquet")) == list(read_output(whole))


def test_an_interrupted_job_goes_on(model, manifest, whole, tmp_path, monkeypatch):
    output, asked = tmp_path / "out.jsonl", Counter()
    answer_batch = engines.answer_batch

    def interrupt(answerer, batch):
        if len(asked) > 4 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        asked.update(item.id for item in batch)
        return answer_batch(answerer, batch)

    interrupted = []
    monkeypatch.setattr(engines, "answer_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        answer_corpus(model, manifest, output, batch_size=3)
    work = tmp_path / "out.jsonl.work"
    before = len(read_journals(work))
    assert 4 < before < len(LENGTHS) and not output.exists()
    with open(work / "journal-000.jsonl", "a") as journal:
        journal.write('{"id": "row-1", "answ')  # a kill cuts a line
    with pytest.raises(ValueError, match="was begun otherwise, with batch_size=3: go on with that"):
        answer_corpus(model, manifest, output, batch_size=4)
    with pytest.raises(ValueError, match="was begun otherwise, with digest="):
        answer_corpus(model, manifest, output, batch_size=3, question="Who?")

    summary = answer_corpus(model, manifest, output, batch_size=3)
    assert summary.answered_now == len(LENGTHS) - before and set(asked.values()) == {1}
    assert output.read_bytes() == whole.read_bytes() and not work.exists()


def test_what_is_done_is_not_done_again(model, manifest, whole, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out.jsonl"
    output.write_bytes(whole.read_bytes())
    work = tmp_path / "out.jsonl.work"
    work.mkdir()
    (work / "journal-000.jsonl").write_text("")  # a process was killed when all was written
    monkeypatch.setattr(engines, "Answerer", None)  # nothing is loaded
    assert answer_corpus(model, manifest, output, batch_size=3).answered_now == 0
    assert not work.exists()
    with pytest.raises(ValueError, match="holds answers to other rows or questions"):
        answer_corpus(model, manifest, output, question="What?")
    assert output.read_bytes() == whole.read_bytes()
    assert main(["transcribe", str(model), str(manifest), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote {output}: {len(LENGTHS)} rows\n"


@pytest.mark.ecosystem
def test_several_processes_share_the_work(model, manifest, whole, tmp_path):
    arguments = ["transcribe", str(model), str(manifest), "--output", str(tmp_path / "out.jsonl"), "--batch-size", "3"]
    said = run_forked(arguments, 2, tmp_path)
    assert f"answered {len(LENGTHS)} rows" in said[0] and not said[1]
    assert (tmp_path / "out.jsonl").read_bytes() == whole.read_bytes()


def test_a_clip_that_cannot_be_read_is_an_error_of_its_row(model, manifest, tmp_path, capsys):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.flac", noise(1.0, number), 16000)
    content = (tmp_path / "1.flac").read_bytes()
    (tmp_path / "1.flac").write_bytes(content[:5000] + b"\0" * 400 + content[5400:])  # whose header is whole
    rows = [{"audio": f"{number}.flac"} for number in range(3)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    assert main(["transcribe", str(model), str(tmp_path / "manifest.jsonl"), "--output", str(output)]) == 0
    found = list(read_output(output))
    assert [row["answer"] is None for row in found] == [False, True, False]
    assert [row["error"] is None for row in found] == [True, False, True] and "1.flac" in found[1]["error"]
    assert "3 rows, 1 of them errors" in capsys.readouterr().out


def test_batches_are_of_clips_alike():
    items = [Item(str(number), ("x",), None, seconds) for number, seconds in enumerate((1, 90, 2, 31, 30, 3, 29))]
    batches = make_batches(items, 4, piece_seconds=30)
    assert [[item.seconds for item in batch] for batch in batches] == [[90], [31, 30, 29], [3, 2, 1]]
    assert sum(map(len, make_batches(items, 1, 30)), 0) == len(items)
    assert make_batches(items[::-1], 4, 30) == batches


def test_wrong_arguments_are_refused_before_anything_is_loaded(model, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "Answerer", None)
    output = tmp_path / "out.jsonl"
    for options, reason in (
        ({"engine": "tensorrt"}, "`engine` must be one of transformers, vllm, ray, got 'tensorrt'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"question": " "}, "`question` must not be empty"),
    ):
        with pytest.raises(ValueError, match=reason):
            answer_corpus(model, manifest, output, **options)
    with pytest.raises(ValueError, match=r"`output` must end in \.jsonl or \.parquet"):
        answer_corpus(model, manifest, tmp_path / "out.txt")
    doubled = tmp_path / "doubled.jsonl"
    row = json.dumps({"id": "a", "audio": str(Path(manifest.parent, "0.wav"))})
    doubled.write_text(f"{row}\n{row}\n")
    with pytest.raises(ValueError, match="an `id` of its own in each row, got 'a' more than once"):
        read_items(doubled)
    assert not output.exists() and not (tmp_path / "out.jsonl.work").exists()


def test_engines_refuse_what_they_cannot_do(tmp_path):
    with pytest.raises(ValueError, match="takes `max_new_tokens` only, got num_beams"):
        VllmEngine(Settings("model", generation={"num_beams": 4}))
    with pytest.raises(ValueError, match="`adapter` one is not for vLLM"):
        VllmEngine(Settings("model", adapter="one"))
    with pytest.raises(ValueError, match="`engine_options` are for vLLM, got max_model_len"):
        TransformersEngine(Settings("model", engine_options={"max_model_len": 4096}))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="`salmonn merge .* OUT` makes one model of both"):
        VllmEngine(Settings(str(tmp_path)))
    for settings, reason in ((Settings("x", workers=0), "`workers`"), (Settings("x", device="cpu"), "left to Ray")):
        with pytest.raises(ValueError, match=reason):
            engines.RayEngine(settings)
    assert TransformersEngine.batch_size < VllmEngine.batch_size


@pytest.mark.parametrize("text", ["a\u2028b", "half \ud800", "\ufeffa", "two\nlines"])
def test_rows_come_back_as_they_were(tmp_path, text):
    row = dict.fromkeys(COLUMNS) | {"id": "1", "answer": text, "seconds": 1.0}
    write_output(tmp_path / "out.jsonl", [row, row])
    assert list(read_output(tmp_path / "out.jsonl")) == [row, row]
