# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Tests of the maker of sound events, with effects that are tones instead of files of packages."""

import io
import json
import random
import re
import struct
import zlib
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest
import soundfile

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers import effects, sounds
from nano_salmonn.data_makers.clips import read_clips
from nano_salmonn.data_makers.effects import Effect


FREQUENCIES = {"low": 400.0, "middle": 1000.0, "high": 2500.0, "odd": 3500.0, "rare": 5000.0}


def tone(frequency: float, seconds: float = 0.4) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def power_at(samples: np.ndarray, frequency: float) -> float:
    """The largest magnitude of the spectrum within a twentieth of `frequency`."""
    spectrum = np.abs(np.fft.rfft(samples))
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    return spectrum[np.abs(frequencies - frequency) < frequency / 20].max()


@pytest.fixture
def tones(monkeypatch):
    """
    Three classes in every split, one with a single recording for testing, and one for training only; the source of a
    tone begins with its label.
    """
    classes = [
        Effect(
            label,
            label,
            f"a {label} tone sounds",
            (f"{label}/1", f"{label}/2"),
            (f"{label}/3",),
            (f"{label}/4", f"{label}/5"),
        )
        for label in ("low", "middle", "high")
    ]
    classes.append(Effect("odd", "odd", "an odd tone sounds", ("odd/1",), ("odd/3",), ("odd/4",)))
    classes.append(Effect("rare", "rare", "a rare tone sounds", ("rare/1",), (), ()))
    monkeypatch.setattr(sounds, "load_effects", lambda: tuple(classes))
    monkeypatch.setattr(sounds, "read_effect", lambda source: tone(FREQUENCIES[source.split("/")[0]]))
    return {effect.label: effect for effect in classes}


def whole_words(phrase: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text) is not None


def test_labels_of_the_catalogue_cannot_be_mistaken_for_each_other():
    catalogue = json.loads(effects.CATALOGUE.read_text(encoding="utf-8"))
    own = {label: entry["clause"] for label, entry in catalogue["classes"].items() if "clause" in entry}
    clauses = own | catalogue["events"]
    assert {entry["event"] for entry in catalogue["classes"].values() if "event" in entry} == set(catalogue["events"])
    assert len(clauses) == len(own) + len(catalogue["events"])
    for event, clause in clauses.items():
        mentioned = [other for other in clauses if whole_words(other, clause)]
        assert mentioned == [event], f"the clause of {event} mentions {mentioned}"
        assert [other for other in clauses if whole_words(other, event)] == [event]


def test_the_catalogue_names_known_packages():
    catalogue = json.loads(effects.CATALOGUE.read_text(encoding="utf-8"))
    known = {package.name for package in effects.PACKAGES}
    assert set(catalogue["roots"]) == known
    used = {
        package
        for entry in catalogue["classes"].values()
        for package in (*entry["files"], *entry.get("training_files", ()))
    }
    assert used == known


def test_spoken_descriptions_are_no_sounds_of_what_they_describe():
    """Beside the cow of Tux Paint's `cow.ogg` lies `cow_desc_fr.ogg`, in which someone says what it is."""
    classes = json.loads(effects.CATALOGUE.read_text(encoding="utf-8"))["classes"]
    patterns = [pattern for entry in classes.values() for pattern in entry["files"].get("tuxpaint-stamps-default", [])]
    assert len(patterns) > 20
    for pattern in patterns:
        assert not fnmatchcase(pattern.replace("*", "").replace(".ogg", "_desc_fr.ogg"), pattern)


def test_patterns_that_match_nothing_are_refused():
    sources = ["zoo/sounds/dog.ogg", "zoo/sounds/dog_2.ogg", "zoo/sounds/cat.ogg"]
    assert effects.match_sources(sources, "zoo/sounds", ["dog*", "*_2.ogg"]) == sources[:2]
    with pytest.raises(ValueError, match="cow"):
        effects.match_sources(sources, "zoo/sounds", ["dog*", "cow*"])


