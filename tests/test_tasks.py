# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Tasks as data, where their examples come from, and what is refused before anything is generated."""

import csv
import json

import datasets
import numpy as np
import pytest
import soundfile
from tiny_evaluation import SENTENCES, make_task, write_manifest

from data_salmonn.audio import measure_audio, read_audio
from data_salmonn.manifests import ManifestError
from data_salmonn.prompts import PromptBank
from evaluation_salmonn.data import concatenate, data_digest, load_examples
from evaluation_salmonn.judge import load_prompt
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.task import list_tasks, load_task, load_tasks


def change_row(path, index: int, **changes) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[index].update(changes)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", list_tasks())
def test_task_files(name):
    task = load_task(name)
    assert task.name == name
    assert {published.metric for published in task.published} <= {entry.name for entry in task.metrics}
    assert len({entry.name for entry in task.metrics}) == len(task.metrics)
    roles = dict.fromkeys(task.columns, "x")
    assert task.prompt.format(**roles)
    for entry in task.metrics:
        load_metric(entry.metric).missing_parts(**entry.options)  # options have the names that the metric knows
    for prompt in task.judges:
        assert load_prompt(prompt).user.format(prompt="p", answer="a", reference="r")
    assert task.dataset.get("path") or task.dataset.get("note")


def test_the_papers_tasks_are_there():
    levels = {level: {task.name for task in load_tasks([f"level{level}"])} for level in (1, 2, 3)}
    assert [len(levels[level]) for level in (1, 2, 3)] == [11, 5, 2]
    assert len(load_tasks(["asr_paper"])) == 14
    assert len(load_tasks(["level1", "asr_librispeech_clean"])) == 11
    values = {p.model: p.value for p in load_task("sqqa_wikiqa").published if p.metric == "following_rate"}
    assert values["SALMONN 13B"] == 0.98
    assert values["SALMONN 13B without activation tuning"] == 0.29


def test_unknown_tasks_and_bad_files(tmp_path):
    with pytest.raises(ValueError, match="Did you mean asr_librispeech_clean"):
        load_tasks(["asr_libri_clean"])
    with pytest.raises(ValueError, match="at least one task"):
        load_tasks([])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="broken.json is damaged"):
        load_task(tmp_path / "broken.json")
    with pytest.raises(ValueError, match="got \\['colour'\\] in 'tiny'"):
        make_task(colour="red")
    with pytest.raises(ValueError, match="higher_is_better.*'wer'"):
        make_task(metrics=[{"name": "wer", "metric": "wer", "higher_is_better": True}])
    with pytest.raises(ValueError, match="must name 'reference'"):
        make_task(columns={"audio": "audio"})
    with pytest.raises(ValueError, match="role in `columns`, got 'transcript'"):
        make_task(metrics=[{"name": "wer", "metric": "wer", "higher_is_better": False, "references": "transcript"}])
    with pytest.raises(ValueError, match="does not fit"):
        make_task(metrics=[{"metric": "wer"}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "What is {0.__class__}?"}, "roles of `columns` alone in braces"),
        ({"prompt": "What {colour}?"}, "roles of `columns` alone in braces"),
        ({"prompt": "What {id"}, "cannot be filled"),
        ({"name": "../escape"}, "must be letters, digits"),
        ({"prompt_source": "paper"}, "must be 'own', 'row' or 'bank:TASK', got 'paper'"),
        ({"prompt_source": "row"}, "must be one role for the source 'row'"),
        ({"prompt_source": "bank:asr"}, "must be 'Transcribe the speech.', that of 'bank:asr', got 'What is said"),
        ({"prompt_source": "bank:dance"}, "'dance' is not in the prompt bank"),
    ],
)
def test_prompts_and_names_that_cannot_be_used(changes, message):
    with pytest.raises(ValueError, match=message):
        make_task(**changes)


def test_every_task_says_whose_prompt_it_asks():
    """A phrasing of the prompt bank is named as such, and published values say what is known of theirs."""
    phrasings = {task.test for task in PromptBank.load().tasks.values()}
    for task in map(load_task, list_tasks()):
        if task.prompt_source == "own":
            assert task.prompt not in phrasings, task.name
        for value in task.published:
            if value.model.startswith("SALMONN"):
                assert "prompts/test_prompt.json of the released code" in value.prompt


def test_every_change_of_a_task_changes_its_digest():
    digests = {
        task.digest for task in (make_task(), make_task(version=2), make_task(prompt="Say it."), make_task(level=2))
    }
    assert len(digests) == 4
    assert make_task().digest == make_task().digest


