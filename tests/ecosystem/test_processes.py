# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Long work of one process of several."""

import os
import subprocess
import sys
from pathlib import Path

from training_salmonn import processes
from training_salmonn.processes import make_once


ROOT = Path(__file__).parents[2]
# The first process works for longer than the others would wait at a barrier.
SCRIPT = """
import datetime, os, sys, time
from pathlib import Path
from accelerate import PartialState
from training_salmonn.processes import make_once

state = PartialState(cpu=True, backend="gloo", timeout=datetime.timedelta(seconds=3))
path = Path(sys.argv[1])

def make():
    time.sleep(6)
    Path(f"{path}.unfinished").write_text(str(state.process_index))
    os.replace(f"{path}.unfinished", path)

assert make_once(path, make).read_text() == "0"
state.wait_for_everyone()
"""


def test_others_wait_longer_than_a_barrier_does(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    result = subprocess.run(
        [sys.executable, *torchrun, str(tmp_path / "script.py"), str(tmp_path / "made")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_what_is_there_is_not_made_again(tmp_path):
    calls = []

    def make():
        calls.append(1)
        (tmp_path / "made").write_text("there")

    for _ in range(2):
        assert make_once(tmp_path / "made", make) == tmp_path / "made"
    assert calls == [1]


def test_a_process_that_is_not_the_first_makes_nothing(tmp_path, monkeypatch):
    class Second:
        is_main_process = False

    def wait(seconds):
        (tmp_path / "made").write_text("by another")

    monkeypatch.setattr(processes, "PartialState", Second)
    monkeypatch.setattr(processes.time, "sleep", wait)
    assert make_once(tmp_path / "made", lambda: 1 / 0).read_text() == "by another"