@pytest.mark.parametrize(("count", "test", "validation"), [(1, 0, 0), (2, 0, 0), (3, 1, 0), (4, 1, 1), (50, 11, 4)])
def test_groups_are_split_as_wholes(count, test, validation):
    groups = [[f"{number}/a", f"{number}/b"] for number in range(count)]
    parts = effects.split_sources(groups)
    assert [len(parts[split]) for split in ("test", "validation")] == [2 * test, 2 * validation]
    assert sorted(source for part in parts.values() for source in part) == sorted(sum(groups, []))
    split_of = {source: split for split, part in parts.items() for source in part}
    assert all(split_of[first] == split_of[second] for first, second in groups)
    assert effects.split_sources(groups[::-1]) == parts


def test_large_groups_are_for_training():
    parts = effects.split_sources([[f"drum/{number}" for number in range(20)], ["bell"], ["horn"], ["gong"]])
    assert len(parts["train"]) >= 20


def test_copies_silent_files_and_other_cuts_are_found(monkeypatch):
    noise = np.random.default_rng(0).standard_normal((3, SAMPLING_RATE)).astype(np.float32)
    waves = {
        "first": noise[0],
        "copy": noise[0],
        "quiet cut": 0.1 * noise[0, 1000:],
        "other": noise[1],
        "silent": 1e-5 * noise[2],
    }
    monkeypatch.setattr(effects, "read_effect", waves.get)
    monkeypatch.setattr(effects, "read_bytes", lambda source: waves[source].tobytes())
    kept = effects.drop_useless(list(waves))
    assert kept == ["first", "quiet cut", "other"]
    assert effects.group_recordings(kept) == [["first", "quiet cut"], ["other"]]


def test_training_files_change_no_other_split(monkeypatch):
    """And copies and other cuts of what is held out are no training files: in other classes of the event neither."""
    noise = np.random.default_rng(0).standard_normal((7, SAMPLING_RATE)).astype(np.float32)
    waves = {f"zoo/{name}": wave for name, wave in zip(("bark", "yelp", "howl", "woof", "growl", "meow"), noise)}
    waves["farm/copy of yelp"] = waves["zoo/yelp"]
    waves["farm/copy of bark"] = waves["zoo/bark"]
    waves["farm/cut of howl"] = 0.1 * waves["zoo/howl"][1000:]
    waves["farm/woof"] = waves["farm/copy of woof"] = noise[6]
    waves["farm/cut of meow"] = waves["zoo/meow"][1000:]
    monkeypatch.setattr(effects, "read_effect", waves.get)
    monkeypatch.setattr(effects, "read_bytes", lambda source: waves[source].tobytes())
    classes = (
        Effect("dog", "barking", "there is barking", ("zoo/bark",), ("zoo/yelp",), ("zoo/woof",)),
        Effect("wolf", "barking", "there is barking", ("zoo/growl",), (), ("zoo/howl",)),
        Effect("cat", "cat", "a cat meows", (), (), ("zoo/meow",)),
    )
    extra = {"dog": [source for source in waves if source.startswith("farm")]}
    dog, *others = effects.add_training_files(classes, extra)
    assert dog.train == ("zoo/bark", "farm/woof", "farm/cut of meow")
    assert (dog.validation, dog.test) == (classes[0].validation, classes[0].test)
    assert others == list(classes[1:])


def test_the_catalogue_may_name_training_files(monkeypatch, tmp_path):
    noise = np.random.default_rng(0).standard_normal((5, SAMPLING_RATE)).astype(np.float32)
    (tmp_path / "sounds").mkdir()
    for name, wave in zip(("dog_0", "dog_1", "dog_2", "dog_3", "late"), noise):
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", 0.1 * wave, SAMPLING_RATE)
    dog = {"clause": "a dog barks", "files": {"zoo": ["dog_*"]}}
    splits = {}
    for name, entry in (("plain", dog), ("more", dog | {"training_files": {"zoo": ["late*"]}})):
        catalogue = tmp_path / f"{name}.json"
        catalogue.write_text(json.dumps({"roots": {"zoo": "sounds"}, "events": {}, "classes": {"dog": entry}}))
        monkeypatch.setattr(effects, "CATALOGUE", catalogue)
        monkeypatch.setattr(effects, "PACKAGES", (effects.DebianPackage("zoo", "", "", ""),))
        monkeypatch.setattr(effects, "fetch_package", lambda package: tmp_path)
        (splits[name],) = effects.find_effects()
    train = (*splits["plain"].train, "zoo/sounds/late.wav")
    assert splits["more"] == replace(splits["plain"], train=train)


