# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
`kill -9` at random moments, disks that are full, and folders that are not what they should be: what is there is whole,
what was done stays done, and nothing is counted twice. `SALMONN_SEED` repeats the moments, `SALMONN_KILLS` is how many.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import killed_jobs
import pytest
import soundfile
import torch
from killed_jobs import BEATS, CKPT, CLIPS, LLM, WHISPER
from killing import Job, finish, survive, tree
from safetensors.torch import load_file
from tiny_evaluation import write_manifest, write_task
from tiny_training import save_clips, save_model

from cli_salmonn.main import main
from data_salmonn.files import UNFINISHED
from data_salmonn.journals import read_journals
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor, with_adapter


ROWS = 12


@pytest.fixture
def report(record_property, capsys):
    """Says in the terminal what was survived."""

    def say(job: Job) -> None:
        happened = survive(job)
        record_property("kills", happened)
        with capsys.disabled():
            print(f"\n{job.work.__name__}: {happened}")

    return say


def absent_or_whole(*names: str):
    """A check that the files or folders of these names, where they are there, are as in the run that nothing interrupted."""

    def check(folder: Path, whole: Path) -> None:
        for name in names:
            if (folder / name).is_dir():
                assert tree(folder / name) == tree(whole / name)
            elif (folder / name).exists():
                assert (folder / name).read_bytes() == (whole / name).read_bytes()

    return check


def same_files(folder: Path, whole: Path) -> None:
    """To the last byte, and no file more."""
    found, expected = tree(folder), tree(whole)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert {path.name for path in folder.rglob("*")} == {path.name for path in whole.rglob("*")}


@pytest.mark.parametrize("work", [killed_jobs.convert, killed_jobs.put_together])
def test_models_are_whole_or_absent(tmp_path, report, work):
    report(Job(work, tmp_path / "killed", absent_or_whole("model"), same_files))


def test_merged_models_are_whole_or_absent(tmp_path, report):
    config = tiny_config()
    tiny_model(config).save_pretrained(tmp_path / "base")
    tiny_processor(config).save_pretrained(tmp_path / "base")
    model = type(tiny_model(config)).from_pretrained(tmp_path / "base")
    with_adapter(model).save_pretrained(tmp_path / "adapter", adapter_only=True)
    report(Job(killed_jobs.merge_adapter, tmp_path / "killed", absent_or_whole("model"), same_files))


def test_caches_hold_each_segment_once(tmp_path, report):
    read = {}

    def look(folder: Path, whole: Path) -> int:
        """How many segments of the cache can be read, all of which are those of the whole cache."""
        if not read:
            cache = killed_jobs.open_cache(whole)
            read.update((number, cache.read(clip)) for number, clip in enumerate(CLIPS))
        copied = folder.with_name("copied")  # opening a cache sweeps it, which the next process is to do
        shutil.copytree(folder, copied)
        cache = killed_jobs.open_cache(copied)
        for number, clip in enumerate(CLIPS):
            if clip in cache:
                *states, frames = cache.read(clip)
                assert frames == read[number][2]
                assert all(torch.equal(a, b) for a, b in zip(states, read[number], strict=False))
        shutil.rmtree(copied)
        return len(cache)

    def compare(folder: Path, whole: Path) -> None:
        import pyarrow as pa

        assert look(folder, whole) == len(CLIPS)
        keys = [
            key
            for part in (folder / "cache").glob("part-*.arrow")
            for key in pa.ipc.open_file(part).read_all()["key"].to_pylist()
        ]
        assert len(keys) == len(set(keys)) == len(CLIPS)
        hidden = {path.name for path in folder.rglob(".*")}
        assert hidden == {path.name for path in whole.rglob(".*")} and not any(UNFINISHED in name for name in hidden)

    report(Job(killed_jobs.build_cache, tmp_path / "killed", look, compare))


