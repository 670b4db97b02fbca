# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""One question to a model about one clip."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
from transformers.audio_utils import load_audio

# Importing these tells Transformers' Auto classes about SALMONN.
import modeling_salmonn  # noqa: F401
import processing_salmonn  # noqa: F401


def load(model: str | Path, device: str | None = None, dtype: str | None = None):
    """
    The model in the folder (or of the Hub id) `model`, ready to answer on `device`, and its processor.

    A CPU computes in float32 unless `dtype` is given: float16 is slow there.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    loaded = AutoModelForMultimodalLM.from_pretrained(model, dtype=dtype).to(device).eval()
    return loaded, AutoProcessor.from_pretrained(model)


def read_clip(path: str | Path, sampling_rate: int = 16000) -> np.ndarray:
    """
    The samples of an audio file, `(samples,)` at `sampling_rate`, channels averaged.

    Raises `ValueError` if the file does not exist or is no audio.
    """
    if not Path(path).is_file():
        raise ValueError(f"`audio` {path} does not exist")
    try:
        return load_audio(str(path), sampling_rate=sampling_rate)
    except Exception as error:  # each decoder has errors of its own
        raise ValueError(f"`audio` {path} is no audio file that can be read ({error})") from error


def prepare(processor, audio, question: str | None):
    """
    Model inputs for `question` about `audio` (path or 16 kHz waveform); without a question, for a transcription, for which
    `generate` makes the prompt and goes through long audio piece by piece.
    """
    if question is None:
        return processor(audio=audio, return_tensors="pt")
    content = [{"type": "audio", "audio": audio}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )


def decode(processor, inputs, output: torch.Tensor) -> str:
    """The answer in what `generate` returned for `inputs`, of one row: continuation, after the prompt if there is one."""
    prompt_length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return processor.decode(output[0, prompt_length:], skip_special_tokens=True).strip()


def ask(
    model: str | Path,
    audio: str | Path,
    question: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    **generation,
) -> str:
    """
    What `model` answers to `question` about the file `audio`; without a question, a transcription.

    `generation` are arguments of `generate`; those that are `None` are left to the model.
    Raises `ValueError` if the file does not exist or is no audio.
    """
    clip = read_clip(audio)
    loaded, processor = load(model, device, dtype)
    inputs = prepare(processor, clip, question).to(loaded.device)
    generation = {name: value for name, value in generation.items() if value is not None}
    return decode(processor, inputs, loaded.generate(**inputs, **generation))