def test_effects_are_read_as_mono_16_khz_without_silence_at_the_ends(monkeypatch):
    wave = np.pad(tone(400.0, 1.0), (8000, 16000))
    file = io.BytesIO()
    soundfile.write(file, np.stack([wave, np.zeros_like(wave)], axis=1), SAMPLING_RATE // 2, format="WAV")
    monkeypatch.setattr(effects, "read_bytes", lambda source: file.getvalue())
    samples = effects.read_effect("test/effects are read")
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(2 * SAMPLING_RATE, abs=4 * effects.FRAME)
    assert np.abs(samples).max() == pytest.approx(0.15, abs=0.02)


def test_sources_in_qt_archives_are_read(monkeypatch, tmp_path):
    package = effects.DebianPackage("zoo", "", "", "")
    monkeypatch.setattr(effects, "PACKAGES", (package,))
    monkeypatch.setattr(effects, "fetch_package", lambda package: tmp_path)
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "horn.wav").write_bytes(b"horn")
    (tmp_path / "share" / "farm.rcc").write_bytes(qt_archive({"dog.ogg": b"bark", "dog.svg": b"<svg>"}))
    assert effects.list_sources(package, "share") == ["zoo/share/farm.rcc/animals/dog.ogg", "zoo/share/horn.wav"]
    assert effects.read_bytes("zoo/share/farm.rcc/animals/dog.ogg") == b"bark"
    assert effects.read_bytes("zoo/share/horn.wav") == b"horn"


def test_other_files_are_no_archives():
    with pytest.raises(ValueError, match="qres"):
        effects.qt_resources(b"RIFF")
    with pytest.raises(ValueError, match="OpenClonk"):
        effects.clonk_group(b"RIFF")


def test_sources_in_groups_of_openclonk_are_read(monkeypatch, tmp_path):
    package = effects.DebianPackage("zoo", "", "", "")
    monkeypatch.setattr(effects, "PACKAGES", (package,))
    monkeypatch.setattr(effects, "fetch_package", lambda package: tmp_path)
    animals = clonk_group({"Chirp.wav": b"chirp", "Bark.ogg": b"bark", "authors.txt": b"me"})
    packed = zlib.compress(clonk_group({"Rain.ogg": b"rain"}, {"Animals.ocg": animals}), wbits=31)
    (tmp_path / "Sound.ocg").write_bytes(b"\x1e\x8c" + packed[2:])
    (tmp_path / "Music.ocg").mkdir()
    members = {"Rain.ogg": b"rain", "Animals.ocg/Chirp.wav": b"chirp", "Animals.ocg/Bark.ogg": b"bark"}
    assert effects.list_sources(package, ".") == [f"zoo/Sound.ocg/{name}" for name in members]
    assert [effects.read_bytes(f"zoo/Sound.ocg/{name}") for name in members] == list(members.values())


def clonk_group(files: dict[str, bytes], groups: dict[str, bytes] | None = None) -> bytes:
    """A group with `files` and other `groups`, not packed."""
    groups = groups or {}
    entries, data = b"", b""
    for name, content in (files | groups).items():
        entry = struct.pack("<260s5i", name.encode(), 0, name in groups, len(content), 0, len(data))
        entries += entry.ljust(316, b"\0")
        data += content
    header = bytearray(b"RedWolf Design GrpFolder".ljust(36, b"\0") + struct.pack("<i", len(files | groups)))
    header = header.ljust(204, b"\0")
    header[:-2:3], header[2::3] = header[2::3], header[:-2:3]
    return bytes(byte ^ 237 for byte in header) + entries + data


def qt_archive(files: dict[str, bytes]) -> bytes:
    """An archive of version 1 with a folder `animals` of files."""
    names, data = b"", b""
    nodes = [struct.pack(">IHII", 0, 2, 1, 1)]
    for number, name in enumerate(["animals", *files]):
        flags, first, second = (2, len(files), 2) if number == 0 else (0, 0, len(data))
        nodes.append(struct.pack(">IHII", len(names), flags, first, second))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if number:
            data += struct.pack(">I", len(files[name])) + files[name]
    tree = b"".join(nodes)
    offsets = (20, 20 + len(tree), 20 + len(tree) + len(data))
    return b"qres" + struct.pack(">4I", 1, *offsets) + tree + data + names


