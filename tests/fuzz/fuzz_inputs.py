# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Coverage-guided fuzzing of what comes from outside: audio bytes, chats as JSON, headers of checkpoints.

    python tests/fuzz/fuzz_inputs.py audio CORPUS -max_total_time=600
    make fuzz FUZZ_SECONDS=600

Needs Atheris, which has wheels for Python 3.11 on Linux. Anything but a result or a `ValueError`, `TypeError` or `OSError` is a
finding; it is written to the working folder, and belongs into tests/bad_input.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris


sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
os.environ |= {"HF_HUB_OFFLINE": "1", "SALMONN_MAX_AUDIO_HOURS": "0.05"}
with atheris.instrument_imports(
    include=["audio_reading_salmonn", "chat_template_salmonn", "data_salmonn", "conversion_salmonn"]
):
    import audio_reading_salmonn
    import chat_template_salmonn
    from conversion_salmonn import checkpoint_io
    from data_salmonn import chats, json_text

REFUSALS = (ValueError, TypeError, OSError)
# A clip that says where it is: nothing else is fetched or read from the disk.
FOLDER = Path(tempfile.mkdtemp(prefix="salmonn-fuzz-"))


def fuzz_audio(data: bytes) -> None:
    """A file's bytes."""
    try:
        samples = audio_reading_salmonn.load_clip(data, 16000)
    except REFUSALS as error:
        assert len(str(error)) < 5000
    else:
        assert samples.ndim == 1 and len(samples) and samples.dtype == "float32"


def fuzz_chat(data: bytes) -> None:
    """A conversation or a row of chats, as JSON."""
    try:
        content = json_text.parse_json(data)
    except REFUSALS:
        return
    assert json_text.to_json(content).encode()
    for check in (
        chat_template_salmonn.list_conversations,
        lambda row: chats.read_chat(row) if isinstance(row, dict) else None,
    ):
        try:
            check(content)
        except REFUSALS as error:
            assert str(error)


def fuzz_checkpoint(data: bytes) -> None:
    """A file of safetensors, or a pickle."""
    for name, read in (("a.safetensors", checkpoint_io.TensorFolder), ("a.bin", checkpoint_io.read_pickle)):
        file = FOLDER / name
        file.write_bytes(data)
        try:
            dict(read(file))
        except REFUSALS as error:
            assert str(error)


TARGETS = {"audio": fuzz_audio, "chat": fuzz_chat, "checkpoint": fuzz_checkpoint}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
