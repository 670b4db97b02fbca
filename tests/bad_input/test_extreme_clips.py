# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Clips at the ends of what samples can be: every number on the way to an answer is finite, in every dtype."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from nano_salmonn.assemble import NANO_CHECKPOINT, assemble_nano
from tiny_salmonn import VARIANTS, ask, noise, question, tiny_config, tiny_model, tiny_processor


SECOND = np.arange(16000) / 16000
CLIPS = {
    "silence": np.zeros(16000),
    "constant": np.ones(16000),
    "least constant": np.full(16000, 2.0**-15),
    "least number": np.full(16000, np.finfo(np.float32).smallest_subnormal),
    "negative constant": -np.ones(16000),
    "clipped": np.clip(50 * np.sin(2 * np.pi * 440 * SECOND), -1, 1),
    "noise of full scale": np.random.default_rng(0).uniform(-1, 1, 16000),
    "beyond full scale": 15 * np.sin(2 * np.pi * 100 * SECOND),
    "fastest change": np.tile([1.0, -1.0], 8000),
    "a click": np.eye(1, 16000, 8000)[0],
    "a sample": np.ones(1),
    "a sample of silence": np.zeros(1),
    "one less than a frame": noise(0.025)[:399],
    "a segment and a sample": np.append(np.zeros(64000), 1.0),
}


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        *(("qformer", dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
        ("real length", torch.float16),
        ("real length, speech only, linear", torch.float16),
        ("BEATs only", torch.bfloat16),
    ],
)
def test_every_number_is_finite(variant, dtype):
    config = tiny_config(**VARIANTS[variant])
    check_numbers(tiny_model(config).to(dtype), tiny_processor(config))


@pytest.mark.slow
@pytest.mark.skipif(not NANO_CHECKPOINT.is_dir(), reason="this copy of the project has no checkpoint")
def test_every_number_of_salmonn_nano_is_finite(tmp_path):
    folder = assemble_nano(tmp_path / "nano")
    processor = AutoProcessor.from_pretrained(folder)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_numbers(AutoModelForMultimodalLM.from_pretrained(folder, dtype=dtype).eval(), processor)


def check_numbers(model, processor):
    dtype = model.dtype
    inputs = ask(processor, *(question(clip.astype(np.float32)) for clip in CLIPS.values()))
    features = {name: inputs.pop(name) for name in processor.feature_extractor.model_input_names if name in inputs}
    assert features["input_features"].isfinite().all()
    features["input_features"] = features["input_features"].to(dtype)
    with torch.no_grad():
        embeds = model.get_audio_features(**features, return_dict=True).pooler_output
        logits = model(**inputs, audio_embeds=embeds).logits
    assert embeds.isfinite().all() and embeds.dtype == dtype
    for name, row, real in zip(CLIPS, logits, inputs["attention_mask"].bool(), strict=True):
        assert row[real, : model.config.audio_token_id].isfinite().all(), name