def test_plans_keep_the_sources_of_splits_apart(tones):
    for split in effects.SPLITS:
        rows = sounds.plan_sounds(split, 200)
        assert len({row["id"] for row in rows}) == 200
        for row in rows:
            assert len(set(row["events"])) == len(row["events"]) == len(row["sources"])
            assert all(s in getattr(tones[e], split) for e, s in zip(row["events"], row["sources"]))
        heard = {event for row in rows for event in row["events"]}
        assert heard == {"low", "middle", "high"} | ({"odd", "rare"} if split == "train" else set())


def test_classes_of_one_event_are_called_alike_and_never_follow_each_other(tones, monkeypatch):
    """And together they are heard as often as another event in a test."""
    drums = [
        replace(tones["low"], label=label, event="drum", clause="a drum is beaten", test=(f"low/{number}",))
        for number, label in enumerate(("snare drum", "tom-tom"))
    ]
    monkeypatch.setattr(sounds, "load_effects", lambda: (*drums, tones["middle"], tones["high"]))
    for split in ("train", "test"):
        rows = sounds.plan_sounds(split, 600)
        assert all(len(set(row["events"])) == len(row["events"]) for row in rows)
        pairs = [pair for row in rows for pair in zip(row["events"], row["classes"])]
        assert {name for event, name in pairs if event == "drum"} == {"snare drum", "tom-tom"}
        assert {event for event, name in pairs if name in ("snare drum", "tom-tom")} == {"drum"}
    events = [event for row in rows for event in row["events"]]
    assert events.count("drum") / events.count("high") == pytest.approx(1, abs=0.1)


def test_plans_have_the_promised_arrangements(tones):
    counts = dict.fromkeys(sounds.TEST_SHARES, 0)
    for row in sounds.plan_sounds("test", 700):
        counts[row["arrangement"], len(row["events"])] += 1
    assert counts == {("single", 1): 322, ("sequence", 2): 266, ("mix", 2): 112}
    with pytest.raises(ValueError, match="dev"):
        sounds.plan_sounds("dev", 10)


def test_plans_of_one_arrangement_keep_its_proportions(tones):
    rows = sounds.plan_sounds("train", 300, arrangement="sequence")
    assert {row["arrangement"] for row in rows} == {"sequence"}
    assert [len(row["events"]) for row in rows].count(3) == 70  # 0.07 of 0.30
    with pytest.raises(ValueError, match="arrangement.*'pair'"):
        sounds.plan_sounds("train", 10, arrangement="pair")


def test_a_test_needs_an_event_with_two_recordings_for_it(tones, monkeypatch):
    monkeypatch.setattr(sounds, "load_effects", lambda: (tones["odd"],))
    with pytest.raises(ValueError, match="2 recordings for a test"):
        sounds.plan_sounds("test", 10)


def test_plans_depend_on_the_seed_alone(tones):
    assert sounds.plan_sounds("train", 50, seed=1) == sounds.plan_sounds("train", 50, seed=1)
    captions = [[row["caption"] for row in sounds.plan_sounds("train", 50, seed)] for seed in (1, 2)]
    assert captions[0] != captions[1]


def test_classes_for_training_only_come_half_as_often(tones):
    events = [event for row in sounds.plan_sounds("train", 1000) for event in row["events"]]
    assert events.count("rare") / events.count("low") == pytest.approx(0.5, abs=0.1)


def test_captions_name_the_events_in_their_order(tones):
    for row in sounds.plan_sounds("train", 300):
        places = [row["caption"].lower().index(tones[event].clause) for event in row["events"]]
        assert places == sorted(places)
        assert row["caption"][0].isupper() and row["caption"].endswith(".")


