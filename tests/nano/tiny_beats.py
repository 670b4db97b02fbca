# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Made clips of four labels that a BEATs learns in seconds, and settings with which it does."""

import numpy as np

from feature_extraction_beats import BeatsFeatureExtractor
from nano_salmonn.data_makers.clips import write_clips
from nano_salmonn.fbanks import CropArguments


TINY = {
    "beats": {
        "patch_embed_dim": 16,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "layerdrop": 0.0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.1,
    },
    "max_clips": {"speech": 3},
    "presentations": 640,
    "crop_frames": [32, 100],
    "mel_shift": 2,
    "mixup_probability": 0.2,
    "gain_db": 3.0,
    "equalizer_db": 2.0,
    "noise_probability": 0.1,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-2,
    "warmup_steps": 3,
    "save_steps": 20,
    "eval_strategy": "steps",
    "eval_steps": 20,
    "report_to": [],
    "disable_tqdm": True,
}
NOTHING = CropArguments(
    stretch=0.0,
    mel_shift=0,
    gain_db=0.0,
    equalizer_db=0.0,
    mixup_probability=0.0,
    noise_probability=0.0,
    time_masks=0,
    mel_masks=0,
)
EXTRACTOR = BeatsFeatureExtractor()


def sound_of(label: str, rng: np.random.Generator) -> np.ndarray:
    """Half a second of what a label sounds like here."""
    time = np.arange(8000) / 16000
    noise = rng.standard_normal(8000)
    if label == "whistle":
        return np.sin(2 * np.pi * 3000 * time)
    if label == "rain":
        return 0.3 * noise
    if label == "castanets":
        return noise * np.exp(-200 * (time % 0.1))
    return np.sin(2 * np.pi * (200 + 2000 * time) * time)  # speech is a chirp


def render(row: dict) -> np.ndarray:
    """The sounds of the labels, one after the other, in faint hiss."""
    rng = np.random.default_rng(row["seed"])
    labels = (*row.get("classes", ()), *row.get("instruments", ())) or ("speech",)
    clip = np.concatenate([sound_of(label, rng) for label in labels])
    return 0.3 * clip + 0.003 * rng.standard_normal(len(clip))


def make_split(folder, clips_each: int = 4):
    """Clips of each label alone, and of two sounds."""
    facts = [
        {"kind": "sound", "classes": ["whistle"], "arrangement": "single"},
        {"kind": "sound", "classes": ["rain"], "arrangement": "single"},
        {"kind": "sound", "classes": ["rain", "whistle"], "arrangement": "sequence"},
        {"kind": "music", "instruments": ["castanets"]},
        {"kind": "speech", "text": "a"},
    ]
    rows = [
        {"id": f"{number}-{take}", "seed": 10 * take + number, **fact}
        for take in range(clips_each)
        for number, fact in enumerate(facts)
    ]
    write_clips(folder, rows, render, workers=1)
    return folder
