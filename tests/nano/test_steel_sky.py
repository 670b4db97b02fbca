# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The lines of a game, from files that are made as the game's are; and what is packed in them."""

import numpy as np
import pytest
from made_games import pack, write_sky

from nano_salmonn.data_makers import steel_sky
from nano_salmonn.data_makers.rnc import unpack


def test_what_was_packed_is_unpacked():
    turns = [(b"abcd", 4, 6), (b"", 1, 5), (b"the end", 0, 0)]
    assert unpack(pack(turns, 22)) == b"abcd" + b"abcdab" + b"bbbbb" + b"the end"


def test_blocks_follow_each_other():
    turns = [(b"one", 3, 3), (b",", 0, 0), (b"two", 7, 4), (b".", 0, 0)]
    assert unpack(pack(turns, 15, blocks=2)) == b"oneone,two" + b"one," + b"."


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda packed: b"RIFF" + packed[4:], "must begin with b'RNC"),
        (lambda packed: packed[:10], "header of 18 bytes, got 10"),
        (lambda packed: packed[:-1], "bytes, got"),
        (lambda packed: packed[:4] + (99).to_bytes(4, "big") + packed[8:], "must unpack to 99 bytes, got 12"),
        (lambda packed: packed[:17] + b"\x02" + packed[18:], "ends too early|stands for nothing|not there"),
    ],
)
def test_what_is_broken_is_refused(change, reason):
    packed = pack([(b"abcd", 4, 4), (b"efgh", 0, 0)], 12)
    assert unpack(packed) == b"abcdabcdefgh"
    with pytest.raises(ValueError, match=reason):
        unpack(change(packed))


@pytest.fixture
def game(tmp_path):
    """Texts of two groups, one of them longer than sizes are counted singly for."""
    texts = [f"Line {'abcdefghij'[number % 10]} of the CITY{'!' * (number // 10)}" for number in range(70)]
    texts[34] = "It's a long STORY, and " * 8 + "that is all."
    write_sky(tmp_path, {0: texts, 3: ["Who's there?", "Nobody.", "Go AWAY..."]})
    yield tmp_path, texts
    steel_sky._open_game.cache_clear()


def test_the_code_of_texts_is_the_games():
    """These are the codes of the game's version 0.0372; files made for tests go by whatever the module says."""
    codes = {character: code for code, character in steel_sky._read_tree().items()}
    known = {
        " ": "000",
        "e": "0010",
        "s": "01001",
        "T": "10111",
        "\0": "100000",
        "w": "11110011",
        "7": "11111111110001",
    }
    assert known.items() <= codes.items()
    assert sum(2.0 ** -len(code) for code in steel_sky._read_tree()) == 1  # each bit leads somewhere


def test_lines_that_were_recorded_have_their_words(game):
    folder, texts = game
    lines = [(line.number, line.text) for line in steel_sky.read_sky_lines(folder)]
    assert lines == [
        *((50000 + number, texts[number]) for number in range(0, 70, 2)),
        (52430, "Who's there?"),
        (52432, "Go AWAY..."),
    ]


def test_a_recording_is_heard_whether_it_is_packed_or_not(game):
    folder, _ = game
    wave = 60 * np.sin(np.arange(50)) / 128
    packed, stored = (steel_sky.read_sky_line(number, folder) for number in (50000, 52432))
    assert packed.dtype == stored.dtype == np.float32
    assert len(packed) == pytest.approx(81 * 16000 / 11025, abs=2) and len(stored) == pytest.approx(3200, abs=2)
    assert np.abs(stored).max() == pytest.approx(np.abs(wave).max(), rel=0.1)


def test_another_version_of_the_game_is_refused(game):
    folder, _ = game
    table = folder / steel_sky.TABLE_FILE
    table.write_bytes(table.read_bytes()[:-8])
    with pytest.raises(ValueError, match="sky.dnr must have .* rows of 8 bytes"):
        next(steel_sky.read_sky_lines(folder))


@pytest.mark.parametrize(
    "text, said",
    [
        ("Don't TOUCH the LINC terminal...", "don't touch the link terminal..."),
        ("YOU'LL be the prime SUSPECT!", "you'll be the prime suspect!"),
        ("Take it to Security HQ.", ""),
        ("SSSHHH! There's a LOT at stake.", ""),
    ],
)
def test_stress_is_dropped(text, said):
    assert steel_sky.drop_stress(text) == said