def row_of(arrangement: str, *labels: str, number: int = 0) -> dict:
    return {
        "id": f"{arrangement}-{number}",
        "seed": 0,
        "arrangement": arrangement,
        "sources": [f"{label}/1" for label in labels],
    }


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    ("arrangement", "labels"),
    [
        ("single", ("low",)),
        ("sequence", ("low", "high")),
        ("sequence", ("low", "middle", "high")),
        ("mix", ("low", "high")),
    ],
)
def test_clips_have_the_promised_length_and_level(tones, monkeypatch, arrangement, labels, number, augment):
    monkeypatch.setattr(sounds, "read_effect", lambda source: tone(FREQUENCIES[source.split("/")[0]], 6.0))
    row = row_of(arrangement, *labels, number=number)
    clip = sounds.render_sound(row, augment)
    assert clip.dtype == np.float32
    assert 1.5 <= len(clip) / SAMPLING_RATE <= 5.0
    assert 0.05 < np.abs(clip).max() <= 0.9 + 1e-6
    assert np.array_equal(clip, sounds.render_sound(row, augment))


@pytest.mark.parametrize("number", range(5))
def test_events_of_a_sequence_are_heard_in_turn(tones, number):
    clip = sounds.render_sound(row_of("sequence", "high", "low", number=number), augment=False)
    ends = clip[: round(0.35 * SAMPLING_RATE)], clip[np.flatnonzero(clip)[-1] - round(0.3 * SAMPLING_RATE) :]
    assert power_at(ends[0], FREQUENCIES["high"]) > 10 * power_at(ends[0], FREQUENCIES["low"])
    assert power_at(ends[1], FREQUENCIES["low"]) > 10 * power_at(ends[1], FREQUENCIES["high"])


@pytest.mark.parametrize("number", range(5))
def test_events_of_a_mix_are_heard_at_once(tones, monkeypatch, number):
    seconds = {"low": 2.0, "high": 0.3}
    monkeypatch.setattr(sounds, "read_effect", lambda s: tone(FREQUENCIES[s[:-2]], seconds[s[:-2]]))
    clip = sounds.render_sound(row_of("mix", "low", "high", number=number), augment=False)
    for half in np.array_split(clip, 2):
        assert power_at(half, FREQUENCIES["low"]) > 10 * power_at(half, FREQUENCIES["middle"])
        assert power_at(half, FREQUENCIES["high"]) > 10 * power_at(half, FREQUENCIES["middle"])


def test_augmentation_changes_clips_for_training_only(tones):
    row = row_of("single", "middle")
    plain, augmented = (sounds.render_sound(row, augment) for augment in (False, True))
    assert power_at(plain, FREQUENCIES["middle"]) == np.abs(np.fft.rfft(plain)).max()
    assert len(plain) != len(augmented) or not np.allclose(plain, augmented, atol=1e-2)


def test_cuts_begin_where_something_is_heard():
    samples = np.concatenate([tone(400.0, 0.2), np.zeros(5 * SAMPLING_RATE, np.float32), tone(400.0, 0.2)])
    for seed in range(10):
        piece = sounds.cut(samples, SAMPLING_RATE, random.Random(seed))
        assert len(piece) == SAMPLING_RATE
        assert np.abs(piece).max() > 0.2


def test_tilt_raises_high_tones_over_low_ones():
    both = tone(500.0, 1.0) + tone(2000.0, 1.0)
    tilted = sounds.tilt(both, 3.0)
    gains = [20 * np.log10(power_at(tilted, f) / power_at(both, f)) for f in (500.0, 2000.0)]
    assert gains == pytest.approx([-3.0, 3.0], abs=0.2)


def test_made_clips_are_on_disk(tones, tmp_path):
    manifest = sounds.make_sounds(tmp_path / "validation", "validation", 12, workers=1)
    assert manifest == tmp_path / "validation" / "clips.jsonl"
    rows = read_clips(tmp_path / "validation")
    assert [row["kind"] for row in rows] == ["sound"] * 12
    for row in rows:
        info = soundfile.info(row["path"])
        assert (info.samplerate, info.channels) == (SAMPLING_RATE, 1)
        assert info.duration == pytest.approx(row["seconds"], abs=1e-3)


def test_events_within_the_overlap_are_kept():
    class Overlapping(random.Random):
        def uniform(self, low, high):
            return low

    clip = sounds.play_in_turn([tone(400.0, 0.3), tone(2500.0, 0.02)], Overlapping())
    assert len(clip) == round(0.3 * SAMPLING_RATE)


def test_rumble_is_removed():
    samples = tone(1000.0) + 0.5
    assert abs(effects.remove_rumble(samples).mean()) < 1e-3
    assert np.abs(effects.remove_rumble(samples)).max() == pytest.approx(0.3, abs=0.01)
