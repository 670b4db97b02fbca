# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Long recordings and many clips: memory that does not grow with them, time that grows with them and no faster, and nothing that
is left out. `SALMONN_MINUTES` is the length of the recording, `SALMONN_CLIPS` how many clips there
are. 180 and 10000 are those of docs/security.md.
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
NUM_CLIPS = int(os.environ.get("SALMONN_CLIPS", "300"))
ROOT = Path(__file__).parents[2]
RATE = 16000
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc, of Linux")

ASK = """
import json
import time
from cli_salmonn.main import main
status = main(["ask", {model!r}, {clip!r}, *{options!r}])
memory = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
json.dump([1024 * int(memory.split()[1]), time.process_time()], open({found!r}, "w"))
raise SystemExit(status)
"""
MANY = """
import json
import sys
import numpy as np
from cli_salmonn.inference import Listener, load

def memory():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])

listener = Listener(*load({model!r}), max_new_tokens=3)
draw, sizes = np.random.default_rng(0), []
for number in range(int(sys.argv[1])):
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


def run(code: str, *arguments: str) -> str:
    # oneDNN keeps what it has compiled for the last 1,024 shapes, some 0.5 MiB for each new length of a clip
    environment = os.environ | {
        **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",
    }
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def transcribe(model: Path, clip: Path, folder: Path, *options: str) -> tuple[str, int, float]:
    """What `salmonn ask` prints, the most memory that it took, and the seconds of its processor."""
    found = folder / "found"
    printed = run(ASK.format(model=str(model), clip=str(clip), options=list(options), found=str(found)))
    return printed, *json.loads(found.read_text())


def test_memory_does_not_grow_with_a_recording(model, tmp_path, capsys):
    peaks, times = [], []
    for minutes in (MINUTES / 3, MINUTES):
        clip = write_recording(tmp_path / "clip.wav", 60 * minutes)
        printed, peak, taken = transcribe(model, clip, tmp_path, "--format", "srt")
        peaks.append(peak)
        times.append(taken)
        subtitles = re.findall(r"^(\S+) --> (\S+)\n((?:.+\n)+)", printed, flags=re.MULTILINE)  # of one line or more
        starts, ends = ([seconds(clock) for clock in column] for column in list(zip(*subtitles))[:2])
        assert starts[0] == 0 and starts[1:] == ends[:-1] and ends[-1] == pytest.approx(60 * minutes, abs=1e-3)
        assert max(np.subtract(ends, starts)) <= 30.001
    text, peak, _ = transcribe(model, clip, tmp_path)
    assert text.split() == " ".join(line for _, _, line in subtitles).split()  # nothing is lost at cuts
    peaks.append(peak)
    with capsys.disabled():
        print(
            f"\n{MINUTES:g} minutes in {len(subtitles)} pieces: {peaks[1] / 2**20:.0f} MiB at most ({peaks[2] / 2**20:.0f} as "
            f"text), {times[1]:.0f} s; a third of it {peaks[0] / 2**20:.0f} MiB, {times[0]:.0f} s"
        )
    assert max(peaks[1:]) <= 1.1 * peaks[0]


def test_memory_does_not_grow_with_the_number_of_clips(model, capsys):
    sizes = json.loads(run(MANY.format(model=str(model)), str(NUM_CLIPS)).splitlines()[-1])
    assert len(sizes) == NUM_CLIPS
    third = sizes[NUM_CLIPS // 3 - 1]
    with capsys.disabled():
        print(f"\n{NUM_CLIPS} clips: {third / 2**10:.0f} MiB after a third, {sizes[-1] / 2**10:.0f} MiB at the end")
    assert sizes[-1] <= 1.1 * third
