# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The forms in which rows come: names of columns, files, conversations, and rows of `datasets` as they are."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from tiny_training import small_model, small_processor

from audio_reading_salmonn import measure_file
from cli_salmonn import inference
from cli_salmonn.main import main
from data_salmonn.audio import read_audio
from data_salmonn.chats import read_chat, to_conversation
from data_salmonn.datasets import load_training_data
from data_salmonn.files import UNFINISHED, whole_file, write_json
from data_salmonn.manifests import ManifestError, read_manifest, validate_manifest
from data_salmonn.mixing import MixturePart, mix
from data_salmonn.prompts import PromptBank
from session_salmonn import SalmonnSession
from tiny_salmonn import noise, tiny_config, tiny_processor
from training_salmonn.collator import SalmonnDataCollator


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2):
        soundfile.write(tmp_path / f"{number}.wav", noise(number, seed=number), 16000)
    return tmp_path


def write(file, *rows: dict):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read(processor, batch) -> str:
    """The text of the first row of a batch, without its clips."""
    ids = batch["input_ids"][0]
    return processor.tokenizer.decode(ids[ids != processor.audio_token_id]).replace("<Speech> <", "<Speech><")


USER = {"role": "user", "content": "<audio>Who barks?"}
ANSWER = {"role": "assistant", "content": "A dog."}
PLAIN = {"audio": "1.wav", "question": "Who barks?", "text": "A dog."}
TYPED = [{"type": "audio", "audio": "1.wav"}, {"type": "text", "text": "Who barks?"}]


@pytest.mark.parametrize(
    "row",
    [
        PLAIN,
        {"path": "1.wav", "Q": "Who barks?", "answer": "A dog."},
        {"file_name": "1.wav", "question": "Who barks?", "reference": "A dog."},
        {"audio": ["1.wav"], "question": "Who barks?", "transcription": "A dog."},
        {"audio": "1.wav", "path": "elsewhere.wav", "question": "Who barks?", "sentence": "A dog."},
        {"messages": [USER, ANSWER], "audios": ["1.wav"]},
        {"messages": [{"role": "user", "content": "Who barks?"}, ANSWER], "audios": "1.wav"},
        {"messages": [{"role": "user", "content": TYPED}, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}, TYPED[1]]}, ANSWER], "audio": "1.wav"},
        {
            "conversations": [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": "A dog."}],
            "audios": ["1.wav"],
        },
    ],
)
def test_one_row_in_many_forms(folder, row):
    expected = read_manifest(write(folder / "plain.jsonl", {**PLAIN, "id": "x"}))
    assert read_manifest(write(folder / "train.jsonl", {**row, "id": "x"})) == expected
    assert expected[0].task is None and expected[0].messages is None


def test_a_question_without_a_task_is_asked_as_it_stands(folder):
    dataset = load_training_data(write(folder / "train.jsonl", PLAIN))
    processor = tiny_processor(tiny_config())
    for use_test_prompts in (False, True):
        batch = SalmonnDataCollator(processor, use_test_prompts=use_test_prompts)([dataset[0]])
        assert "USER: <Speech></Speech> Who barks?\nASSISTANT: A dog.</s>" in read(processor, batch)
    mixed = mix([MixturePart(dataset, caps={"question": 1}), MixturePart(dataset)])
    assert mixed["task"][:] == [None, None]
    assert load_training_data(folder / "train.jsonl", task="QA")["task"][:] == ["QA"]


@pytest.mark.parametrize("name", ["manifest.tsv", "manifest.json", "manifest.jsonl", "manifest.csv", "metadata.jsonl"])
def test_files_and_their_folders(folder, name):
    cells = ["audio", "text", "task"], ["1.wav", 'say "a, b"', "asr"]
    if name.endswith("jsonl"):
        write(folder / name, dict(zip(*cells)))
    elif name.endswith("json"):
        (folder / name).write_text(json.dumps([dict(zip(*cells))]), encoding="utf-8-sig")
    else:
        quoted = [cells[0], ["1.wav", '"say ""a, b"""', "asr"]]
        separator = "\t" if name.endswith("tsv") else ","
        (folder / name).write_text("".join(separator.join(line) + "\n" for line in quoted), encoding="utf-8")
    (row,) = read_manifest(folder)
    assert (row.paths, row.text, row.task) == ((str(folder / "1.wav"),), 'say "a, b"', "asr")
    assert row.id.startswith(f"{name}:") and load_training_data(folder)["text"][:] == [row.text]