def test_manifest(tmp_path):
    path = write_manifest(tmp_path)
    examples, source = load_examples(make_task(), {"tiny": path})
    assert source == "manifest.jsonl"
    assert [example.references[0] for example in examples] == list(SENTENCES)
    assert [round(example.seconds, 3) for example in examples] == [0.2, 0.4, 0.6, 0.3, 0.5]
    assert examples[1].prompt == "What is said?"
    waveform = examples[1].waveform()
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, soundfile.read(tmp_path / "1.wav", dtype="float32")[0])
    assert len(load_examples(make_task(), {"tiny": path}, limit=2)[0]) == 2
    assert load_examples(make_task(), data_dir=tmp_path.parent / "none", data={"tiny": tmp_path})[0][0].id == "clip 0"


def test_data_dir_csv_and_role_names(tmp_path):
    write_manifest(tmp_path)
    with open(tmp_path / "tiny.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "reference"], ["0.wav", 'a "quoted", text'], ["1.wav", "b"]])
    examples, _ = load_examples(make_task(), data_dir=tmp_path)
    assert [(example.id, example.references) for example in examples] == [
        ("000000", ('a "quoted", text',)),
        ("000001", ("b",)),
    ]


def test_librispeech_folder(tmp_path):
    chapter = tmp_path / "1089" / "134686"
    chapter.mkdir(parents=True)
    for name in ("1089-134686-0000", "1089-134686-0001"):
        soundfile.write(chapter / f"{name}.flac", np.zeros(1600), 16000)
    (chapter / "1089-134686.trans.txt").write_text("1089-134686-0000 HE HOPED\n1089-134686-0001 STUFF IT\n")
    examples, _ = load_examples(load_task("asr_librispeech_clean"), {"asr_librispeech_clean": tmp_path})
    assert [(example.id, *example.references) for example in examples] == [
        ("1089-134686-0000", "HE HOPED"),
        ("1089-134686-0001", "STUFF IT"),
    ]


def test_saved_dataset_is_read_lazily(tmp_path):
    write_manifest(tmp_path / "clips")
    rows = {"audio": [str(tmp_path / "clips" / f"{i}.wav") for i in range(3)], "text": list(SENTENCES[:3])}
    dataset = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())
    datasets.DatasetDict({"test": dataset}).save_to_disk(tmp_path / "saved")
    examples, _ = load_examples(make_task(), {"tiny": tmp_path / "saved"})
    assert [example.references[0] for example in examples] == list(SENTENCES[:3])
    expected = soundfile.read(tmp_path / "clips" / "2.wav", dtype="float32")[0]
    np.testing.assert_array_equal(examples[2].waveform(), expected)
    with pytest.raises(ValueError, match=r"one of \['test'\], got 'dev'"):
        load_examples(make_task(dataset={"split": "dev"}), {"tiny": tmp_path / "saved"})


def test_several_references_of_one_clip(tmp_path):
    path = write_manifest(tmp_path, 4, clip=["a", "b", "a", "b"])
    columns = {"id": "clip", "audio": "audio", "reference": "text"}
    examples, _ = load_examples(make_task(columns=columns, group_by="id"), {"tiny": path})
    assert [(example.id, example.references) for example in examples] == [
        ("a", (SENTENCES[0], SENTENCES[2])),
        ("b", (SENTENCES[1], SENTENCES[3])),
    ]


def test_two_clips_are_joined_with_silence(tmp_path):
    path = write_manifest(tmp_path, 2, audio_2=["1.wav", "0.wav"])
    task = make_task(columns={"audio": ["audio", "audio_2"], "reference": "text"}, join_seconds=0.1)
    example = load_examples(task, {"tiny": path})[0][0]
    waveform = example.waveform()
    first, second = (soundfile.read(tmp_path / f"{i}.wav", dtype="float32")[0] for i in (0, 1))
    np.testing.assert_array_equal(waveform, np.concatenate([first, np.zeros(1600, np.float32), second]))
    assert example.seconds == pytest.approx(len(waveform) / 16000)


def test_long_clips_are_made_of_successive_short_ones(tmp_path):
    examples, _ = load_examples(make_task(), {"tiny": write_manifest(tmp_path)})  # 0.2, 0.4, 0.6, 0.3, 0.5 s
    joined = concatenate(examples, 0.9)
    assert [len(example.clips) for example in joined] == [2, 2, 1]
    assert [example.id for example in joined] == ["clip 0+1", "clip 2+1", "clip 4"]
    assert joined[0].references == (f"{SENTENCES[0]} {SENTENCES[1]}",)
    assert len(joined[1].waveform()) == 0.9 * 16000
    by_task, _ = load_examples(make_task(concatenate_seconds=0.9), {"tiny": tmp_path}, limit=2)
    assert [example.id for example in by_task] == ["clip 0+1", "clip 2+1"]


def test_prompts_are_filled_from_columns(tmp_path):
    path = write_manifest(tmp_path, 2, slot=["time", "place"])
    columns = {"audio": "audio", "reference": "text", "slot": "slot"}
    examples, _ = load_examples(make_task(prompt="Which {slot}?", columns=columns), {"tiny": path})
    assert [example.prompt for example in examples] == ["Which time?", "Which place?"]
    assert data_digest(examples) != data_digest(examples[::-1])


