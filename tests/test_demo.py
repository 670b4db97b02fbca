# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The demo, on a tiny model: what it prints, what it refuses, and the meter behind its table."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from conversion_salmonn.assemble import assemble
from demo_salmonn import demo, meter, speech


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    parts = {"whisper": FIXTURES / "salmonn" / "whisper", "llm": FIXTURES / "salmonn" / "llama"}
    qformer = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    output = tmp_path_factory.mktemp("demo") / "model"
    return assemble(**parts, beats=FIXTURES / "beats" / "BEATs_tiny.pt", output=output, qformer=qformer)


def test_speech_is_heard():
    clip = speech.speak("Good morning.")
    assert clip.dtype == np.float32 and clip.ndim == 1
    assert 0.4 < len(clip) / 16000 < 3 and 0.05 < np.abs(clip).max() <= 1
    assert len(speech.speak("Good morning. " * 3)) > 2 * len(clip)


@pytest.mark.parametrize(("text", "voice", "message"), [(" ", "en-us", "`text`"), ("Hello.", "no-such", "`voice`")])
def test_speech_refuses(text, voice, message):
    with pytest.raises(ValueError, match=message):
        speech.speak(text, voice=voice)


def test_demo_on_a_synthesised_clip(tiny, capsys):
    assert demo.main(["--model", str(tiny), "--max-new-tokens", "4"]) == 0
    text = capsys.readouterr().out
    assert demo.QUESTION in text
    assert re.search(r"tokens +88 audio, \d+ text, [1-4] new", text)
    for part in ("features", "Whisper", "BEATs", "connector", "LLM prefill", "LLM token"):
        assert re.search(rf"^{part} +[\d.]+ +\d+ +[\d.]+", text, re.MULTILINE), part


def test_demo_on_a_file(tiny, tmp_path, capsys):
    soundfile.write(tmp_path / "clip.wav", np.zeros(44100), 22050)
    command = ["--model", str(tiny), "--audio", str(tmp_path / "clip.wav"), "--question", "Why?"]
    assert demo.main([*command, "--max-new-tokens", "2"]) == 0
    text = capsys.readouterr().out
    assert "Why?" in text and "2.00 s" in text


def test_demo_refuses_before_it_makes_a_model(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_nano", lambda: pytest.fail("made a model"))
    assert demo.main(["--audio", "absent.wav"]) == 2
    assert "absent.wav does not exist" in capsys.readouterr().err


def test_nano_is_assembled_once_and_whole(tmp_path, monkeypatch):
    from conversion_salmonn import assemble as module

    made = []

    def pretend(output, **changes):
        made.append(output)
        output.mkdir(parents=True)
        (output / "config.json").write_text("{}")

    monkeypatch.setenv("SALMONN_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "assemble_nano", pretend)
    assert demo.find_nano() == demo.find_nano() == made[0]
    assert len(made) == 1


def test_meter_adds_up():
    counted = meter.PartMeter()
    for _ in range(2):
        with counted.part("work"):
            time.sleep(0.02)
    use = counted.parts["work"]
    assert use.calls == 2 and 0.04 <= use.seconds < 1
    assert "work" in counted.table()


@pytest.mark.skipif(meter.read_peak() is None, reason="peak memory is known on Linux and on GPUs only")
def test_meter_sees_memory_that_is_gone_again():
    counted = meter.PartMeter()
    with counted.part("large"):
        torch.ones(64 * meter.MEBIBYTE // 4).sum()
    with counted.part("small"):
        pass
    assert counted.parts["large"].grown_bytes > 50 * meter.MEBIBYTE
    assert counted.parts["small"].grown_bytes < 20 * meter.MEBIBYTE
