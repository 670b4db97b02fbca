# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What a process takes until its first token, and memory while it loads, each in a process of its own.

    python benchmarks/loading.py                           salmonn-nano
    python benchmarks/loading.py --model ./salmonn-13b --dtype float16 --repeats 3

Memory is that of the process by itself (anonymous), and with the pages of mapped files, which the system drops when others
need the room: weights are read through such a map.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from side_by_side import ROOT, Benchmark

from demo_salmonn.demo import find_nano


STEPS = """
import json, sys, threading, time
sys.path.insert(0, {root!r})
highest = [0.0]
def size(name):
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) / 1024
def watch():
    while True:
        highest[0] = max(highest[0], size("RssAnon"))
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
marks = [("start", time.process_time(), 0, 0)]
def mark(name):
    marks.append((name, time.process_time(), max(highest[0], size("RssAnon")), size("VmHWM")))
import torch
mark("import torch")
from transformers.models.whisper import modeling_whisper
from transformers.models.llama import modeling_llama
mark("import Transformers' Whisper and LLaMA")
import salmonn_transformers
mark("import salmonn_transformers")
import peft
mark("import peft")
from cli_salmonn.inference import load, prepare
import numpy
model, processor = load({model!r}, dtype={dtype!r})
mark("from_pretrained")
weights = sum(x.numel() * x.element_size() for x in [*model.parameters(), *model.buffers()]) / 2**20
inputs = prepare(processor, numpy.zeros(16000, "float32") + 0.01, "What is heard?")
model.generate(**inputs, max_new_tokens=1)
mark("first token")
print(json.dumps([marks, weights]))
"""
BEFORE, LOADED = 4, 5  # steps


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument("--model", type=Path, help="folder of a model (default: salmonn-nano)")
    benchmark.parser.add_argument("--dtype", default="float32", help="of the weights in memory (default: float32)")
    options = benchmark.parse_args()
    model = str((options.model or Path(find_nano())).resolve())
    code = STEPS.format(root=str(ROOT), model=model, dtype=options.dtype)
    runs = []
    for _ in range(options.repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    weights = runs[0][1]
    names = [name for name, *_ in runs[0][0]]
    print(f"\nweights {weights:.0f} MiB\n{'':<40}{'CPU s':>8}{'peak MiB':>10}{'with files':>12}")
    for index in range(1, len(names)):
        seconds = statistics.median(marks[index][1] - marks[index - 1][1] for marks, _ in runs)
        anonymous, all_pages = (max(marks[index][column] for marks, _ in runs) for column in (2, 3))
        print(f"  {names[index]:<38}{seconds:>8.2f}{anonymous:>10.0f}{all_pages:>12.0f}")
    for column, what in ((2, "by itself"), (3, "with the pages of mapped files")):
        more = max(marks[LOADED][column] - marks[BEFORE][column] for marks, _ in runs)
        print(f"from_pretrained takes {more:.0f} MiB {what}, {more / weights:.2f} times the weights")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "loading.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