def test_bad_data_is_refused_with_its_place(tmp_path):
    path = write_manifest(tmp_path)
    task = make_task(columns={"id": "id", "audio": "audio", "reference": "transcript"})
    with pytest.raises(ValueError, match="needs the column 'transcript' as its reference, got the columns.*'text'"):
        load_examples(task, {"tiny": path})
    change_row(path, 1, text="  ")
    change_row(path, 3, audio="lost.wav")
    change_row(path, 4, audio="")
    change_row(path, 2, text={"a": 1})
    with pytest.raises(ManifestError) as error:
        load_examples(make_task(), {"tiny": path})
    assert [(problem.row, problem.reason) for problem in error.value.problems] == [
        (2, "`reference` is empty"),
        (3, "`reference` must be text, got {'a': 1} (dict)"),
        (4, "`audio` lost.wav: there is no such file"),
        (5, "`audio`: there is none"),
    ]
    (tmp_path / "0.wav").write_text("no audio")
    change_row(path, 4, audio=7)
    with pytest.raises(
        ManifestError, match=r"jsonl:1: .*0\.wav: is no audio that can be read(.|\n)*:5: `audio` must be"
    ):
        load_examples(make_task(), {"tiny": path})


def test_other_refusals(tmp_path):
    path = write_manifest(tmp_path)
    with pytest.raises(ValueError, match="no public dataset.*--data tiny=PATH"):
        load_examples(make_task())
    with pytest.raises(ValueError, match="missing.jsonl does not exist"):
        load_examples(make_task(), {"tiny": tmp_path / "missing.jsonl"})
    with pytest.raises(ValueError, match="limit.*got 0"):
        load_examples(make_task(), {"tiny": path}, limit=0)
    change_row(path, 1, id="clip 0")
    with pytest.raises(ManifestError, match="jsonl:2: ids must be unique, got 'clip 0' more than once"):
        load_examples(make_task(), {"tiny": path})
    path.write_text("not json\n")
    with pytest.raises(ManifestError, match="manifest.jsonl:1: the line cannot be read as JSON"):
        load_examples(make_task(), {"tiny": path})
    path.write_text("")
    with pytest.raises(ValueError, match="at least one example"):
        load_examples(make_task(), {"tiny": path})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="trans.txt"):
        load_examples(make_task(), {"tiny": tmp_path / "empty"})


def test_rows_of_the_one_schema_are_evaluated_too(tmp_path):
    write_manifest(tmp_path, 2)
    turns = [{"role": "user", "content": "<audio>What?"}, {"role": "assistant", "content": "A cat."}]
    rows = [
        {"path": "0.wav", "answer": "A cat.", "Q": "What?"},
        {"audio": ["0.wav", "1.wav"], "reference": ["A cat.", "Cats."], "question": "What?"},
        {"messages": turns, "audios": ["1.wav"]},
        {"path": "0.wav", "expand_wav": ["1.wav"], "text": "A cat.", "question": "What?"},
    ]
    task = make_task(columns={"audio": "audio", "reference": "text", "question": "question"}, prompt="{question}")
    found = []
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
        ((example,), _) = load_examples(task, {"tiny": tmp_path / f"{number}.jsonl"})
        found.append((example.prompt, example.references, round(example.seconds, 2)))
        assert len(example.waveform()) == round(16000 * example.seconds)
    assert found == [
        ("What?", ("A cat.",), 0.2),
        ("What?", ("A cat.", "Cats."), 0.6),
        ("What?", ("A cat.",), 0.3),
        ("What?", ("A cat.",), 0.6),
    ]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": [*turns, *turns], "audios": ["0.wav", "1.wav"]}))
    with pytest.raises(ManifestError, match="several turns or clips has no single answer"):
        load_examples(task, {"tiny": tmp_path / "chat.jsonl"})


def test_clips_that_break_while_they_are_read_are_named(tmp_path):
    (example, *_), _ = load_examples(make_task(), {"tiny": write_manifest(tmp_path)})
    (tmp_path / "0.wav").write_bytes((tmp_path / "0.wav").read_bytes()[:20])
    with pytest.raises(ValueError, match=r"Example 'clip 0' cannot be heard.*0\.wav is no audio"):
        example.waveform()


def test_clips_of_all_kinds(tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))
    soundfile.write(tmp_path / "stereo.wav", samples, 8000, subtype="FLOAT")
    encoded = {"bytes": (tmp_path / "stereo.wav").read_bytes(), "path": None}
    array = {"array": samples.mean(1), "sampling_rate": 8000}
    for clip in (tmp_path / "stereo.wav", encoded, array):
        assert measure_audio(clip) == (1, None)
        waveform = read_audio(clip)
        assert waveform.shape == (16000,)
        np.testing.assert_allclose(waveform[::2][100:-100], samples.mean(1)[100:-100], atol=0.08)
