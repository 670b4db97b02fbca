# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tunes a BEATs to tell classes of sounds, with nothing but Trainer:

    python examples/finetune_beats.py MODEL clips/ OUT

`clips/` has a folder for each class, with its clips. MODEL is a folder of a BEATs, with a classifier or without. OUT loads by
`pipeline("audio-classification")`, `salmonn tags` and `salmonn assemble --beats`.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments
from transformers.audio_utils import load_audio


ENDINGS = (".wav", ".flac", ".ogg", ".mp3")


class CollateClips:
    """Paths and labels to model inputs, padded to the longest clip. Of long clips the first `seconds` are taken."""

    def __init__(self, extractor, seconds: float = 10.0):
        self.extractor, self.seconds = extractor, seconds

    def __call__(self, rows: list[dict]):
        rate = self.extractor.sampling_rate
        clips = [load_audio(row["path"], rate)[: int(self.seconds * rate)] for row in rows]
        inputs = self.extractor(clips, sampling_rate=rate, return_tensors="pt")
        return {**inputs, "labels": torch.tensor([row["label"] for row in rows])}


def finetune(model_id: str, folder: str, output: str, freeze: bool = False, **settings):
    classes = sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
    rows = [
        {"path": str(path), "label": label}
        for label, name in enumerate(classes)
        for path in sorted(Path(folder, name).iterdir())
        if path.suffix.lower() in ENDINGS
    ]
    if len(classes) < 2 or not rows:
        raise ValueError(f"`folder` must have a folder with clips for each of two or more classes, got {classes}.")
    extractor = AutoFeatureExtractor.from_pretrained(model_id, trust_remote_code=True)
    model = AutoModelForAudioClassification.from_pretrained(
        model_id,
        id2label=dict(enumerate(classes)),
        label2id={name: label for label, name in enumerate(classes)},
        problem_type="single_label_classification",
        ignore_mismatched_sizes=True,  # the new classes get a classifier of their own
        dtype=torch.float32,
        trust_remote_code=True,
    )
    if freeze:
        model.freeze_base_model()
    defaults = {"learning_rate": 1e-4, "num_train_epochs": 10, "per_device_train_batch_size": 8, "logging_steps": 10}
    arguments = TrainingArguments(output, remove_unused_columns=False, **{**defaults, **settings})
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=CollateClips(extractor))
    trainer.train()
    trainer.save_model(output)
    extractor.save_pretrained(output)
    return trainer


if __name__ == "__main__":
    finetune(*sys.argv[1:])