class Answered:
    """Follows a job that keeps its answers in `journals` until they are all in `finished`: none is lost, or made twice."""

    def __init__(self, journals: str, finished: str, rows: int, batch_size: int):
        self.journals, self.finished, self.rows, self.batch_size = journals, finished, rows, batch_size
        self.kills, self.in_journals = 0, set()

    def check(self, folder: Path, whole: Path) -> None:
        self.kills += 1
        absent_or_whole(self.finished, "run/results.json")(folder, whole)
        now = set(read_journals(folder / self.journals))
        assert (folder / self.finished).exists() or self.in_journals <= now
        self.in_journals = now

    def compare(self, folder: Path, whole: Path) -> None:
        same_files(folder, whole)
        answered = killed_jobs.count_file(folder)
        # a kill loses the batch that is at work, and no more
        assert self.rows <= len(answered.read_text()) <= self.rows + self.batch_size * self.kills
        answered.unlink()
        self.kills, self.in_journals = 0, set()


def test_evaluations_answer_each_row_once(tmp_path, report):
    write_manifest(tmp_path / "data", ROWS)
    write_task(tmp_path / "data")
    answered = Answered("run/tiny", "run/tiny/predictions.jsonl", ROWS, 2)
    report(Job(killed_jobs.evaluate_tiny, tmp_path / "killed", answered.check, answered.compare))


def test_corpora_answer_each_row_once(tmp_path, report):
    config = tiny_config(max_audio_seconds=2, fixed_length=False)
    model = tiny_model(config)
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(tmp_path / "model")
    tiny_processor(config).save_pretrained(tmp_path / "model")
    (tmp_path / "clips").mkdir()
    rows = []
    for number in range(ROWS):
        soundfile.write(tmp_path / "clips" / f"{number}.wav", noise(0.4 + 0.2 * number, number), 16000)
        rows.append(json.dumps({"id": f"row-{number}", "audio": f"{number}.wav"}) + "\n")
    (tmp_path / "clips" / "corpus.jsonl").write_text("".join(rows))
    answered = Answered("out.jsonl.work", "out.jsonl", ROWS, 2)
    report(Job(killed_jobs.transcribe, tmp_path / "killed", answered.check, answered.compare))


def test_made_clips_are_made_once(tmp_path, report):
    """`salmonn nano make`: what a shard has is kept, and nothing but the shard at work is made again."""

    kills = 0

    def check(folder: Path, whole: Path) -> None:
        nonlocal kills
        kills += 1
        absent_or_whole("clips/clips.jsonl", "clips/SOURCES.md")(folder, whole)
        for shard in (folder / "clips" / "shards").glob("*.jsonl"):
            assert shard.read_bytes() == (whole / "clips" / "shards" / shard.name).read_bytes()
            for line in shard.read_text().splitlines():
                audio = Path("clips", json.loads(line)["path"])
                assert (folder / audio).read_bytes() == (whole / audio).read_bytes()

    def compare(folder: Path, whole: Path) -> None:
        nonlocal kills
        same_files(folder, whole)
        rendered = killed_jobs.count_file(folder)
        most = killed_jobs.MADE_CLIPS + kills * killed_jobs.SHARD_CLIPS
        assert killed_jobs.MADE_CLIPS <= len(rendered.read_text()) <= most
        rendered.unlink()
        kills = 0

    report(Job(killed_jobs.make_speech, tmp_path / "killed", check, compare))


def test_made_manifests_are_whole_or_absent(tmp_path, report):
    finish(killed_jobs.make_speech, tmp_path / "made", tmp_path / "made.log")
    names = ("rows.jsonl", "benchmark/nano_asr.jsonl", "benchmark/nano_gender.jsonl")
    report(Job(killed_jobs.make_instructions, tmp_path / "killed", absent_or_whole(*names), same_files))


