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
from killing import Job, survive, tree
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


def absent_or_whole(name: str):
    """A check that the file or folder `name`, if it is there, is as in the run that nothing interrupted."""

    def check(folder: Path, whole: Path) -> None:
        for path in (folder / name, whole / name) if (folder / name).exists() else ():
            assert path.exists()
        if (folder / name).is_file():
            assert (folder / name).read_bytes() == (whole / name).read_bytes()
        elif (folder / name).exists():
            assert tree(folder / name) == tree(whole / name)

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
    """Follows how many rows are answered in journals, and checks that no row is answered again that was in one."""

    def __init__(self, journals: str, rows: int, batch_size: int, result: str):
        self.journals, self.rows, self.batch_size, self.kills = journals, rows, batch_size, 0
        self.check_result, self.in_journal = absent_or_whole(result), set()

    def check(self, folder: Path, whole: Path) -> None:
        self.kills += 1
        self.check_result(folder, whole)
        now = set(read_journals(folder / self.journals)) if (folder / self.journals).is_dir() else set()
        done = any((folder / self.journals).glob("predictions.jsonl")) or (folder / "out.jsonl").exists()
        assert done or self.in_journal <= now  # what was finished is not lost
        self.in_journal = now

    def compare(self, folder: Path, whole: Path) -> None:
        lines = (folder / "answered.txt").read_text().split()
        assert self.rows <= sum(map(len, lines)) <= self.rows + self.batch_size * self.kills
        (folder / "answered.txt").unlink()
        expected = tree(whole)
        expected.pop("answered.txt")
        found = tree(folder)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
        assert {path.name for path in folder.rglob("*")} == {path.name for path in whole.rglob("*")} - {"answered.txt"}
        self.kills, self.in_journal = 0, set()


def test_evaluations_answer_each_row_once(tmp_path, report):
    write_manifest(tmp_path / "data", ROWS)
    write_task(tmp_path / "data")
    answered = Answered("run/tiny", ROWS, 2, "run/results.json")
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
    answered = Answered("out.jsonl.work", ROWS, 2, "out.jsonl")
    report(Job(killed_jobs.transcribe, tmp_path / "killed", answered.check, answered.compare))


def test_training_goes_on_as_if_nothing_had_happened(tmp_path, report):
    save_model(tmp_path / "base", qformer_config={"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96})
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
