# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Servers in processes of their own."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from tiny_salmonn import noise, save_with_adapter


ROOT = Path(__file__).parents[1]


def suppress_single_bytes(model, processor) -> None:
    """Takes tokens of single bytes from a model, which a random one puts together to what is no text."""
    texts = processor.tokenizer.batch_decode([[token] for token in range(len(processor.tokenizer))])
    model.generation_config.suppress_tokens = [token for token, text in enumerate(texts) if "\ufffd" in text]


def save_served(folder: Path) -> str:
    """Saves a model of fixed length with an adapter, whose answers are text."""
    model, processor = save_with_adapter(folder)
    suppress_single_bytes(model, processor)
    model.generation_config.save_pretrained(folder)
    return str(folder)


@contextmanager
def serving(folder: Path, *command: str) -> Iterator[str]:
    """The address of a server, `python -m COMMAND --host ... --port ...`, that has said that it lives. Its log is in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def wav(clip: float | np.ndarray, rate: int = 16000) -> io.BytesIO:
    """A file of a clip, or of so many seconds of noise."""
    buffer = io.BytesIO()
    samples = clip if isinstance(clip, np.ndarray) else noise(clip)
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    buffer.seek(0)
    buffer.name = "clip.wav"
    return buffer


def chat(model: str | None, *clips: bytes, text: str = "What is this?", **options) -> dict:
    """A request of OpenAI's kind about the bytes of audio files."""
    audio = [{"data": base64.b64encode(clip).decode(), "format": "wav"} for clip in clips]
    content = [*({"type": "input_audio", "input_audio": part} for part in audio), {"type": "text", "text": text}]
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 5} | options
