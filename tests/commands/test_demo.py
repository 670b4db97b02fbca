# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The demo, on a tiny model: what it prints, what it refuses, and the meter behind its table."""

import json
import mmap
import re
import shutil
import sys
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from conversion_salmonn.assemble import assemble
from demo_salmonn import clips, demo, meter, music, speech
from modeling_salmonn import SalmonnForConditionalGeneration
from nano_salmonn import assemble as assemble_module
from nano_salmonn.data_makers import effects


ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    parts = {"whisper": FIXTURES / "salmonn" / "whisper", "llm": FIXTURES / "salmonn" / "llama"}
    qformer = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    output = tmp_path_factory.mktemp("demo") / "model"
    return assemble(**parts, beats=FIXTURES / "beats" / "BEATs_tiny.pt", output=output, qformer=qformer)


needs_voice = pytest.mark.skipif(
    find_spec("espeakng_loader") is None and shutil.which("espeak-ng") is None,
    reason="needs a voice: pip install espeakng-loader, or the program espeak-ng",
)


@needs_voice
def test_speech_is_heard():
    clip = speech.speak("Good morning.")
    assert clip.dtype == np.float32 and clip.ndim == 1
    assert 0.4 < len(clip) / 16000 < 3 and 0.05 < np.abs(clip).max() <= 1
    assert len(speech.speak("Good morning. " * 3)) > 2 * len(clip)


@needs_voice
@pytest.mark.parametrize(("text", "voice", "message"), [(" ", "en-us", "`text`"), ("Hello.", "no-such", "`voice`")])
def test_speech_refuses(text, voice, message):
    with pytest.raises(ValueError, match=message):
        speech.speak(text, voice=voice)


@pytest.fixture
def player(monkeypatch, tmp_path):
    """A synthesiser that hums every key as a sine, and notes what it is told."""
    told = []

    class Synth:
        def __init__(self, gain, samplerate):
            self.samplerate, self.hertz = samplerate, 0.0

        def sfload(self, file):
            told.append(Path(file).name)
            return 7

        def program_select(self, channel, soundfont, bank, program):
            told.append((soundfont, bank, program))

        def noteon(self, channel, key, velocity):
            self.hertz = 440 * 2 ** ((key - 69) / 12)

        def noteoff(self, channel, key):
            self.hertz = 0.0

        def generate(self, samples):
            wave = np.sin(2 * np.pi * self.hertz * np.arange(samples) / self.samplerate)
            return memoryview(np.repeat(wave, 2).astype(np.float32).tobytes())

    monkeypatch.setitem(sys.modules, "tinysoundfont", SimpleNamespace(Synth=Synth))
    monkeypatch.setattr(music, "fetch_package", lambda package: tmp_path / package.name)
    return told


def test_tune_is_played(player):
    samples = music.play_tune([(69, 1), (81, 2)], program=40, tempo=120)
    assert player == ["TimGM6mb.sf2", (7, 0, 40)]
    assert samples.dtype == np.float32 and np.abs(samples).max() == pytest.approx(0.5)
    assert len(samples) == 16000 * (0.5 + 1.0 + music.RING_SECONDS)
    first, second = samples[1000:7000], samples[9000:23000]
    for part, hertz in ((first, 440), (second, 880)):
        assert np.abs(np.fft.rfft(part)).argmax() * 16000 / len(part) == pytest.approx(hertz, abs=3)
    assert np.abs(samples[-4000:]).max() < 0.01


def test_music_says_what_it_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(ValueError, match="pip install --no-deps tinysoundfont"):
        clips.make_music()


def test_sound_is_of_the_class_that_the_demo_names(monkeypatch):
    read = []
    monkeypatch.setattr(effects, "read_effect", lambda source: read.append(source) or np.ones(8000, np.float32))
    samples = clips.make_sound()
    assert samples.dtype == np.float32 and len(samples) == 8000 + 2 * 0.4 * 16000 and samples.sum() == 8000
    package, path = read[0].split("/", maxsplit=1)
    catalogue = json.loads(effects.CATALOGUE.read_text())
    fire = catalogue["classes"]["fire"]
    assert fire["clause"] == clips.DEMO_CLIPS[1].heard
    assert any(fnmatchcase(path, f"{catalogue['roots'][package]}/{pattern}") for pattern in fire["files"][package])


