# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A few clips, tasks and a model without weights, for tests of evaluation."""

import json
from pathlib import Path

import numpy as np
import soundfile

from evaluation_salmonn.models import AudioModel
from evaluation_salmonn.task import Task, task_from_dict


SENTENCES = ("the cat sat on the mat", "a dog barks", "rain falls <on> the roof & more", "nobody speaks here", "one")


def write_manifest(folder: Path, num_examples: int = 5, unit_seconds: float = 0.1, **columns) -> Path:
    """Clips of different lengths and their manifest, with the columns id, audio, text and those given (lists)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(num_examples):
        length = round(16000 * unit_seconds) * (2 + (7 * i) % num_examples)
        samples = 0.1 * np.random.default_rng(i).standard_normal(length)
        soundfile.write(folder / f"{i}.wav", samples, 16000)
        row = {"id": f"clip {i}", "audio": f"{i}.wav", "text": SENTENCES[i % len(SENTENCES)]}
        rows.append(row | {name: values[i] for name, values in columns.items()})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_task(**changes) -> Task:
    values = {
        "name": "tiny",
        "version": 1,
        "level": 1,
        "description": "A task.",
        "kind": "transcription",
        "columns": {"id": "id", "audio": "audio", "reference": "text"},
        "prompt": "What is said?",
        "metrics": [{"name": "wer", "metric": "wer", "higher_is_better": False, "options": {"normalizer": "basic"}}],
        "published": [{"metric": "wer", "value": 2.5, "model": "Some model", "source": "Table 1"}],
    }
    return task_from_dict(values | changes)


def write_task(folder: Path, **changes) -> Path:
    """The file of a task, which runs take in place of its name."""
    task = make_task(**changes)  # only what is valid is written
    values = {
        "columns": task.columns,
        "metrics": [vars(entry) for entry in task.metrics],
        "published": [vars(entry) for entry in task.published],
    }
    keys = (
        "name",
        "version",
        "level",
        "description",
        "kind",
        "prompt",
        "prompt_source",
        "generation",
        "dataset",
        "judges",
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.name}.json"
    path.write_text(json.dumps(values | {key: getattr(task, key) for key in keys}))
    return path


class HearingModel(AudioModel):
    """Answers with words that depend on the clip alone, and counts its batches."""

    def __init__(self, words=SENTENCES, accent: str = ""):
        super().__init__(None, None)
        self.words, self.accent, self.batches = " ".join(words).split(), accent, []

    def answer(self, clips, prompts, task, **generation):
        self.batches.append(len(clips))
        answers = []
        for clip in clips:
            picks = np.random.default_rng(int(abs(clip).sum() * 1000)).integers(len(self.words), size=4)
            answers.append(" ".join(self.words[i] for i in picks) + self.accent)
        return answers

    def describe(self):
        return {
            "family": "HearingModel",
            "class": "HearingModel",
            "dtype": "none",
            "parameters": 0,
            "weights": self.accent,
        }
