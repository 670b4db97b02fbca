# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Time and peak memory of each part of a model, for clips of several lengths.

    make bench
    python benchmarks/parts.py --model FOLDER --seconds 5 30 90 --new-tokens 32 --repeats 3

Without `--model` it measures `salmonn-nano`. Audio is noise: the time does not depend on what is heard. The answer has
a fixed number of tokens. The first run of each length warms up and is not counted.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a clone that is not installed

from cli_salmonn.inference import load, prepare  # noqa: E402
from demo_salmonn.demo import SAMPLING_RATE, find_nano  # noqa: E402
from demo_salmonn.meter import PartMeter  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 30.0, 60.0])
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    model, processor = load(options.model or find_nano())
    print(f"{torch.__version__=} threads={torch.get_num_threads()} device={model.device} dtype={model.dtype}")
    for seconds in options.seconds:
        measure(model, processor, seconds, options.new_tokens)  # warms up
        meter = PartMeter()
        for _ in range(options.repeats):
            measure(model, processor, seconds, options.new_tokens, meter)
        print(f"\n{seconds:g} s of audio, {options.repeats} runs, {options.new_tokens} new tokens each")
        print(meter.table())


def measure(model, processor, seconds: float, new_tokens: int, meter: PartMeter | None = None) -> None:
    """One clip through features and `generate`, counted by `meter`."""
    meter = meter or PartMeter()
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLING_RATE)).astype(np.float32)
    with meter.part("features"):
        inputs = prepare(processor, noise, "What is heard?").to(model.device)
    with meter.watch(model):
        model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, num_beams=1)


if __name__ == "__main__":
    main()
