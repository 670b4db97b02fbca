# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The maker of music: captions and questions agree with the facts, facts can be heard, and a row is always alike."""

import ctypes
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from nano_salmonn.data_makers import music, soundfont
from nano_salmonn.data_makers.clips import read_clips
from nano_salmonn.data_makers.music_facts import INSTRUMENTS, SCALES, STYLES, TEMPOS
from nano_salmonn.data_makers.music_notes import compose
from nano_salmonn.data_makers.music_words import CAPTIONS
from nano_salmonn.data_makers.soundfont import DRUM_KIT, Note


ROWS = music.plan_music("train", 600, seed=0)


def play_sines(notes, program, seconds):
    """Takes the place of FluidSynth: a sine for every note."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    samples = np.zeros(len(time), dtype=np.float32)
    for note in notes:
        sounds = (time >= note.start) & (time < note.start + note.seconds)
        samples[sounds] += np.sin(2 * np.pi * 440 * 2 ** ((note.key - 69) / 12) * time[sounds]) * note.velocity / 127
    return samples


@pytest.fixture
def sines(monkeypatch):
    monkeypatch.setattr(music, "play", play_sines)
    monkeypatch.setattr(music, "check_installed", lambda: None)


def onsets(notes):
    return sorted({round(note.start, 6) for note in notes})


def rows_of(style, **facts):
    return [row for row in ROWS if row["style"] == style and all(row[name] == fact for name, fact in facts.items())]


# What a row says


def test_facts_are_balanced_and_complete():
    assert {tuple(row) for row in ROWS} == {
        ("id", "seed", "split", "kind", "instruments", "tempo", "mode", "style", "caption", "questions")
    }
    assert {label for row in ROWS for label in row["instruments"]} == set(INSTRUMENTS)
    assert {row["style"] for row in ROWS} == set(STYLES)
    for name, values in (("tempo", TEMPOS), ("mode", SCALES)):
        counts = [sum(row[name] == value for row in ROWS) for value in values]
        assert min(counts) > 0.8 * len(ROWS) / len(values), (name, counts)
    assert 0.3 < sum(len(row["instruments"]) == 2 for row in ROWS) / len(ROWS) < 0.5


def test_no_label_is_found_inside_another():
    for label in INSTRUMENTS:
        assert [other for other in INSTRUMENTS if re.search(rf"\b{label}\b", other)] == [label]


def test_two_instruments_differ_and_drums_never_play_alone():
    for row in ROWS:
        assert len(set(row["instruments"])) == len(row["instruments"])
        assert row["instruments"][0] != "drums"


def test_captions_hold_every_fact_in_good_english():
    for row in ROWS:
        caption = row["caption"]
        found = {
            label for label in (*INSTRUMENTS, *TEMPOS, *SCALES) if re.search(rf"\b{label}\b", caption, re.IGNORECASE)
        }
        assert found == {*row["instruments"], row["tempo"], row["mode"]}, caption
        assert re.fullmatch(r"[A-Z][^{}]*\.", caption), caption
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\ban? (drums|church bells)", caption, re.IGNORECASE), caption
        assert not re.search(r"( and .*|drums|church bells) plays", caption), caption


def test_captions_have_many_phrasings():
    hidden = "|".join([*INSTRUMENTS, *TEMPOS, *SCALES, *STYLES, "an?", "plays?", "and"])
    phrasings = {re.sub(rf"\b({hidden})\b", "", row["caption"].lower()).replace(" ", "") for row in ROWS}
    assert len(phrasings) >= len(CAPTIONS)


def test_questions_are_answered_with_the_facts():
    answers = {"yes": 0, "no": 0}
    for row in ROWS:
        played, tempo, mode, presence = row["questions"]
        phrases = [INSTRUMENTS[label].phrase for label in row["instruments"]]
        assert played["answer"].lower() == " and ".join(phrases) + "."
        assert tempo["answer"].lower() == row["tempo"] + "."
        assert mode["answer"].lower() == row["mode"] + "."
        asked = [name for name, instrument in INSTRUMENTS.items() if f" {instrument.phrase} " in presence["question"]]
        assert len(asked) == 1
        expected = "yes" if asked[0] in row["instruments"] else "no"
        assert presence["answer"].lower() == expected + "."
        answers[expected] += 1
    assert min(answers.values()) > 0.4 * len(ROWS)


# What is heard


def test_notes_belong_to_one_key_of_the_mode():
    for row in ROWS:
        steps = SCALES[row["mode"]]
        keys = {
            note.key % 12
            for label, notes in zip(row["instruments"], compose(row))
            for note in notes
            if label != "drums"
        }
        assert any(keys <= {(tonic + step) % 12 for step in steps} for tonic in range(12))


@pytest.mark.parametrize("style", ["waltz", "march", "ballad", "riff"])
def test_tunes_and_riffs_open_with_the_third_of_the_mode(style):
    for row in rows_of(style):
        first, second = [note.key for note in compose(row)[0][:2]]
        assert abs(first - second) == {"major": 4, "minor": 3}[row["mode"]]


@pytest.mark.parametrize("style", ["arpeggio", "scale run"])
def test_the_tempo_is_heard_in_even_notes(style):
    for row in rows_of(style):
        melody = compose(row)[0]
        gaps = np.diff(onsets(melody))
        slowest, fastest = TEMPOS[row["tempo"]]
        assert np.allclose(gaps, gaps[0], atol=1e-5)
        assert slowest <= 60 / (2 * gaps[0]) <= fastest


def test_a_waltz_goes_oom_pah_pah():
    row = next(row for row in rows_of("waltz") if len(row["instruments"]) == 2 and row["instruments"][1] == "piano")
    accompaniment = compose(row)[1]
    sizes = [sum(round(note.start, 6) == time for note in accompaniment) for time in onsets(accompaniment)]
    assert sizes[:6] == [1, 3, 3, 1, 3, 3]


def test_a_ballad_is_never_fast_and_its_chords_last():
    assert {row["tempo"] for row in rows_of("ballad")} == {"slow", "medium"}
    row = next(row for row in rows_of("ballad") if row["instruments"][-1] == "organ" and len(row["instruments"]) == 2)
    chords = compose(row)[1]
    assert np.allclose([note.seconds for note in chords], np.diff(onsets(chords))[0], atol=1e-5)


def test_a_scale_run_goes_by_single_steps_and_an_arpeggio_by_leaps():
    for row in rows_of("scale run"):
        if INSTRUMENTS[row["instruments"][0]].role == "line":
            assert set(np.abs(np.diff([note.key for note in compose(row)[0]]))) <= {1, 2, 3}
    for row in rows_of("arpeggio"):
        if INSTRUMENTS[row["instruments"][0]].role == "line":
            keys = [note.key for note in compose(row)[0]]
            assert min(np.abs(np.diff(keys[:4]))) >= 3


def test_keys_can_be_played():
    for row in ROWS:
        for notes in compose(row):
            assert all(20 <= note.key <= 108 and 1 <= note.velocity <= 127 and note.seconds > 0.05 for note in notes)


def test_an_instrument_that_plays_no_chords_plays_one_note_at_a_time():
    for row in ROWS:
        for label, notes in zip(row["instruments"], compose(row)):
            if INSTRUMENTS[label].role in ("line", "bass"):
                assert all(a.start + a.seconds <= b.start + 1e-6 for a, b in zip(notes, notes[1:]))


# What is written


def test_clips_are_made_of_the_plan_and_alike_again(sines, tmp_path):
    music.make_music(tmp_path / "one", "train", 6, seed=3, workers=1)
    music.make_music(tmp_path / "two", "train", 6, seed=3, workers=1)
    one, two = read_clips(tmp_path / "one"), read_clips(tmp_path / "two")
    for row, again, planned in zip(one, two, music.plan_music("train", 6, seed=3), strict=True):
        samples, rate = soundfile.read(row["path"], dtype="int16")
        assert rate == 16_000 and samples.ndim == 1
        assert 3.8 <= row["seconds"] <= 6.0 and row["seconds"] == pytest.approx(len(samples) / rate, abs=1e-3)
        assert {name: row[name] for name in planned if name != "path"} == planned
        assert np.array_equal(samples, soundfile.read(again["path"], dtype="int16")[0])


def test_splits_and_seeds_have_other_pieces(sines):
    def notes(split, seed):
        return [compose(row) for row in music.plan_music(split, 5, seed)]

    assert notes("train", 0) == notes("train", 0)
    for other in (notes("validation", 0), notes("test", 0), notes("train", 1)):
        assert all(piece not in other for piece in notes("train", 0))


def test_only_training_clips_are_augmented(sines, monkeypatch):
    monkeypatch.setattr(music, "_augment", lambda samples, rng: pytest.fail("augmented"))
    for split in ("validation", "test"):
        assert np.abs(music.render_piece(music.plan_music(split, 1)[0])).max() <= 1
    with pytest.raises(pytest.fail.Exception, match="augmented"):
        music.render_piece(music.plan_music("train", 1)[0])


def test_the_accompaniment_is_heard_whatever_its_instrument_gives(sines, monkeypatch):
    row = next(row for row in music.plan_music("test", 50) if len(row["instruments"]) == 2)
    usual = music.render_piece(row)
    program = INSTRUMENTS[row["instruments"][1]].program
    loud = {program: 30.0}
    monkeypatch.setattr(
        music, "play", lambda notes, program, *rest: play_sines(notes, program, *rest) * loud.get(program, 1)
    )
    assert np.allclose(music.render_piece(row), usual, atol=1e-4)


@pytest.mark.parametrize(("arguments", "message"), [(("dev", 4), "`split`.*'dev'"), (("train", 0), "`count`.*got 0")])
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        music.make_music(tmp_path, *arguments)


# The soundfont


class FakeSynth:
    """Gives a constant for every key that is held, so that a test sees when it is struck and let go."""

    made: list["FakeSynth"] = []

    def __init__(self, **settings):
        self.synth, self.held, self.selected, self.deleted = self, {}, None, False
        FakeSynth.made.append(self)

    def sfload(self, file):
        return 7

    def program_select(self, channel, soundfont, bank, preset):
        self.selected = (channel, soundfont, bank, preset)
        return 0 if preset < 128 else -1

    def noteon(self, channel, key, velocity):
        self.held[key] = velocity / 127

    def noteoff(self, channel, key):
        self.held.pop(key, None)

    def delete(self):
        self.deleted = True


def fake_write(synth, length, left, left_first, left_step, right, right_first, right_step):
    if length:
        buffer = np.ctypeslib.as_array((ctypes.c_float * (2 * length)).from_address(left))
        buffer[:] = sum(synth.held.values())


@pytest.fixture
def fake_fluidsynth(monkeypatch, tmp_path):
    FakeSynth.made = []
    module = SimpleNamespace(Synth=FakeSynth, cfunc=lambda name, *prototype: fake_write)
    monkeypatch.setitem(sys.modules, "fluidsynth", module)
    monkeypatch.setattr(soundfont, "fetch_package", lambda package: tmp_path)


def test_notes_are_struck_and_let_go_on_time(fake_fluidsynth):
    samples = soundfont.play([Note(0.5, 0.5, 60, 127), Note(1.0, 0.25, 60, 64), Note(1.9, 1.0, 62, 127)], 40, 2.0)
    assert samples.shape == (32_000,)
    for time, level in ((0.25, 0), (0.75, 1), (1.1, 64 / 127), (1.5, 0), (1.95, 1)):
        assert samples[round(time * 16_000)] == pytest.approx(level, abs=0.01)
    assert FakeSynth.made[0].selected == (0, 7, 0, 40)
    assert FakeSynth.made[0].deleted


def test_a_key_struck_again_where_its_note_ends_is_not_silenced(fake_fluidsynth):
    first, second = Note(0.1, 0.2, 60, 127), Note(0.3, 0.4, 60, 127)
    assert first.start + first.seconds > second.start  # by a rounding error
    samples = soundfont.play([first, second], 0, 1.0)
    assert samples[8_000] == pytest.approx(1, abs=0.01)


def test_drums_are_a_kit_on_their_own_channel(fake_fluidsynth):
    soundfont.play([Note(0, 0.1, 36, 100)], DRUM_KIT, 0.5)
    assert FakeSynth.made[0].selected == (9, 7, 128, 0)


def test_unknown_programs_are_refused(fake_fluidsynth):
    with pytest.raises(ValueError, match="`program`.*got 300"):
        soundfont.play([], 300, 0.5)
    assert FakeSynth.made[0].deleted


def test_a_missing_fluidsynth_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[music\]'.*libfluidsynth3"):
        music.make_music(tmp_path / "clips", "train", 1)
    assert not (tmp_path / "clips").exists()
