# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What all makers of data stand on: packages as sources, clips in shards; and the maker of speech."""

import hashlib
import json
import random
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nano_salmonn.data_makers import debian, speech, texts, voices
from nano_salmonn.data_makers.channels import EFFECTS
from nano_salmonn.data_makers.clips import LEAST_SHARD_CLIPS, read_clips, row_rng, write_clips
from nano_salmonn.data_makers.effects import Effect
from nano_salmonn.data_makers.rooms import add_noise, add_room, scale_to
from nano_salmonn.data_makers.sources import all_packages
from nano_salmonn.data_makers.texts import Sentence, make_facts, read_r_strings


PACKAGE = debian.DebianPackage("some-sounds", "its bells", "CC0", "A. Author")


# ----------------------------------------------------------------------------------------------------------------------
# Packages


@pytest.fixture
def fake_apt(monkeypatch, tmp_path):
    """Programs that fetch and unpack one small package; returns the commands that were run."""
    monkeypatch.setenv("SALMONN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(debian.shutil, "which", lambda program: f"/usr/bin/{program}")
    commands = []

    def run(command, name, folder=None):
        commands.append(command[:2])
        if command[0] == "apt-get":
            (folder / f"{name}_1.0_all.deb").write_bytes(b"archive")
        elif command[1] == "-x":
            files = debian.Path(command[3], "usr")
            files.mkdir(parents=True)
            with zipfile.ZipFile(files / "all.zip", "w") as archive:
                archive.writestr("audio/bell.ogg", "bell")
                archive.writestr("art/bell.png", "picture")
        return "1.0\n"

    monkeypatch.setattr(debian, "_run", run)
    return commands


def test_a_package_is_fetched_once(fake_apt):
    folder = debian.fetch_package(PACKAGE)
    fetched = list(fake_apt)

    assert debian.fetch_package(PACKAGE) == folder
    assert (folder / "usr").is_dir()
    assert fake_apt == fetched
    assert debian.package_version(PACKAGE)["version"] == "1.0"


def test_sounds_are_taken_out_of_an_archive_in_a_package(fake_apt):
    folder = debian.fetch_package(replace(PACKAGE, archive="usr/all.zip", folder="audio"))

    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["package.json", "bell.ogg"]
    assert (folder / "usr/audio/bell.ogg").read_text() == "bell"


def test_an_archive_without_its_folder_is_refused():
    with pytest.raises(ValueError, match="`archive` and `folder` go together, got 'usr/all.zip' and None"):
        replace(PACKAGE, archive="usr/all.zip")


def test_credits_name_licence_and_author(fake_apt, tmp_path):
    debian.write_credits([PACKAGE], tmp_path / "SOURCES.md")

    last = (tmp_path / "SOURCES.md").read_text().splitlines()[-1]
    assert last == "| some-sounds | 1.0 | its bells | CC0 | A. Author |"

    debian.write_credits([PACKAGE], tmp_path / "SOURCES.md", voices.PROGRAMS)
    names = [line.split(" | ")[:2] for line in (tmp_path / "SOURCES.md").read_text().splitlines()[4:]]
    assert names == [["| espeak-ng", "as installed"], ["| flite", "as installed"], ["| some-sounds", "1.0"]]


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Records what was there when data was made."""

    def record(**package: str) -> None:
        (tmp_path / "versions.json").write_text(json.dumps({PACKAGE.name: package}))
        monkeypatch.setattr(debian, "VERSIONS", tmp_path / "versions.json")

    return record


def test_another_file_of_a_recorded_version_is_not_used(fake_apt, recorded, caplog):
    recorded(version="1.0", sha256="0" * 64)
    with pytest.raises(ValueError, match=r"some-sounds 1\.0 has sha256 [0-9a-f]{64}, expected 0{64}: it is not used"):
        debian.fetch_package(PACKAGE)
    assert "-x" not in [command[1] for command in fake_apt]  # nothing was unpacked

    recorded(version="0.9", sha256="0" * 64)
    debian.fetch_package(PACKAGE)
    assert "some-sounds is of version 1.0, and was of 0.9" in caplog.text


def test_a_recorded_file_is_used(fake_apt, recorded, caplog):
    recorded(version="1.0", sha256=hashlib.sha256(b"archive").hexdigest())
    debian.fetch_package(PACKAGE)
    assert not caplog.text


def test_every_source_is_recorded():
    packages = [package for package in all_packages() if isinstance(package, debian.DebianPackage)]
    versions = json.loads(debian.VERSIONS.read_text())
    assert {package.name for package in packages} <= versions.keys()
    assert all(len(found["sha256"]) == 64 and found["version"] for found in versions.values())


def test_without_debians_tools_the_error_names_them(monkeypatch, tmp_path):
    monkeypatch.setenv("SALMONN_CACHE", str(tmp_path))
    monkeypatch.setattr(debian.shutil, "which", lambda program: None)

    with pytest.raises(ValueError, match="some-sounds is a Debian package, which needs apt-get and dpkg-deb"):
        debian.fetch_package(PACKAGE)


# ----------------------------------------------------------------------------------------------------------------------
# Clips


def render(row: dict) -> np.ndarray:
    """A noise that belongs to the row."""
    return np.full(800, row_rng(row).uniform(-0.5, 0.5), dtype=np.float32)


def plan(count: int) -> list[dict]:
    return [{"id": f"clip-{number}", "kind": "sound", "seed": 0} for number in range(count)]


def test_clips_are_written_in_the_order_of_the_plan(tmp_path):
    rows = plan(LEAST_SHARD_CLIPS + 3)

    write_clips(tmp_path / "train", rows, render, workers=1)

    found = read_clips(tmp_path / "train")
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert all(row["seconds"] == 0.05 and row["kind"] == "sound" for row in found)


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path):
    rows, rendered = plan(2 * LEAST_SHARD_CLIPS), []

    def stop_in_the_second_shard(row):
        if row["id"] == f"clip-{LEAST_SHARD_CLIPS + 5}":
            raise KeyboardInterrupt
        return render(row)

    with pytest.raises(KeyboardInterrupt):
        write_clips(tmp_path / "a", rows, stop_in_the_second_shard, workers=1)
    with pytest.raises(ValueError, match="`folder` .*a has no finished clips"):
        read_clips(tmp_path / "a")

    write_clips(tmp_path / "a", rows, lambda row: rendered.append(row["id"]) or render(row), workers=1)
    write_clips(tmp_path / "b", rows, render, workers=1)

    assert rendered == [row["id"] for row in rows[LEAST_SHARD_CLIPS:]]
    assert (tmp_path / "a/clips.jsonl").read_bytes() == (tmp_path / "b/clips.jsonl").read_bytes()
    path = read_clips(tmp_path / "a")[-1]["path"]
    assert open(path, "rb").read() == open(path.replace("/a/", "/b/"), "rb").read()


def test_a_folder_of_another_plan_is_refused(tmp_path):
    write_clips(tmp_path, plan(2), render, workers=1)

    with pytest.raises(ValueError, match="holds clips of another plan"):
        write_clips(tmp_path, plan(3), render, workers=1)


def test_bad_plans_and_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`rows` must have different ids"):
        write_clips(tmp_path, [*plan(1), *plan(1)], render, workers=1)
    with pytest.raises(ValueError, match="clip-0 came out with shape"):
        write_clips(tmp_path, plan(1), lambda row: np.zeros((2, 5)), workers=1)


# ----------------------------------------------------------------------------------------------------------------------
# Sentences


def r_strings(*strings: str) -> bytes:
    """A character vector as R's lazy-load files hold it."""
    raw = b"X\n" + struct.pack(">iiii", 3, 0x40201, 0x30500, 5) + b"UTF-8" + struct.pack(">ii", 16, len(strings))
    for text in strings:
        raw += struct.pack(">ii", 0x40009, len(text.encode())) + text.encode()
    return struct.pack(">I", len(raw)) + zlib.compress(raw)


def test_rs_strings_are_read():
    data = r_strings("CHAPTER I", "", "Émile came.") + r_strings("Two")

    assert list(read_r_strings(data)) == [["CHAPTER I", "", "Émile came."], ["Two"]]
    with pytest.raises(ValueError, match="the R data ends inside a stream"):
        list(read_r_strings(data[:-4]))


@pytest.fixture
def sources(monkeypatch):
    """A novel and a dictionary of a few repeated words."""
    line = (
        "Mr. Brown walked home again; he said: the dog barked at the old house, and nobody came (not one) to see it."
    )
    monkeypatch.setattr(texts, "read_novels", lambda: iter([line.replace("dog", word) for word in ANIMALS]))
    monkeypatch.setattr(texts, "read_examples", lambda: iter(EXAMPLES))
    monkeypatch.setattr(texts, "MIN_OCCURRENCES", 2)
    monkeypatch.setattr(texts, "read_test_recordings", lambda: {Path("a.wav"): "the cat barked at the old wall"})


ANIMALS = ["dog", "cat", "dog dog", "cat cat"]
EXAMPLES = ["the dog came home", "mr brown walked again", "the zebra came home", "NASA came home", "the 3 dogs came"]


def test_sentences_are_clauses_of_common_words(sources):
    found = [sentence.text for sentence in texts.read_sentences()]

    assert "the dog came home" in found  # an example of the dictionary
    assert any("mr brown walked home again" in text for text in found)
    assert not any("zebra" in text for text in found)  # occurs only once
    assert not any("nasa" in text or "3" in text for text in found)
    assert any("the dog barked at the old house" in text for text in found)
    assert not any("the cat barked at the old house" in text for text in found)  # as a recording for testing says
    assert all(texts.MIN_WORDS <= len(text.split()) <= texts.MAX_WORDS for text in found)
    assert len(found) == len(set(found))


def test_splits_share_no_sentence_and_have_their_sizes():
    splits = Counter(Sentence(f"sentence number {number}").split for number in range(5000))

    assert splits["test"] / 5000 == pytest.approx(texts.TEST_PERCENT / 100, abs=0.01)
    assert splits["validation"] / 5000 == pytest.approx(texts.VALIDATION_PERCENT / 100, abs=0.01)
    assert Sentence("the same").split == Sentence("the same", (("Who?", "nobody"),)).split


def test_the_answers_to_facts_are_in_them():
    facts = make_facts(200, random.Random(0))

    assert len({fact.text for fact in facts}) == 200
    assert all(answer in fact.text for fact in facts for _, answer in fact.questions)
    assert all("{" not in question for fact in facts for question, _ in fact.questions)
    assert facts == make_facts(200, random.Random(0))


# ----------------------------------------------------------------------------------------------------------------------
# Speech


@pytest.fixture
def plain_speech(monkeypatch):
    read = {"read": [Sentence(f"word {n} and word") for n in range(3000)]}
    read["everyday"] = [Sentence(f"what is {n}") for n in range(300)]
    monkeypatch.setattr(speech, "read_all", lambda: read)
    monkeypatch.setattr(speech, "pronounce", lambda word: "w er d")
    effects = [Effect("rain", "rain", "rain falls", ("rain-1.ogg", "rain-2.ogg"), (), ("rain-3.ogg",))]
    monkeypatch.setattr(speech, "load_effects", lambda: effects)
    monkeypatch.setattr(speech, "check_installed", lambda: None)


def test_unseen_voices_are_in_no_other_split(plain_speech):
    plans = {split: speech.plan_speech(split, 60) for split in speech.SPLITS}
    speakers = {split: {row["speaker"] for row in rows} for split, rows in plans.items()}

    heard = {name.partition("#")[0] for split in ("train", "validation", "test") for name in speakers[split]}
    assert not (speakers["test_unseen_voice"] | speakers["test_natural_voice"]) & heard
    assert {name.split("/")[0] for name in speakers["test_natural_voice"]} == {"kokoro"}
    assert {name.split("/")[0] for name in speakers["test_unseen_voice"]} == {"flite", "espeak-ng"}
    said = {split: {text for row in rows for text in row["sentences"]} for split, rows in plans.items()}
    assert not said["train"] & (said["validation"] | said["test"] | said["test_unseen_voice"])
    assert not said["validation"] & said["test"]
    assert not any(row["channel"] for split in speech.SPLITS[1:] for row in plans[split])


def test_training_has_speakers_channels_backgrounds_and_sentences_in_a_row(plain_speech):
    rows = speech.plan_speech("train", 400)

    assert 0.1 < sum("#" in row["speaker"] for row in rows) / 400 < 0.7
    assert all(("gender" in row) == ("#" not in row["speaker"]) for row in rows)
    effects = Counter(name for row in rows for name in row["channel"])
    assert set(effects) == {"background", *EFFECTS} and 200 < sum(bool(row["channel"]) for row in rows) < 350
    behind = Counter(row.get("background", "nothing").partition("/")[0] for row in rows)
    assert set(behind) == {"nothing", "rain-1.ogg", "rain-2.ogg", "music"}  # no sound for testing
    assert all(("background" in row) == ("background" in row["channel"]) for row in rows)
    assert {len(row["sentences"]) for row in rows} >= {1, 2, 3, 5}
    assert all(row["text"] == " ".join(row["sentences"]) for row in rows)
    assert not any("background" in row for row in speech.plan_speech("train", 100, backgrounds=False))
    assert not any("\n" in text for row in rows for text in (row["text"], *row["sentences"]))


def test_voices_of_one_kind(plain_speech):
    engines = {
        group: {row["speaker"].split("/")[0] for row in speech.plan_speech("train", 300, voices=group)}
        for group in speech.VOICE_GROUPS
    }

    assert engines["robotic"] == {"flite", "espeak-ng"}
    assert {"piper", "hibari"} <= engines["natural"] <= {"piper", "hibari", "kokoro"}
    assert engines["all"] >= {"flite", "espeak-ng", "piper", "hibari"}
    with pytest.raises(ValueError, match="`voices` must be one of .* got 'loud'"):
        speech.plan_speech("train", 10, voices="loud")


def test_a_plan_depends_on_its_seed_only(plain_speech):
    assert speech.plan_speech("train", 50, seed=1) == speech.plan_speech("train", 50, seed=1)
    assert speech.plan_speech("train", 50, seed=1) != speech.plan_speech("train", 50, seed=2)


def test_shuffled_speech_has_the_words_of_its_sentences_in_another_order(plain_speech):
    rows, shuffled = speech.plan_speech("train", 50), speech.plan_speech("train", 50, shuffle_words=True)
    words, others = ([row["text"].split() for row in plan] for plan in (rows, shuffled))
    assert list(map(len, words)) == list(map(len, others))
    assert sorted(sum(words, [])) == sorted(sum(others, []))
    assert sum(text == other for text, other in zip(words, others)) < 5
    assert not any(row["questions"] for row in shuffled)
    assert all(len(row["phones"].split()) >= len(row["text"].split()) for row in shuffled)


def test_impossible_plans_are_refused(plain_speech):
    with pytest.raises(ValueError, match="`split` must be one of .* got 'dev'"):
        speech.plan_speech("dev", 10)
    with pytest.raises(ValueError, match="`count` must be at most about"):
        speech.plan_speech("test", 100_000)


def test_silence_at_the_ends_is_cut(monkeypatch):
    tone = np.sin(np.arange(8000) / 5).astype(np.float32)
    silence = np.zeros(16000, dtype=np.float32)
    monkeypatch.setattr(voices, "_flite", lambda *_, **__: (np.concatenate([silence, tone, silence]), 16000))

    samples = voices.speak("a tone", "flite", "slt")

    assert len(samples) == pytest.approx(8000 + 2 * voices.MARGIN_SECONDS * 16000, abs=100)
    with pytest.raises(
        ValueError, match="`engine` must be 'flite', 'espeak-ng', 'piper', 'hibari' or 'kokoro', got 'other'"
    ):
        voices.speak("a tone", "other", "slt")


def test_a_missing_synthesiser_is_named(monkeypatch):
    monkeypatch.setattr(voices.shutil, "which", lambda program: None)
    with pytest.raises(ValueError, match="flite is not there"):
        voices.speak("hello", "flite", "slt")


def test_noise_has_the_ratio_that_was_asked_for():
    samples = np.sin(np.arange(16000) / 7).astype(np.float32)

    for slope in (0, 1, 2):
        noise = add_noise(samples, 10.0, slope, np.random.default_rng(0)) - samples
        ratio = 10 * np.log10(np.mean(samples**2) / np.mean(noise**2))
        assert ratio == pytest.approx(10.0, abs=0.01)


def test_a_room_adds_the_energy_that_was_asked_for():
    click = np.zeros(16000, dtype=np.float32)
    click[100] = 1

    heard = add_room(click, 0.3, 0.5, np.random.default_rng(0))

    assert len(heard) == len(click)
    assert np.abs(heard[:100]).max() < 1e-5
    assert heard[100] == pytest.approx(1.0, abs=1e-4)
    assert np.sum(heard[101:] ** 2) == pytest.approx(0.5, rel=0.02)
    assert np.abs(scale_to(heard, 0.5)).max() == pytest.approx(0.5)


def test_rows_are_json(plain_speech):
    rows = speech.plan_speech("train", 20)
    assert json.loads(json.dumps(rows)) == rows
