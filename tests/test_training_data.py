# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Training data: every source gives the same columns, and bad rows are found before anything is loaded."""

import json
import pickle

import datasets
import numpy as np
import pytest
import soundfile

from data_salmonn.audio import measure_audio, read_audio
from data_salmonn.datasets import load_training_data
from data_salmonn.manifests import ManifestError, read_manifest, validate_manifest
from data_salmonn.mixing import MixturePart, mix
from tiny_salmonn import noise, tiny_config, tiny_processor


COLUMNS = {"audio", "text", "task", "question", "language", "messages", "id"}


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    """Clips of 1, 2, ... seconds: 16 kHz, 8 kHz and stereo, and files that are none."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(1, 5):
        soundfile.write(folder / f"{number}.wav", noise(number, seed=number), 16000)
    soundfile.write(folder / "slow.flac", noise(1, seed=7)[:8000], 8000)
    soundfile.write(folder / "stereo.wav", np.stack([noise(1, seed=8), -noise(1, seed=8)], axis=1), 16000)
    soundfile.write(folder / "empty.wav", np.zeros(0, dtype=np.float32), 16000)
    (folder / "text.wav").write_text("not a sound", encoding="utf-8")
    return folder


def write(file, rows):
    if file.suffix == ".json":
        file.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    else:
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def rows(*tasks: str) -> list[dict]:
    return [{"path": f"{n}.wav", "text": f"text {n}", "task": task} for n, task in enumerate(tasks, start=1)]


def test_annotations_of_the_released_format(folder):
    annotation = [
        {"path": "1.wav", "text": "hello", "task": "asr", "Q": ""},
        {"path": "2.wav", "text": "a dog", "task": "QA", "Q": "What barks?"},
        {"path": "3.wav", "text": "no", "task": "speaker_verification", "expand_wav": ["1.wav"]},
    ]
    dataset = load_training_data(write(folder / "train.json", annotation))
    assert set(dataset.column_names) == COLUMNS | {"length"}
    assert dataset.features["audio"] == datasets.List(datasets.Audio(sampling_rate=16000, decode=False))
    assert dataset["question"][:] == [None, "What barks?", None]
    assert dataset["id"][:] == ["train.json:1", "train.json:2", "train.json:3"]
    assert dataset["length"][:] == pytest.approx([1, 2, 4.1])
    clip = read_audio(dataset[2]["audio"])
    first, second = (read_audio(str(folder / f"{n}.wav")) for n in (3, 1))
    assert np.array_equal(clip, np.concatenate([first, np.zeros(1600), second]))


def test_jsonl_and_csv_give_the_same_rows(folder):
    listed = [{**row, "question": "Who?", "language": "en"} for row in rows("asr", "asr")]
    jsonl = load_training_data(write(folder / "train.jsonl", listed))
    (folder / "metadata.csv").write_text(
        'file_name,transcription,task,question,language\n1.wav,text 1,asr,Who?,en\n"2.wav","text 2",,Who?,en\n',
        encoding="utf-8-sig",
    )
    csv = load_training_data(folder, task="asr")
    assert jsonl.remove_columns("id").to_list() == csv.remove_columns("id").to_list()
    assert csv["id"][:] == ["metadata.csv:2", "metadata.csv:3"]
    assert csv.features["audio"] == datasets.Audio(sampling_rate=16000, decode=False)


def test_paths_start_where_they_are_told_to(folder, tmp_path):
    file = write(tmp_path / "train.jsonl", rows("asr"))
    assert "no such file" in str(validate_manifest(file)[0])
    assert read_manifest(file, audio_root=folder)[0].paths == (str(folder / "1.wav"),)


@pytest.mark.parametrize("kind", ["manifest", "saved", "hub", "loaded"])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_source_gives_the_same_columns(folder, tmp_path, kind, streaming):
    source = write(folder / "train.json", rows("asr", "audiocaption", "asr"))
    plain = load_training_data(source)
    options = {}
    if kind == "saved":
        plain.save_to_disk(tmp_path / "saved")
        source = tmp_path / "saved"
    elif kind in ("hub", "loaded"):
        # as others make them: decoded by default, other names, columns of no use
        other = plain.select_columns(["audio", "text", "task"]).rename_column("text", "sentence")
        other = other.add_column("votes", [1, 2, 3]).cast_column("audio", datasets.Audio())
        options = {"columns": {"text": "sentence"}}
        source = other
    if kind == "hub":
        (tmp_path / "hub").mkdir()
        other.to_parquet(tmp_path / "hub" / "train.parquet")
        source, options = str(tmp_path / "hub"), {**options, "split": "train"}
    dataset = load_training_data(source, streaming=streaming, **options)
    assert isinstance(dataset, datasets.IterableDataset if streaming else datasets.Dataset)
    loaded = list(dataset)
    assert [row["text"] for row in loaded] == ["text 1", "text 2", "text 3"]
    assert [row["task"] for row in loaded] == ["asr", "audiocaption", "asr"]
    assert len({row["id"] for row in loaded}) == 3 and all(COLUMNS <= row.keys() for row in loaded)
    assert [len(read_audio(row["audio"])) for row in loaded] == [16000, 32000, 48000]
    if not (streaming and kind == "hub"):
        assert [row["length"] for row in loaded] == [1, 2, 3]


def test_tasks_of_a_data_set_can_be_given(folder):
    plain = load_training_data(write(folder / "train.json", rows("asr", "asr"))).select_columns(["audio", "text"])
    assert load_training_data(plain, task="keywords")["task"][:] == ["keywords"] * 2
    with pytest.raises(ValueError, match="no column `task` or `question`: give the `task`"):
        load_training_data(plain)
    with pytest.raises(ValueError, match=r"no column text.*columns="):
        load_training_data(plain.rename_column("text", "words"), task="asr")
    with pytest.raises(ValueError, match="`columns` names 'words'"):
        load_training_data(plain, task="asr", columns={"text": "words"})


def test_splits_must_be_named(folder, tmp_path):
    plain = load_training_data(write(folder / "train.json", rows("asr")))
    datasets.DatasetDict({"a": plain, "b": plain}).save_to_disk(tmp_path / "splits")
    assert len(load_training_data(tmp_path / "splits", split="b")) == 1
    for split in (None, "c"):
        with pytest.raises(ValueError, match=r"one of \['a', 'b'\]"):
            load_training_data(tmp_path / "splits", split=split)
    with pytest.raises(ValueError, match="is a manifest"):
        load_training_data(folder / "train.json", split="a")


BAD_ROWS = [
    ({"path": "gone.wav", "text": "a", "task": "asr"}, "`path` gone.wav: there is no such file"),
    ({"path": "text.wav", "text": "a", "task": "asr"}, "`path` text.wav: is no audio that can be read"),
    ({"path": "empty.wav", "text": "a", "task": "asr"}, "`path` empty.wav: holds no samples"),
    ({"path": "1.wav", "text": " \n", "task": "asr"}, "`text` is empty"),
    ({"path": "1.wav", "task": "asr"}, "`text` must be a string, got nothing"),
    ({"path": "1.wav", "text": 5, "task": "asr"}, "`text` must be a string, got 5 (int)"),
    ({"path": "1.wav", "text": "a", "task": "dance"}, "`task` 'dance' is unknown"),
    (
        {"path": "1.wav", "text": "a"},
        "there is neither a `question` nor a `task`: write what is asked, or name a task",
    ),
    ({"path": "1.wav", "text": "a", "task": ["asr"]}, "`task` must be a string, got ['asr'] (list)"),
    ({"path": "1.wav", "text": "a", "task": "QA"}, "task 'QA' needs a question"),
    ({"path": "1.wav", "text": "a", "task": "QA", "Q": 7}, "`question` must be a string, got 7 (int)"),
    ({"path": "1.wav", "text": "a", "task": "asr", "language": "xx"}, "`language` 'xx' has no prompts"),
    ({"path": "1.wav", "text": "w " * 300, "task": "asr"}, "`text` must have at most 300 tokens, got 300 words"),
    ({"path": 3, "text": "a", "task": "asr"}, "`path` must be a path, got 3 (int)"),
    ({"text": "a", "task": "asr"}, "`audio` must be a path, got nothing"),
    ({"audio": [], "text": "a", "task": "asr"}, "`audio` must be a path, got [] (list)"),
    ({"path": "1.wav", "text": "a", "task": "asr", "expand_wav": 2}, "`expand_wav` must be a path, got 2 (int)"),
    ({"path": "1.wav", "text": "a", "task": "asr", "expand_wav": ["gone.wav"]}, "`expand_wav` gone.wav: there is no"),
    (["1.wav", "a"], "a row must be an object, got list"),
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_every_bad_row_is_reported_at_once(folder, suffix):
    good = rows("asr")[0]
    listed = [row for bad, _ in BAD_ROWS for row in (good, bad)]
    file = write(folder / f"train{suffix}", listed)
    problems = validate_manifest(file)
    assert [problem.row for problem in problems] == list(range(2, 2 * len(BAD_ROWS) + 1, 2))
    for problem, (_, reason) in zip(problems, BAD_ROWS, strict=True):
        assert reason in problem.reason and problem.file == str(file)
    with pytest.raises(ManifestError) as error:
        load_training_data(file)
    assert error.value.problems == problems
    assert f"{len(BAD_ROWS)} bad rows" in str(error.value) and all(
        str(problem) in str(error.value) for problem in problems
    )
    assert pickle.loads(pickle.dumps(error.value)).problems == problems


def test_a_row_can_have_several_problems(folder):
    file = write(folder / "train.jsonl", [{"path": "text.wav", "text": "", "task": "dance", "expand_wav": [1]}])
    assert len(validate_manifest(file)) == 4


def test_files_that_are_no_manifests(folder):
    for name, content, reason in (
        ("a.json", "{", "cannot be read as JSON"),
        ("b.json", '{"rows": []}', 'must be a list of objects or {"annotation": [...]}'),
        ("g.json", "[1]", "1: a row must be an object, got int"),
        ("c.jsonl", '{"path": "1.wav", "text": "a", "task": "asr"}\n{"path"', "2: the line cannot be read as JSON"),
        ("d.jsonl", "\n", "holds no rows"),
        ("e.csv", "path,text,task\n1.wav,a,asr,b\n", "2: the line has more cells"),
    ):
        (folder / name).write_text(content, encoding="utf-8")
        (problem,) = validate_manifest(folder / name)
        assert reason in str(problem)
    (folder / "f.jsonl").write_bytes(b'{"text": "\xff"}')
    assert "cannot be read as JSON" in str(validate_manifest(folder / "f.jsonl")[0])
    with pytest.raises(ValueError, match=r"a folder with one of.*\*\.trans\.txt"):
        read_manifest(folder)
    with pytest.raises(ValueError, match=r"gone\.json does not exist"):  # and is not looked for on the Hub
        load_training_data(folder / "gone.json")


def test_long_texts_are_counted_in_tokens_if_there_is_a_tokenizer(folder):
    tokenizer = tiny_processor(tiny_config()).tokenizer
    text = "unpronounceable " * 30
    count = len(tokenizer(text, add_special_tokens=False).input_ids) + 1
    file = write(folder / "train.jsonl", [{"path": "1.wav", "text": text, "task": "asr"}])
    assert count > 60  # so that words and tokens are not the same
    assert validate_manifest(file, max_text_tokens=60) == []
    assert validate_manifest(file, tokenizer=tokenizer, max_text_tokens=count) == []
    (problem,) = validate_manifest(file, tokenizer=tokenizer, max_text_tokens=count - 1)
    assert f"at most {count - 1} tokens with its end token, got {count}" in problem.reason
    write(file, [{"path": "1.wav", "text": "a</s>b", "task": "asr"}])
    assert "no special tokens, got ['</s>']" in validate_manifest(file, tokenizer=tokenizer)[0].reason


def test_only_headers_are_read(folder, monkeypatch):
    monkeypatch.setattr(soundfile, "read", None)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    assert validate_manifest(write(folder / "train.json", rows("asr"))) == []


def test_bad_rows_of_data_sets_are_reported(folder, tmp_path):
    plain = load_training_data(write(folder / "train.json", rows("asr", "asr", "asr")))
    clips = [{"bytes": None, "path": str(folder / name)} for name in ("1.wav", "empty.wav", "2.wav")]
    bad = datasets.Dataset.from_dict({"clip": clips, "text": ["", "a", "b"], "task": ["asr", "asr", "dance"]})
    bad = bad.cast_column("clip", datasets.Audio(decode=False))
    with pytest.raises(ManifestError) as error:
        load_training_data(bad, columns={"audio": "clip"})
    assert [(problem.row, problem.reason.split(":")[0]) for problem in error.value.problems] == [
        (0, "`text` is empty"),
        (1, "`audio`"),
        (2, "`task` 'dance' is unknown"),
    ]
    with pytest.raises(ManifestError, match="no rows"):
        load_training_data(plain.select([]))


def test_audio_in_every_form(folder):
    path = str(folder / "1.wav")
    clip = read_audio(path)
    assert clip.dtype == np.float32 and clip.shape == (16000,)
    with open(path, "rb") as file:
        contents = file.read()
    for form in (
        {"path": path, "bytes": None},
        {"path": "1.wav", "bytes": contents},
        {"array": clip, "sampling_rate": 16000},
        {"array": np.stack([clip, clip], axis=1), "sampling_rate": 16000},
        clip,
        [clip],
    ):
        assert np.array_equal(read_audio(form), clip)
    assert np.abs(read_audio(str(folder / "stereo.wav"))).max() < 1e-4  # the channels cancel each other
    slow = str(folder / "slow.flac")
    with open(slow, "rb") as file:
        resampled = read_audio({"path": None, "bytes": file.read()})
    assert resampled.shape == (16000,) and np.array_equal(resampled, read_audio(slow))
    assert len(read_audio([clip, clip], silence_seconds=0.5)) == 40000


def test_audio_that_cannot_be_used(folder):
    for audio, error, message in (
        ([], ValueError, "at least one clip"),
        (str(folder / "gone.wav"), ValueError, "no such file"),
        (str(folder / "text.wav"), ValueError, "no audio that can be read"),
        ({"path": None, "bytes": b"noise"}, ValueError, "no audio that can be read"),
        (str(folder / "empty.wav"), ValueError, "holds no samples"),
        (np.zeros(9, dtype=np.int16), TypeError, "floating-point samples"),
        (None, TypeError, "got NoneType"),
    ):
        with pytest.raises(error, match=message):
            read_audio(audio)
    assert measure_audio(folder / "4.wav") == (4.0, None)


def part(folder, name: str, *tasks: str, **options) -> MixturePart:
    return MixturePart(load_training_data(write(folder / f"{name}.jsonl", rows(*tasks))), **options)


def test_without_weights_every_row_appears_once(folder):
    parts = [part(folder, "a", "asr", "asr", "asr"), part(folder, "b", "asr")]
    ids = [row["id"] for row in mix(parts, seed=1)]
    assert sorted(ids) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "b.jsonl:1"]
    assert ids == [row["id"] for row in mix(parts, seed=1)]
    assert any(ids != [row["id"] for row in mix(parts, seed=seed)] for seed in range(2, 6))
    assert sorted(row["id"] for row in mix(parts, seed=1, streaming=True)) == sorted(ids)


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_say_how_often_a_part_is_drawn(folder, streaming):
    a, b = part(folder, "a", *["asr"] * 4, weight=3), part(folder, "b", *["asr"] * 4, weight=1)
    a.dataset = datasets.concatenate_datasets([a.dataset] * 20)
    b.dataset = datasets.concatenate_datasets([b.dataset] * 20)
    names = [row["id"][0] for row in mix([a, b], seed=0, streaming=streaming)]
    assert names.count("b") >= 80 and 0.65 < names.count("a") / len(names) < 0.85


def test_caps_limit_tasks(folder):
    capped = part(folder, "a", "asr", "asr", "asr", "keywords", caps={"asr": 2})
    tasks = [row["task"] for row in mix([capped])]
    assert sorted(tasks) == ["asr", "asr", "keywords"]
    chosen = {tuple(sorted(row["id"] for row in mix([capped], seed=seed))) for seed in range(20)}
    assert len(chosen) > 1  # not always the first ones
    capped.caps = {"*": 1}
    assert sorted(row["task"] for row in mix([capped])) == ["asr", "keywords"]


def test_lists_and_single_clips_mix(folder):
    paired = write(folder / "sv.json", [{**rows("speaker_verification")[0], "expand_wav": ["2.wav"]}])
    parts = [MixturePart(load_training_data(paired)), part(folder, "a", "asr")]
    for streaming in (False, True):
        lengths = {row["task"]: len(read_audio(row["audio"])) for row in mix(parts, streaming=streaming)}
        assert lengths == {"asr": 16000, "speaker_verification": 16000 + 1600 + 32000}


def test_mixtures_that_make_no_sense(folder):
    one = part(folder, "a", "asr")
    streamed = MixturePart(load_training_data(folder / "a.jsonl", streaming=True), caps={"asr": 1})
    for parts, message in (
        ([], "at least one data set"),
        ([one, MixturePart(one.dataset, weight=1)], "all have a `weight` or none"),
        ([streamed], "whose rows can be counted"),
        ([MixturePart(one.dataset, caps={"keywords": 1})], r"does not have: \['keywords'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            mix(parts)
    for options in ({"weight": 0}, {"weight": float("nan")}, {"caps": {"asr": -1}}, {"caps": {"asr": True}}):
        with pytest.raises(ValueError, match="must"):
            MixturePart(one.dataset, **options)
