# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What transcribing long recordings costs: CPU seconds for an hour of audio, and the memory that it takes beside the model.

    python benchmarks/recordings.py                        half an hour, one hour and two, with tiny parts
    python benchmarks/recordings.py --hours 0.5 2 --model ./salmonn-nano

Each length is in a process of its own. Audio is noise with pauses, and an answer to a piece has three tokens.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile
from side_by_side import ROOT


sys.path.insert(0, str(ROOT / "tests"))  # a tiny model
RATE = 16000


def size() -> float:
    """MiB of this process by itself."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def write_recording(path: Path, seconds: int) -> Path:
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(seconds):
            second = generator.standard_normal(RATE, dtype=np.float32) * 0.1
            second[: RATE // 8] = 0
            file.write(second)
    return path


def measure(model: str, hours: float, folder: Path) -> tuple[float, float]:
    """CPU seconds for an hour, and MiB beyond those that were there with the model."""
    from cli_salmonn.audio_files import open_clip
    from cli_salmonn.inference import Listener, load

    listener = Listener(*load(model), max_new_tokens=3, do_sample=False)
    list(listener.transcribe(open_clip(write_recording(folder / "short.wav", 40))))  # warms up
    path = write_recording(folder / "long.wav", round(hours * 3600))
    before, highest = size(), [0.0]

    def watch() -> None:
        while True:
            highest[0] = max(highest[0], size())
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    start = time.process_time()
    pieces = list(listener.transcribe(open_clip(path)))
    seconds = time.process_time() - start
    if abs(pieces[-1].end - hours * 3600) > 0.01:
        raise ValueError(f"the pieces end at {pieces[-1].end} s")
    return seconds / hours, highest[0] - before


def save_tiny_model(folder: str) -> None:
    from tiny_salmonn import tiny_config, tiny_model, tiny_processor

    config = tiny_config(segment_seconds=30, fixed_length=False)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    tiny_model(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model (default: one with tiny parts)")
    parser.add_argument("--hours", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)  # of the process that measures one length
    options = parser.parse_args()
    if options.measure is not None:
        with tempfile.TemporaryDirectory() as folder:
            print("RESULT " + json.dumps(measure(options.model, options.measure, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            save_tiny_model(folder)
        print(f"{'hours':>6}{'CPU s an hour':>16}{'MiB':>8}")
        for hours in options.hours:
            command = [sys.executable, __file__, "--model", options.model or folder, "--measure", str(hours)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
            seconds, memory = json.loads(line.removeprefix("RESULT "))
            print(f"{hours:>6g}{seconds:>16.1f}{memory:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
