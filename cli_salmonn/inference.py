# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""One question to a model about one clip."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers.audio_utils import load_audio

from conversion_salmonn.loading import load_with_adapter
from data_salmonn.audio import read_audio
from data_salmonn.chats import check_single_answer
from data_salmonn.manifests import read_manifest
from data_salmonn.prompts import PromptBank


def load(model: str | Path, device: str | None = None, dtype: str | None = None, adapter: str | Path | None = None):
    """
    The model in the folder (or of the Hub id) `model`, ready to answer on `device`, and its processor, see
    [`load_with_adapter`].

    A CPU computes in float32 unless `dtype` is given: float16 is slow there.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    loaded, processor = load_with_adapter(model, adapter, dtype)
    return loaded.to(device), processor


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


def ask_all(
    model: str | Path,
    manifest: str | Path,
    question: str | None = None,
    *,
    adapter=None,
    device=None,
    dtype=None,
    **generation,
) -> Iterator[dict]:
    """
    What `model` answers to each row of a manifest (see `docs/data.md`), as `{"id", "question", "answer"}`: to `question`,
    or else to what the row or its task asks, and without either with a transcription. Otherwise as [`ask`].

    Raises a `ManifestError` with all bad rows before the model is loaded.
    """
    rows = read_manifest(manifest, task="asr", needs_text=False)
    for row in rows:
        check_single_answer({"id": row.id, "messages": row.messages})
    bank = PromptBank.load()
    loaded, processor = load(model, device, dtype, adapter)
    generation = {name: value for name, value in generation.items() if value is not None}
    for row in rows:
        own = row.question if row.task == "asr" else bank.test_prompt(row.task, row.question)
        asked = question or own
        inputs = prepare(processor, read_audio(list(row.paths)), asked).to(loaded.device)
        answer = decode(processor, inputs, loaded.generate(**inputs, **generation))
        yield {"id": row.id, "question": asked, "answer": answer}


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
    adapter: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **generation,
) -> str:
    """
    What `model` answers to `question` about the file `audio`; without a question, a transcription.

    `generation` are arguments of `generate`; those that are `None` are left to the model.
    Raises `ValueError` if the file does not exist or is no audio, and if model and adapter do not go together.
    """
    clip = read_clip(audio)
    loaded, processor = load(model, device, dtype, adapter)
    inputs = prepare(processor, clip, question).to(loaded.device)
    generation = {name: value for name, value in generation.items() if value is not None}
    return decode(processor, inputs, loaded.generate(**inputs, **generation))
