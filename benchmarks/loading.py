# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What a process takes until its first token, and memory while it loads, each in a process of its own.

    python benchmarks/loading.py                           salmonn-nano
    python benchmarks/loading.py --model ./salmonn-13b --repeats 3
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from side_by_side import ROOT, Benchmark

from demo_salmonn.demo import find_nano


STEPS = """
import json, sys, time
sys.path.insert(0, {root!r})
marks = [("start", time.process_time(), 0)]
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
def mark(name):
    marks.append((name, time.process_time(), peak()))
import torch
mark("import torch")
import salmonn_transformers
mark("import salmonn_transformers")
from cli_salmonn.inference import load, prepare
import numpy
model, processor = load({model!r})
mark("from_pretrained")
weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
inputs = prepare(processor, numpy.zeros(16000, "float32") + 0.01, "What is heard?")
model.generate(**inputs, max_new_tokens=1)
mark("first token")
print(json.dumps([marks, weights]))
"""


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument("--model", type=Path, help="folder of a model (default: salmonn-nano)")
    options = benchmark.parse_args()
    model = str((options.model or Path(find_nano())).resolve())
    runs = []
    for _ in range(options.repeats):
        code = STEPS.format(root=str(ROOT), model=model)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    weights = runs[0][1]
    names = [name for name, *_ in runs[0][0]]
    print(f"\nweights {weights:.0f} MiB\n{'':<32}{'CPU s':>8}{'peak MiB':>10}")
    for index in range(1, len(names)):
        seconds = statistics.median(marks[index][1] - marks[index - 1][1] for marks, _ in runs)
        peak = max(marks[index][2] for marks, _ in runs)
        print(f"  {names[index]:<30}{seconds:>8.2f}{peak:>10.0f}")
    before = max(marks[2][2] for marks, _ in runs)
    peak = max(marks[3][2] for marks, _ in runs) - before
    print(f"\nfrom_pretrained takes {peak:.0f} MiB on top, {peak / weights:.2f} times the weights")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "loading.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