def test_librispeech_as_it_is_unpacked(tmp_path):
    chapter = tmp_path / "1089" / "134686"
    chapter.mkdir(parents=True)
    for name in ("1089-134686-0000", "1089-134686-0001"):
        soundfile.write(chapter / f"{name}.flac", noise(0.1), 16000)
    (chapter / "1089-134686.trans.txt").write_text("1089-134686-0000 HE HOPED\n1089-134686-0001 STUFF IT\n")
    rows = read_manifest(tmp_path)
    assert [(row.id, row.text, row.task) for row in rows] == [
        ("1089-134686-0000", "HE HOPED", "asr"),
        ("1089-134686-0001", "STUFF IT", "asr"),
    ]
    (chapter / "1089-134686-0001.flac").unlink()
    (problem,) = validate_manifest(tmp_path)
    assert problem.row == 2 and "no such file" in problem.reason


def test_conversations_are_learnt_in_all_their_turns(folder):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<audio>Who barks?"},
        ANSWER,
        {"role": "user", "content": "And here? <audio>"},
        {"role": "assistant", "content": "Nobody."},
    ]
    dataset = load_training_data(write(folder / "train.jsonl", {"messages": turns, "audios": ["1.wav", "2.wav"]}))
    assert dataset[0]["text"] == "Nobody." and dataset[0]["length"] == pytest.approx(3)
    plain = load_training_data(write(folder / "plain.jsonl", PLAIN))
    processor = tiny_processor(tiny_config())
    for row in mix([MixturePart(dataset), MixturePart(plain)], streaming=True):
        batch = SalmonnDataCollator(processor)([row])
        learnt = processor.tokenizer.decode(batch["labels"][batch["labels"] != -100])
        assert learnt.split() == (["A", "dog.</s>", "Nobody.</s>"] if row["messages"] else ["A", "dog.</s>"])
        assert len(batch["input_features"]) == (2 if row["messages"] else 1)
    text = read(processor, SalmonnDataCollator(processor)([dataset[0]]))
    assert "Be brief.\nUSER: <Speech></Speech> Who barks?\nASSISTANT: A dog.</s>" in text
    assert "USER: And here? <Speech></Speech>\nASSISTANT: Nobody.</s>" in text
    with pytest.raises(ValueError, match=r"train\.jsonl:1.*got 2 and 1 clips"):
        SalmonnDataCollator(processor)([{**dataset[0], "audio": dataset[0]["audio"][:1]}])
    with pytest.raises(ValueError, match=r"train\.jsonl:1.*at most 3 tokens"):
        SalmonnDataCollator(processor, max_text_tokens=3)([dataset[0]])