@needs_voice
def test_demo_on_what_can_be_made(tiny, monkeypatch, capsys):
    def unreachable():
        raise ValueError("the Debian package\n some-data: cannot be had")

    def absent():
        raise FileNotFoundError("no such file")

    spoken, sound, played = demo.DEMO_CLIPS
    tones = replace(played, make=lambda: np.full(32000, 0.1, np.float32))
    monkeypatch.setattr(
        demo, "DEMO_CLIPS", (spoken, replace(sound, make=unreachable), replace(sound, make=absent), tones)
    )
    assert demo.main(["--model", str(tiny), "--max-new-tokens", "4"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^speech +[34]\.\d\d s, 'She opened", text, re.MULTILINE)
    assert "sound      left out: the Debian package some-data: cannot be had\n" in text
    assert "sound      left out: no such file\n" in text
    assert [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("question")] == [
        *spoken.questions,
        *played.questions,
    ]
    assert re.search(r"tokens +88 audio, \d+ text, [1-4] new, in [\d.]+ s", text)
    for part in ("features", "Whisper", "BEATs", "connector", "LLM prefill"):
        assert re.search(rf"^{part} +[\d.]+ +{1 + len(played.questions)} +[\d.]+", text, re.MULTILINE), part
    assert re.search(r"^LLM token +[\d.]+ +\d+", text, re.MULTILINE)
    assert demo.UNTRAINED not in text and demo.QUALITY not in text  # which are said of salmonn-nano alone


def test_demo_on_a_file(tiny, tmp_path, capsys):
    soundfile.write(tmp_path / "clip.wav", np.zeros(44100), 22050)
    command = ["--model", str(tiny), "--audio", str(tmp_path / "clip.wav"), "--max-new-tokens", "2"]
    assert demo.main([*command, "--question", "Why?"]) == 0
    text = capsys.readouterr().out
    assert "Why?" in text and "2.00 s" in text and text.count("question ") == 1
    assert demo.main(command) == 0
    assert f"question   {demo.QUESTION}" in capsys.readouterr().out


def test_demo_refuses_before_it_makes_a_model(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_nano", lambda: pytest.fail("made a model"))
    assert demo.main(["--audio", "absent.wav"]) == 2
    assert "absent.wav does not exist" in capsys.readouterr().err


@needs_voice
@pytest.mark.parametrize("trained", [True, False])
def test_a_model_without_an_adapter_is_called_untrained(tiny, tmp_path, monkeypatch, capsys, trained):
    folder = shutil.copytree(tiny, tmp_path / "nano")
    if trained:
        model = SalmonnForConditionalGeneration.from_pretrained(folder)
        model.add_adapter(model.lora_config())
        model.save_pretrained(folder)
    monkeypatch.setattr(demo, "find_nano", lambda: folder)
    monkeypatch.setattr(demo, "DEMO_CLIPS", demo.DEMO_CLIPS[:1])
    assert demo.main(["--max-new-tokens", "1"]) == 0
    text = capsys.readouterr().out
    assert (demo.UNTRAINED in text) is not trained and (demo.QUALITY in text) is trained


@pytest.mark.parametrize("task, score", demo.RATES)
def test_rates_are_those_that_were_measured(task, score):
    tasks = json.loads((ROOT / "docs/nano_runs/evaluate/instruct/results.json").read_text())["tasks"]
    printed = demo.RATES[task, score]
    digits = len(printed.partition(".")[2])
    assert float(printed) == pytest.approx(tasks[task]["scores"][score]["value"], abs=0.51 * 10**-digits)
    assert printed in demo.QUALITY


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Models that `find_nano` asks for, each with its checkpoint, and a cache and a place for the checkpoint."""
    made = []

    def pretend(output, checkpoint, overwrite):
        made.append((output, checkpoint))
        output.mkdir(parents=True)
        (output / "config.json").write_text("{}")

    monkeypatch.setenv("SALMONN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assemble_module, "assemble_nano", pretend)
    monkeypatch.setattr(assemble_module, "NANO_CHECKPOINT", tmp_path / "checkpoint")
    return made


def test_nano_is_assembled_once_for_each_checkpoint(made, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    assert demo.find_nano() == demo.find_nano() == made[0][0]
    assert made == [(made[0][0], None)]

    weights = checkpoint / "adapter" / "adapter_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"first")
    assert demo.find_nano() == demo.find_nano() == made[1][0]
    weights.write_bytes(b"other")
    demo.find_nano()
    (checkpoint / "README.md").write_text("says more")
    demo.find_nano()
    assert [given for _, given in made] == [None, checkpoint, checkpoint]
    assert len({folder for folder, _ in made}) == 3


def test_nano_is_assembled_again_with_other_settings(made, monkeypatch):
    demo.find_nano()
    monkeypatch.setitem(assemble_module.NANO, "num_query_tokens", 3)
    assert demo.find_nano() == made[1][0] != made[0][0]


def test_meter_adds_up(monkeypatch):
    ticks = iter([10.0, 10.5, 20.0, 22.0])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(ticks))
    counted = meter.PartMeter()
    for _ in range(2):
        with counted.part("work"):
            pass
    use = counted.parts["work"]
    assert use.calls == 2 and use.seconds == 2.5
    assert re.search(r"^work +2\.500 +2 +1\.2500 ", counted.table(), re.MULTILINE)


@pytest.mark.skipif(meter.read_peak() is None, reason="peak memory is known on Linux and on GPUs only")
def test_meter_sees_memory_that_is_gone_again():
    counted = meter.PartMeter()
    with counted.part("large"):
        # pages of its own: a tensor may get memory that an earlier test has freed, and the process then does not grow
        with mmap.mmap(-1, 64 * meter.MEBIBYTE) as memory:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1
    with counted.part("small"):
        pass
    assert counted.parts["large"].grown_bytes > 50 * meter.MEBIBYTE
    assert counted.parts["small"].grown_bytes < 20 * meter.MEBIBYTE
