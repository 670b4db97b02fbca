# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the web page is made of, without Gradio: pictures of a clip, and the HTML of conversations and costs."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from demo_salmonn import markup, pictures
from demo_salmonn.markup import Turn
from demo_salmonn.meter import PartUse
from demo_salmonn.session import Answer, EncodedClip
from tiny_salmonn import noise


ATTACK = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def pillow():
    return pytest.importorskip("PIL.Image", reason="pictures need Pillow: pip install -e '.[web]'")


def make_clip(name="clip.wav", seconds=2.0, segments=1):
    parts = {name: PartUse(seconds=0.5, calls=1) for name in ("features", "Whisper", "BEATs", "connector")}
    log_mel = np.random.default_rng(0).uniform(-1, 1, (80, round(100 * seconds))).astype(np.float32)
    path = f"/tmp/a b/{name}"
    return EncodedClip(name, path, noise(seconds), 16000, log_mel, torch.zeros(12, 4), segments, parts)


def make_answer(**changes):
    parts = {"LLM prefill": PartUse(seconds=0.25, calls=1), "LLM token": PartUse(seconds=1.0, calls=4)}
    answer = Answer("Why?", 1.0, "Because.", 12, 9, 5, 1.3, parts, "complete")
    return replace(answer, **changes)


def decode(url, pillow):
    return np.asarray(pillow.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def test_envelope_is_that_of_each_piece():
    samples = np.arange(10, dtype=np.float32)
    low, high = pictures.envelope(samples, 4)
    assert low.tolist() == [0, 2, 5, 7] and high.tolist() == [1, 4, 6, 9]
    assert pictures.envelope(samples, 50)[0].tolist() == samples.tolist()


def test_waveform_shows_the_sign_and_fills_the_height():
    path = pictures.draw_waveform(np.array([0.0, 0.25, -0.5], dtype=np.float32))
    heights = [float(y) for _, y in re.findall(r"([\d.]+) (-?[\d.]+)", path.split('d="')[1])]
    # along the top, then back along the bottom; up is negative in SVG
    assert heights == [-0.012, -0.48, -0.012, 0.96, 0.012, 0.012]
    assert "nan" not in pictures.draw_waveform(np.zeros(3, dtype=np.float32))


def test_spectrogram_has_low_frequencies_below(pillow):
    log_mel = np.full((80, 300), -1.0, dtype=np.float32)
    log_mel[5, 100:200] = 1.0
    image = decode(pictures.draw_spectrogram(log_mel), pillow)
    assert image.shape == (80, 300, 2) and not image[..., 0].any()  # opacity alone; the colour is the style sheet's
    assert (image[80 - 1 - 5, 100:200, 1] == 255).all() and image[..., 1].astype(bool).sum() == 100


def test_spectrogram_of_silence_is_empty_and_of_a_long_clip_small(pillow):
    silence = decode(pictures.draw_spectrogram(np.full((80, 12000), -0.5, dtype=np.float32)), pillow)
    assert silence.shape == (80, pictures.COLUMNS, 2) and not silence.any()


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, [0]), (2.0, [0, 0.5, 1, 1.5]), (7, [0, 1, 2, 3, 4, 5, 6])])
def test_time_ticks(seconds, expected):
    assert pictures.time_ticks(seconds) == expected


def test_long_clips_have_few_ticks():
    for seconds in (31, 119, 600, 3600):
        assert 2 <= len(pictures.time_ticks(seconds)) <= pictures.MOST_TICKS + 1


def test_frequencies_stand_where_mel_bins_of_whisper_do():
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(201, 80, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    for hertz, height in pictures.frequency_ticks(16000):
        peak = bank[round(hertz / 8000 * 200)].argmax()
        assert abs(height * 80 - peak) < 1.5


def test_clips(pillow):
    html = markup.clip_cards([make_clip(), make_clip(ATTACK, 65, segments=3)])
    assert html.count("<article") == 2 and "2.0 s · 12 audio tokens · encoded in 2.0 s" in html
    assert "65.0 s · 3 segments of up to 30 s" in html and html.count('class="border"') == 2 * 2
    assert 'src="gradio_api/file=/tmp/a%20b/clip.wav"' in html
    assert "<img" not in html and "&lt;img" in html


def test_conversation_escapes_and_says_how_an_answer_ended():
    turns = [
        Turn(("a.wav", ATTACK), make_answer(question=ATTACK, text=ATTACK, lora_scale=0.5)),
        Turn(("a.wav",), make_answer(ending="length")),
        Turn(("a.wav",), make_answer(ending=None)),
        Turn(("a.wav",), make_answer(ending=None, new_tokens=0, text="")),
        Turn(("a.wav",), make_answer(text="", new_tokens=1)),
    ]
    html = markup.conversation(turns)
    assert "<img" not in html and html.count("&lt;img") == 3
    assert "5 tokens · 1.3 s · LoRA at 0.5<" in html and "cut at the longest answer" in html
    assert html.count("writing") == 2 and "reading the clip" in html
    assert "(an empty answer)" in html and "1 token ·" in html


def test_comparison_goes_from_trained_to_off():
    answers = [make_answer(lora_scale=scale, text=f"at {scale} at") for scale in (0.0, 1.0, 0.25)]
    html = markup.comparison(answers)
    assert re.findall(r"<strong>([\d.]+)</strong><span>([^<]+)", html) == [
        ("1", "as trained"),
        ("0.25", "turned down"),
        ("0", "off: the LLM alone"),
    ]
    assert html.count("2 different words") == 3


def test_cost_adds_up_clips_and_tells_tokens_by_part():
    html = markup.cost([make_clip(), make_clip()], make_answer())
    rows = re.findall(r'row">([^<]+)</th>.*?<td>([\d.]+) s</td><td>(\d+)×</td><td>([^<]*)', html)
    assert rows == [
        ("Spectra", "1.00", "2", ""),
        ("Whisper", "1.00", "2", ""),
        ("BEATs", "1.00", "2", ""),
        ("Connector", "1.00", "2", "24 audio"),
        ("LLM reads", "0.25", "1", "12 audio + 9 text"),
        ("LLM writes", "1.00", "4", "5 new"),
    ]


def test_nothing_yet_says_what_to_do():
    for html in (markup.clip_cards([]), markup.conversation([]), markup.comparison([]), markup.cost([], None)):
        assert 'class="empty"' in html
    assert markup.notice("") == "" and "&lt;b&gt;" in markup.notice("<b>")