BAD_CHATS = [
    ({"messages": [USER], "audios": ["1.wav"]}, "end with an answer, got ['user']"),
    ({"messages": [USER, ANSWER, ANSWER], "audios": ["1.wav"]}, "questions and answers in turns"),
    ({"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "must be of one of human, gpt, user"),
    ({"messages": [USER, ANSWER]}, "more <audio> marks than clips"),
    ({"messages": [USER, ANSWER], "audios": ["1.wav", "2.wav"]}, "2 clips, but 1 <audio> marks"),
    ({"messages": [USER, {"role": "assistant", "content": "<audio>"}], "audios": ["1.wav"]}, "an answer must be text"),
    ({"messages": [USER, {"role": "assistant", "content": ""}], "audios": ["1.wav"]}, "the assistant is empty"),
    ({"messages": [{"role": "user", "content": 3}, ANSWER]}, "must be a string or a list of parts, got 3"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "of type 'text' or 'audio'"),
    ({"messages": "hello"}, "`messages` must be a list of messages"),
    ({"messages": [USER, ANSWER], "audios": ["1.wav"], "text": "a"}, "`text` and `question` must go"),
    ({"messages": [{"role": "user", "content": "Hm?"}, ANSWER]}, "`audios` must be a path, got nothing"),
    ({"messages": [USER, ANSWER, USER, {**ANSWER, "content": "w " * 300}], "audios": ["1.wav"] * 2}, "at most 300"),
]


def test_bad_conversations_are_reported_at_once(folder):
    problems = validate_manifest(write(folder / "train.jsonl", *(row for row, _ in BAD_CHATS)))
    assert [problem.row for problem in problems] == list(range(1, len(BAD_CHATS) + 1))
    for problem, (_, reason) in zip(problems, BAD_CHATS):
        assert reason in problem.reason


def test_clips_stand_where_their_marks_are():
    columns, clips = read_chat(
        {"messages": [{"role": "user", "content": "One <audio> and <audio>?"}, ANSWER], "audios": ["a", "b"]}
    )
    assert clips == ["a", "b"]
    first, second = to_conversation(columns["messages"], ["A", "B"])
    assert [part.get("audio") or part["text"] for part in first["content"]] == ["One", "A", "and", "B", "?"]
    assert second == ANSWER


@pytest.mark.parametrize("streaming", [False, True])
def test_conversations_of_data_sets(folder, streaming):
    paths = [[str(folder / "1.wav")], [str(folder / "1.wav"), str(folder / "2.wav")]]
    messages = [[USER, ANSWER], [USER, ANSWER, {"role": "user", "content": "<audio>Here?"}, ANSWER]]
    source = datasets.Dataset.from_dict({"messages": messages, "audios": paths, "votes": [1, 2]})
    loaded = list(load_training_data(source, streaming=streaming))
    assert [row["question"] for row in loaded] == ["Who barks?", None]
    assert loaded[0]["messages"] is None and json.loads(loaded[1]["messages"]) == messages[1]
    assert [[len(read_audio(clip)) for clip in row["audio"]] for row in loaded] == [[16000], [16000, 32000]]
    # as it was loaded, and saved
    again = load_training_data(load_training_data(source))
    assert again["messages"][:] == [row["messages"] for row in loaded]
    bad = datasets.Dataset.from_dict({"messages": [messages[0], messages[0]], "audios": [[], paths[0]]})
    with pytest.raises(ManifestError, match="0: there are more <audio> marks than clips") as error:
        load_training_data(bad)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_arrays_with_their_rates(streaming):
    rows = [
        {"audio": {"array": noise(0.5, seed=i)[: 4000 * (i + 1)].tolist(), "sampling_rate": 8000 * (i + 1)}}
        | {"text": "a", "task": "asr"}
        for i in range(2)
    ]
    dataset = load_training_data(datasets.Dataset.from_list(rows), streaming=streaming)
    clips = [read_audio(row["audio"]) for row in dataset]
    assert [len(clip) for clip in clips] == [8000, 8000]
    np.testing.assert_allclose(clips[1], noise(0.5, seed=1), atol=1e-7)


def test_rows_of_datasets_as_they_come():
    class Decoder:  # what torchcodec's AudioDecoder offers
        def get_all_samples(self):
            return SimpleNamespace(data=torch.from_numpy(np.stack([noise(1), noise(1)])), sample_rate=16000)

    processor = tiny_processor(tiny_config())
    rows = [{"audio": clip, "text": "a", "question": "What?"} for clip in (Decoder(), noise(1))]
    batch = SalmonnDataCollator(processor)(rows)
    torch.testing.assert_close(batch["input_features"][0], batch["input_features"][1])
    with pytest.raises(ValueError, match="must come with its `sampling_rate`"):
        read_audio({"array": noise(1)})


def test_headers_are_read_once(folder, monkeypatch):
    file = write(folder / "train.jsonl", PLAIN, {**PLAIN, "audio": "2.wav"})
    calls = []
    monkeypatch.setattr("data_salmonn.audio.measure_file", lambda *names: calls.append(1) or measure_file(*names))
    assert validate_manifest(file) == []
    load_training_data(file)
    assert len(calls) == 2
    soundfile.write(folder / "1.wav", noise(0.5), 16000)  # a file that changed is read again
    assert [row.length for row in read_manifest(file)] == [0.5, 2] and len(calls) == 3


def test_rows_that_are_only_asked_need_no_answer(folder):
    file = write(folder / "ask.jsonl", {"audio": "1.wav", "question": "Who?"})
    assert "`text` must be a string" in validate_manifest(file)[0].reason
    assert read_manifest(file, needs_text=False)[0].text is None


def test_a_manifest_is_asked_row_by_row(folder, monkeypatch, capsys):
    model, processor, asked = small_model(), small_processor(), []
    monkeypatch.setattr("cli_salmonn.inference.load", lambda *arguments: (model, processor))
    prepare, ask = inference.prepare, SalmonnSession.ask
    monkeypatch.setattr(inference, "prepare", lambda *arguments: asked.append(arguments[2]) or prepare(*arguments))
    monkeypatch.setattr(SalmonnSession, "ask", lambda session, text: asked.append(text) or ask(session, text))
    rows = [{"audio": "1.wav"}, {"audio": "2.wav", "question": "Who?"}, {"audio": "1.wav", "task": "keywords"}]
    file = write(folder / "ask.jsonl", *rows)
    assert main(["ask", "model", str(file), "--max-new-tokens", "2"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["id"] for answer in answers] == ["ask.jsonl:1", "ask.jsonl:2", "ask.jsonl:3"]
    assert asked == [answer["question"] for answer in answers] == [None, "Who?", PromptBank.load()["keywords"].test]
    assert main(["ask", "model", str(write(file, {"audio": "gone.wav"}, {"audio": "none.wav"}))]) == 2
    assert "1: `audio` gone.wav: there is no such file" in capsys.readouterr().err


def test_files_appear_whole_or_not_at_all(tmp_path):
    file = tmp_path / "folder" / "results.json"
    write_json(file, {"a": "é"})
    with pytest.raises(KeyboardInterrupt), whole_file(file) as unfinished:
        unfinished.write_text("half")
        assert unfinished.name.endswith(UNFINISHED)
        raise KeyboardInterrupt
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": "é"}
    assert list(file.parent.iterdir()) == [file]
