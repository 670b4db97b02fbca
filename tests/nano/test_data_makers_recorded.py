# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Recordings of people: lines of games, prompts, a book."""

import gzip
import io
import struct
from collections import Counter

import numpy as np
import pytest
import soundfile
from made_games import write_sky
from made_tones import RATE, tone

from nano_salmonn.data_makers import dialogues, recorded, speakers, texts
from nano_salmonn.data_makers.clips import read_clips


PROMPTS = """; Core sounds

{prompts}
beep: [this is a simple beep tone]
digits/1: one
letters/t: t
menu: Press 1 to mute yourself, or press 2, please.
enter: Enter the 10 digits.
"""


def make_game() -> bytes:
    """The file of a game with two dialogues: their strings, and some of their recordings."""
    said = {
        1: (
            {5: "I'll be back,*15my friend.*FR", 6: "One"},
            {5: "A MAP?*03Go on then.", 0x1F: "never recorded at all"},
        ),
        40: ({}, {7: "You got some nerve, Anderson."}),
    }
    files = {f"D{number}.DOG": _make_dialogue(number, *texts) for number, texts in said.items()}
    for number, name in enumerate(("010005J1", "010005J2", "010006J1", "010005P1", "010005P2", "400007P1")):
        file = io.BytesIO()
        soundfile.write(file, tone(0.1 * (2 + number))[::2], 8000, format="MP3")
        files[f"{name}.SB"] = file.getvalue()
    start, table, contents = 15 + 21 * len(files), b"", b""
    for name, content in files.items():
        table += struct.pack(">12sBII", name.encode(), 0, start + len(contents), len(content))
        contents += content
    return b"QTBLCEM10\0" + struct.pack(">HBH", 0, 1, len(files)) + table + contents


def _make_dialogue(number: int, hero: dict[int, str], other: dict[int, str]) -> bytes:
    def strings(texts):
        packed = b""
        for line, text in texts.items():
            packed += struct.pack(">HHB", 0, line, len(text)) + text.encode()
            packed += b"\0" * (-len(packed) % 4)
        return packed

    levels = 2
    other_start = 32 + 96 * levels + len(strings(hero))
    header = struct.pack(">hhhhh12xh", -levels, number, number, len(hero), len(other), other_start)
    return bytes(20) + header.ljust(32 + 96 * levels, b"\0") + strings(hero) + strings(other)


def test_lines_of_a_game_have_their_words_and_recordings(recordings):
    lines = {line.name: (line.text, line.speaker) for line in dialogues.read_lines(recordings)}
    assert lines == {
        "010005J1.SB": ("I'll be back,", "joe-king"),
        "010005J2.SB": ("my friend.", "joe-king"),
        "010006J1.SB": ("One", "joe-king"),
        "010005P1.SB": ("A MAP?", "person-1"),
        "010005P2.SB": ("Go on then.", "person-1"),
        "400007P1.SB": ("You got some nerve, Anderson.", "person-40"),
    }
    samples = dialogues.read_line("010005P2.SB", recordings)
    assert samples.dtype == np.float32 and len(samples) == pytest.approx(0.6 * RATE, abs=0.15 * RATE)

    prompts = {prompt.text: prompt for prompt in recorded.read_prompts() if "queen" in prompt.source}
    assert prompts.keys() == {"i'll be back", "my friend", "go on then", "you got some nerve anderson"}
    assert (prompts["my friend"].split, prompts["my friend"].gender) == ("train", "man")
    assert len(recorded.read_recording(prompts["my friend"].source)) == len(
        dialogues.read_line("010005J2.SB", recordings)
    )


def test_characters_for_tests_are_those_of_some_dialogues(monkeypatch, recordings):
    names = [f"{first}{second}" * 2 for first in "abcdefghij" for second in "klmnopqrstuvwxyz"]
    lines = [dialogues.Line(f"{n}.SB", f"said by {name}", f"person-{n % 60}") for n, name in enumerate(names)]
    monkeypatch.setattr(recorded, "read_lines", lambda folder: lines)
    recorded.read_prompts.cache_clear()
    found = [prompt for prompt in recorded.read_prompts() if "queen" in prompt.source]
    by_split = {split: {prompt.speaker for prompt in found if prompt.split == split} for split in recorded.SPLITS}
    assert 3 <= len(by_split["test_dialogue"]) <= 20 and not by_split["test"]
    assert not by_split["test_dialogue"] & by_split["train"]


def test_another_file_is_no_game(tmp_path):
    game = tmp_path / dialogues.GAME_FILE
    game.parent.mkdir(parents=True)
    game.write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(ValueError, match="queen.1c must begin with QTBL, got b'RIFF'"):
        next(dialogues.read_lines(tmp_path))