def test_training_goes_on_as_if_nothing_had_happened(tmp_path, report):
    save_model(
        tmp_path / "base", qformer_config={"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
    )
    save_clips(tmp_path / "clips")

    def same_weights(folder: Path, whole: Path) -> None:
        found, expected = (load_file(path / "adapter_model.safetensors") for path in (folder, whole))
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)

    def check(folder: Path, whole: Path) -> None:
        for saved in (*folder.glob("run/checkpoint-*"), *folder.glob("run/adapter")):
            reference = whole / "run" / saved.name
            if reference.exists():  # the first checkpoints of a long run go
                assert {path.name for path in saved.iterdir()} == {path.name for path in reference.iterdir()}
                same_weights(saved, reference)

    def compare(folder: Path, whole: Path) -> None:
        check(folder, whole)
        names = [sorted(str(path.relative_to(one)) for path in one.rglob("*")) for one in (folder, whole)]
        assert names[0] == names[1]
        curves = [json.loads((one / "run" / "curves.json").read_text())["loss"] for one in (folder, whole)]
        assert curves[0] == curves[1] and [step for step, _ in curves[0]] == [1, 2, 3, 4, 5, 6]
        assert tree(folder / "run" / "adapter") == tree(whole / "run" / "adapter")

    report(Job(killed_jobs.train, tmp_path / "killed", check, compare))


# ----------------------------------------------------------------------------------------------------------------------
# Disks and folders


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the commands below read."""
    folder = tmp_path_factory.mktemp("inputs")
    config = tiny_config(max_audio_seconds=2, fixed_length=False)
    model = tiny_model(config)
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(folder / "model")
    tiny_processor(config).save_pretrained(folder / "model")
    write_manifest(folder / "data")
    write_task(folder / "data")
    with_adapter(type(model).from_pretrained(folder / "model")).save_pretrained(folder / "adapter", adapter_only=True)
    return folder


COMMANDS = {
    "convert": lambda inputs, out: [
        *("convert", "salmonn", out, "--ckpt", CKPT, "--whisper", WHISPER, "--llm", LLM, "--beats", BEATS),
        *("--qformer-heads", "4"),
    ],
    "assemble": lambda inputs, out: [
        *("assemble", out, "--whisper", WHISPER, "--llm", LLM, "--beats", BEATS),
        *("--qformer-hidden-size", "32", "--qformer-heads", "4"),
    ],
    "merge": lambda inputs, out: ["merge", inputs / "model", out, "--adapter", inputs / "adapter"],
    "evaluate": lambda inputs, out: [
        *("evaluate", inputs / "model", "--tasks", inputs / "data" / "tiny.json", "--output", out),
        *("--data", f"tiny={inputs / 'data' / 'manifest.jsonl'}", "--bootstrap-samples", "20", "--no-report"),
    ],
    "transcribe": lambda inputs, out: [
        *("transcribe", inputs / "model", inputs / "data" / "manifest.jsonl", "--output", out.with_suffix(".jsonl")),
    ],
}


def refused(capsys, arguments) -> str:
    """The one line that a command says when it cannot write."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("salmonn: error:")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def small_disk(tmp_path):
    """A disk that is full but for a few pages."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        # what is free is left to a folder and an empty file or two
        with open(disk / "filled", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                file.truncate(max(0, os.fstat(file.fileno()).st_size - 4096))
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(small_disk, inputs, capsys, command):
    said = refused(capsys, COMMANDS[command](inputs, small_disk / "out"))
    assert "o space left on" in said and str(small_disk) in said
    left = {path.name for path in small_disk.rglob("*") if path.is_file()} - {"filled"}
    assert not any(UNFINISHED in name for name in left)
    assert not left & {"model.safetensors", "config.json", "results.json", "predictions.jsonl", "out.jsonl"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_where_a_folder_should_be_is_one_line(tmp_path, inputs, capsys, command):
    (tmp_path / "file").write_text("mine")
    said = refused(capsys, COMMANDS[command](inputs, tmp_path / "file" / "out"))
    assert str(tmp_path / "file") in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, inputs, capsys, command):
    (tmp_path / "locked").mkdir(mode=0o555)
    said = refused(capsys, COMMANDS[command](inputs, tmp_path / "locked" / "out"))
    assert "denied" in said.lower() and str(tmp_path / "locked") in said
    assert not any((tmp_path / "locked").iterdir())
