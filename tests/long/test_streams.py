# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Long recordings and many clips: memory that does not grow with them, beyond their samples, and nothing that is left out.
`SALMONN_MINUTES` is the length of the recording.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tiny_salmonn import tiny_config, tiny_model, tiny_processor


MINUTES = float(os.environ.get("SALMONN_MINUTES", "20"))
ROOT = Path(__file__).parents[2]
RATE = 16000
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc, of Linux")

ASK = """
from cli_salmonn.main import main
status = main(["ask", {model!r}, {clip!r}, "--format", "srt"])
memory = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
open({found!r}, "w").write(memory.split()[1])
raise SystemExit(status)
"""
MANY = """
import json
import numpy as np
from cli_salmonn.inference import Listener, load

def memory():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])

listener = Listener(*load({model!r}), max_new_tokens=3)
draw, sizes = np.random.default_rng(0), []
for number in range(300):
    clip = 0.1 * draw.standard_normal(int(16000 * draw.uniform(0.1, 6))).astype(np.float32)
    if number % 2:
        list(listener.transcribe(clip))
    else:
        list(listener.answer([clip], ["What is this?", "Who speaks?"]))
    sizes.append(memory())
print(json.dumps(sizes))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One that hears 30 s at a time and always says something."""
    folder = tmp_path_factory.mktemp("streams") / "model"
    config = tiny_config(segment_seconds=30, max_audio_seconds=30, fixed_length=False)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    config.transcription_separator_ids = processor.transcription_separator_ids()
    loaded = tiny_model(config)
    loaded.generation_config.max_new_tokens = loaded.generation_config.min_new_tokens = 5
    loaded.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_recording(path: Path, seconds: float) -> Path:
    """Bursts of noise with silences of half a second between them, as long as sentences."""
    draw = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        left = int(seconds * RATE)
        while left > 0:
            burst = 0.1 * draw.standard_normal(int(RATE * draw.uniform(2, 9)))
            part = np.concatenate([burst, np.zeros(RATE // 2)])[:left]
            file.write(part)
            left -= len(part)
    return path


def run(code: str) -> str:
    # oneDNN keeps what it has compiled for the last 1,024 shapes, some 0.5 MiB for each new length of a clip
    environment = os.environ | {
        **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def test_memory_does_not_grow_with_a_recording(model, tmp_path, capsys):
    peaks = []
    for minutes in (MINUTES / 3, MINUTES):
        clip = write_recording(tmp_path / "clip.wav", 60 * minutes)
        printed = run(ASK.format(model=str(model), clip=str(clip), found=str(tmp_path / "peak")))
        peaks.append(1024 * int((tmp_path / "peak").read_text()))
        times = re.findall(r"^(\S+) --> (\S+)$", printed, flags=re.MULTILINE)
        starts, ends = ([seconds(clock) for clock in column] for column in zip(*times))
        assert starts[0] == 0 and starts[1:] == ends[:-1] and ends[-1] == pytest.approx(60 * minutes, abs=1e-3)
        assert max(np.subtract(ends, starts)) <= 30.001
    with capsys.disabled():
        print(f"\n{MINUTES:g} minutes: {peaks[1] / 2**20:.0f} MiB at most, a third of it {peaks[0] / 2**20:.0f} MiB")
    assert peaks[1] <= 1.3 * peaks[0] + 4 * RATE * 60 * MINUTES


def test_memory_does_not_grow_with_the_number_of_clips(model, capsys):
    sizes = json.loads(run(MANY.format(model=str(model))).splitlines()[-1])
    assert len(sizes) == 300
    with capsys.disabled():
        print(f"\n300 clips: {sizes[99] / 2**10:.0f} MiB after 100, {sizes[-1] / 2**10:.0f} MiB at the end")
    assert sizes[-1] <= 1.1 * sizes[99]