@pytest.fixture
def recordings(monkeypatch, tmp_path):
    """Packages with a few recordings."""
    folders = {package.name: tmp_path / package.name for package in recorded.PACKAGES}
    monkeypatch.setattr(recorded, "fetch_package", lambda package: folders[package.name])
    monkeypatch.setattr(texts, "fetch_package", lambda package: folders[package.name])
    names = [f"prompt-{number}" for number in range(120)]
    listed = "\n".join(f"{name}: Prompt {'very ' * (number % 7)}number-{'abcdefghij'[number % 10] * 2} {'so ' * (number // 10)}." for number, name in enumerate(names))  # fmt: skip
    doc = folders["asterisk-core-sounds-en"] / "usr/share/doc/asterisk-core-sounds-en"
    doc.mkdir(parents=True)
    (doc / "core-sounds-en.txt.gz").write_bytes(gzip.compress(PROMPTS.format(prompts=listed).encode()))
    sounds = folders["asterisk-core-sounds-en-wav"] / "usr/share/asterisk/sounds/en_US_f_Allison"
    stamps = folders["tuxpaint-stamps-default"] / "usr/share/tuxpaint/stamps/animals"
    books = folders["pocketsphinx-testdata"] / "usr/share/pocketsphinx/test/data/librivox"
    for folder in (sounds / "digits", sounds / "letters", stamps, books):
        folder.mkdir(parents=True)
    for name in (*names, "beep", "digits/1", "letters/t", "menu", "enter"):
        soundfile.write(sounds / f"{name}.wav", tone(0.2)[::2], 8000)
    soundfile.write(stamps / "wombat_desc.ogg", tone(0.3), RATE)
    (stamps / "wombat.txt").write_text("A wombat.\nfr.utf8=Un wombat.\n", encoding="utf-8")
    soundfile.write(books / "book-0870.wav", tone(0.4), RATE)
    (books / "transcription").write_text("<s> a quiet room </s> (book-0870)\n", encoding="utf-8")
    game = folders["flight-of-the-amazon-queen"] / dialogues.GAME_FILE
    game.parent.mkdir(parents=True)
    game.write_bytes(make_game())
    write_sky(folders["beneath-a-steel-sky"], {1: ["Who are YOU?", "Nobody.", "Well?"]})
    recorded.read_prompts.cache_clear()
    recorded.read_recording.cache_clear()
    yield folders["flight-of-the-amazon-queen"]
    recorded.read_prompts.cache_clear()
    recorded.read_recording.cache_clear()


@pytest.mark.parametrize(
    "written, spelt",
    [
        ("Press 1, then press 0.", "press one then press zero"),
        ("I don't know. It\u2019s HERS?", ""),
        ("I don't know. It\u2019s hers, I'd say.", "i don't know it's hers i'd say"),
        ("A letter T, please", ""),
        ("[a beep]", ""),
        ("Room 12", ""),
    ],
)
def test_prompts_are_spelt_as_they_are_spoken(written, spelt):
    assert recorded.spell_prompt(written) == spelt


def test_prompts_are_split_by_their_words(recordings):
    prompts = {prompt.text: prompt for prompt in recorded.read_prompts()}

    assert prompts["press one to mute yourself or press two please"].speaker == "allison"
    assert prompts["a wombat"].split == "train" and prompts["a quiet room"].split == "test_read"
    assert "one" in prompts and not {"t", "enter the ten digits"} & set(prompts)
    assert not any("beep" in text for text in prompts)
    sizes = Counter(prompt.split for prompt in prompts.values())
    assert sizes["test"] == pytest.approx(61, abs=12) and 4 < sizes["validation"] < 22


def test_recorded_clips_for_training_are_changed_and_those_for_tests_are_not(recordings, monkeypatch, tmp_path):
    changed = []
    monkeypatch.setattr(recorded, "change_speaker", lambda samples, who, rate: changed.append((who, rate)) or samples)
    count = sum(prompt.split == "test" for prompt in recorded.read_prompts())
    recorded.make_recorded(tmp_path / "test", "test", count, workers=1)
    tests = read_clips(tmp_path / "test")
    assert not changed and len({row["text"] for row in tests}) == count
    assert all(row["seconds"] == pytest.approx(0.2, abs=0.002) and row["gender"] == "woman" for row in tests)
    with pytest.raises(ValueError, match=f"`count` must be at most {count} for test, got {count + 1}"):
        recorded.plan_recorded("test", count + 1)
    with pytest.raises(ValueError, match="`split` must be one of .* got 'dev'"):
        recorded.plan_recorded("dev", 1)

    recorded.make_recorded(tmp_path / "train", "train", 240, workers=1)
    rows = read_clips(tmp_path / "train")
    heard = {text for row in tests for text in [row["text"]]}
    assert len(changed) == 240 and not heard & {row["text"] for row in rows}
    assert all(sum(map(len, row["text"].split())) for row in rows)
    assert {len(row["sources"]) for row in rows} == {1, 2, 3}
    assert all(("gender" in row) == (row["persona"] == 0) for row in rows)
    assert all(("#" in row.get("speaker", "")) == (row["persona"] > 0) for row in rows if "speaker" in row)
    unknown = [row for row in rows if "speaker" not in row]
    assert unknown and all(row["sources"] == ["beneath-a-steel-sky/50600"] for row in unknown)
    assert sum(who == speakers.Persona() for who, _ in changed) == sum(row["persona"] == 0 for row in rows)
    assert all(len(row["text"].split()) <= recorded.LONGEST_ROW for row in rows if len(row["sources"]) > 1)


def test_recordings_of_a_book_are_a_test_of_their_own(recordings, tmp_path):
    recorded.make_recorded(tmp_path, "test_read", 1, workers=1)
    (row,) = read_clips(tmp_path)
    assert (row["text"], row["speaker"], row["seconds"]) == ("a quiet room", "librivox", 0.4)
