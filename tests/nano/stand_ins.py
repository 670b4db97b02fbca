# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What stands in for the sources of salmonn-nano, and commands that run with it in processes of their own: tones for sounds
and voices, a random Whisper and LLM for the data wheels. Everything else is as it is when the real model is made.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from tiny_nano import ALL_LINEAR, QFORMER, TEXT, WHISPER, save_llm
from tiny_peers import save_whisper

from configuration_beats import BeatsConfig
from conversion_salmonn.assemble import assemble
from conversion_salmonn.parts import RANDOM_SMALL_BEATS
from evaluation_salmonn import runner
from modeling_beats import BeatsForAudioClassification
from modeling_salmonn import SalmonnForConditionalGeneration
from nano_salmonn import assemble as assembling
from nano_salmonn import beats_classifier, whisper_teacher, whisper_wheel
from nano_salmonn.data_makers import debian, music, recorded, scenes, sounds, sources, speech
from nano_salmonn.data_makers.effects import Effect
from nano_salmonn.data_makers.texts import Sentence
from tiny_beats import TINY
from training_salmonn import activation


WORDS = TEXT.split()
TONES = {"bell": 400.0, "horn": 900.0, "bird": 2500.0, "alarm": 4000.0}
# Processes that have imported what they need before they are forked: importing it takes longer than most commands.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["stand_ins", "cli_salmonn.main", "training_salmonn.run", "evaluation_salmonn.runner"]
)


def save_parts(folder: Path) -> Path:
    """What the commands need on disk: an LLM, a Whisper, a recipe for a small BEATs, and a trained model of before."""
    save_llm(folder / "llm")
    save_whisper(folder / "whisper")
    (folder / "recipes").mkdir()
    teacher = {"teacher": "tiny.en-wheel", "teacher_components": 8, "join_probability": 0.5}
    recipe = {name: value for name, value in TINY.items() if name not in ("max_clips", "save_steps", "eval_steps")}
    (folder / "recipes/nano.json").write_text(json.dumps(recipe | teacher | {"saved_dtype": "float16"}))
    torch.manual_seed(0)
    beats = BeatsForAudioClassification(BeatsConfig(**RANDOM_SMALL_BEATS, num_labels=3))
    beats.half().save_pretrained(folder / "checkpoint/beats")
    base = assemble(output=folder / "base", **_nano(folder), **{"beats": folder / "checkpoint/beats"})
    model = SalmonnForConditionalGeneration.from_pretrained(base)
    model.add_adapter(model.lora_config(r=16, target_modules=ALL_LINEAR))
    model.save_pretrained(folder / "checkpoint/adapter", adapter_only=True)
    return folder


def _nano(parts: Path) -> dict:
    settings = {**assembling.NANO, "whisper": WHISPER, "llm": parts / "llm", "qformer": QFORMER}
    settings.pop("beats")
    return settings


def use_stand_ins(parts: Path) -> None:
    """Puts all stand-ins in the place of what they stand for, in this process."""
    os.cpu_count = lambda: 1  # clips are made in this process
    os.environ["PATH"] = ""  # no Java, which a metric of captions would start
    sources.all_packages = sources.all_wheels = list
    sources.natural_voices.fetch_styles = sources.natural_voices.check_installed = lambda: None
    debian.package_version = lambda package: {"version": "1.0"}
    for maker in (sounds, speech, scenes):
        maker.load_effects = load_effects
        maker.read_effect = lambda source: tone(TONES[source.split("/")[0]], 0.4)
    music.check_installed = speech.check_installed = lambda: None
    music.play = lambda notes, program, seconds: tone(200.0 + 20 * program, seconds)
    speech.read_all = read_all
    speech.pronounce = lambda word: " ".join(word)
    speech.speak = speak
    speech.change_speaker = recorded.change_speaker = lambda samples, who, rate=1.0: samples
    recorded.read_prompts = read_prompts
    recorded.read_recording = lambda source: speak(source)
    assembling.NANO = _nano(parts) | {"beats": "random-small"}
    assembling.NANO_CHECKPOINT = parts / "checkpoint"
    beats_classifier.RECIPES = parts / "recipes"
    whisper_teacher.read_part = lambda name: WHISPER
    whisper_wheel.convert_whisper_wheel = lambda output, overwrite: shutil.copytree(
        parts / "whisper", output, dirs_exist_ok=overwrite
    )
    # a random LLM says anything, until it is stopped
    evaluate = runner.evaluate
    runner.evaluate = lambda *arguments, generation, **options: evaluate(
        *arguments, generation={**generation, "max_new_tokens": 6}, **options | {"bootstrap_samples": 20}
    )
    # and its stories are none
    activation.find_fault = lambda text, is_finished, min_words: None if text.strip() else "short"


def tone(frequency: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(16000 * seconds)) / 16000)).astype(np.float32)


def load_effects() -> tuple[Effect, ...]:
    return tuple(
        Effect(name, name, f"a {name} sounds", (f"{name}/1", f"{name}/2"), (f"{name}/3",), (f"{name}/4", f"{name}/5"))
        for name in TONES
    )


def read_all() -> dict[str, list[Sentence]]:
    rng = np.random.default_rng(0)
    sentences = [Sentence(text) for text in sorted({" ".join(rng.choice(WORDS, 3)) for _ in range(6000)})]
    return {"read": sentences[::2], "everyday": sentences[1::2]}


def read_prompts() -> tuple[recorded.Prompt, ...]:
    """Two words each, which are their sources too; five of them each for two tests of their own."""
    texts = [f"{first} {second}" for first in WORDS for second in WORDS if first != second]
    kept = ["test_read"] * 5 + ["test_dialogue"] * 5
    return tuple(
        recorded.Prompt(text, text, "reader", "woman", split) for text, split in zip(texts, kept + [None] * len(texts))
    )


def speak(text: str, engine="", voice="", rate: float = 1.0, pitch: float = 1.0, seed: int = 0) -> np.ndarray:
    """A tone a word."""
    known = {word: number for number, word in enumerate(WORDS)}
    return np.concatenate([tone(pitch * (300 + 40 * known.get(word, 0)), 0.35 / rate) for word in text.split()])


# ----------------------------------------------------------------------------------------------------------------------
# Processes


class Forked:
    """A command in a process of its own, as `subprocess.Popen` gives it."""

    def __init__(self, words, folder: Path, parts: Path):
        log = Path(parts, "commands.log")
        self.process = PROCESSES.Process(target=_work, args=(list(words), str(folder), parts, log))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("salmonn", timeout)
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _work(words: list[str], folder: str, parts: Path, log: Path) -> None:
    from cli_salmonn.main import main

    os.chdir(folder)
    torch.set_num_threads(1)
    with open(log, "a", encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(out):
        print("salmonn", *words, flush=True)
        use_stand_ins(parts)
        sys.exit(main([*words, "--verbose"]))
