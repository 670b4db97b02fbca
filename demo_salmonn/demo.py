# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The main job on real input, from a machine that has nothing.

    make demo
    make demo AUDIO=clip.wav QUESTION="What is heard?"
    python -m demo_salmonn.demo --model FOLDER --audio clip.wav --question "What is heard?"

Assembles the small model `salmonn-nano` into a cache, unless it is there, loads it as any model of Transformers is
loaded, asks it about speech, a sound and music, or about a file, and prints the answers with time and memory by part.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch

from demo_salmonn.clips import DEMO_CLIPS, SAMPLING_RATE, DemoClip
from demo_salmonn.meter import PartMeter


QUESTION = "Transcribe the speech."  # about a file

# Scores of the committed model in docs/nano_runs/evaluate/instruct/results.json: task, score, and the score as printed.
RATES = {
    ("nano_asr", "wer"): "13.5",
    ("nano_asr_natural_voice", "wer"): "9.2",
    ("nano_asr_real", "wer"): "15.7",
    ("nano_asr_recorded", "wer"): "28.2",
    ("nano_quiet", "accuracy"): "0.96",
    ("nano_sound", "accuracy"): "0.78",
    ("nano_sound_order", "accuracy"): "0.55",
    ("nano_music", "accuracy"): "0.74",
    ("nano_scene", "accuracy"): "0.34",
    ("nano_gender", "accuracy"): "0.54",
    ("nano_speaker_verification", "accuracy"): "0.48",
}
QUALITY = (
    "These clips are easy ones, of what the model was trained for. On up to 200 test clips of each kind:\n"
    "  good at   synthetic speech, WER {nano_asr} %, natural voices {nano_asr_natural_voice} %; single sounds, {nano_sound} "
    "named; instruments, {nano_music} named;\n"
    "            clips in which nobody speaks, {nano_quiet} told\n"
    "  fair at   recorded speech, WER {nano_asr_real} % on five readings and {nano_asr_recorded} % on prompts; two sounds in a "
    "row, {nano_sound_order} named in order\n"
    "  bad at    speech over sounds, both in {nano_scene}; man or woman, {nano_gender} right; same speaker, "
    "{nano_speaker_verification} right (chance is 0.5);\n"
    "            any other question: it transcribes"
).format(**{task: value for (task, _), value in RATES.items()})

UNTRAINED = (
    "This model's connector and BEATs are random: the parts are real, but nothing has taught the LLM to listen.\n"
    "Its answers show that everything runs, and say nothing about the clips."
)


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    # PEFT imports it wherever it is installed, and it warns of a kernel that only quantized weights would need.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"demo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="Ask a small SALMONN about speech, a sound and music.")
    parser.add_argument("--model", type=Path, help="a SALMONN of your own (default: salmonn-nano, made if missing)")
    parser.add_argument("--audio", type=Path, help="audio file (default: three clips that are made on the spot)")
    parser.add_argument("--question", help=f"default: {QUESTION!r} of a file, and what fits each of the three clips")
    parser.add_argument("--max-new-tokens", type=int, default=60, metavar="N", help="default: 60")
    parser.add_argument("--num-beams", type=int, default=1, metavar="N", help="default: 1")
    return parser


def run(options: argparse.Namespace) -> None:
    """The demo itself. Raises `ValueError` for what the user can mend."""
    from cli_salmonn.audio_files import read_clip
    from cli_salmonn.inference import load

    if options.audio is None:
        clips = DEMO_CLIPS
    else:
        # The user's file is read first: a wrong name should not cost the time of making a model.
        samples = read_clip(options.audio)
        clips = (DemoClip("clip", str(options.audio), (options.question or QUESTION,), lambda: samples),)

    folder = options.model or find_nano()
    start = time.perf_counter()
    model, processor = load(folder)
    loading = time.perf_counter() - start
    print(f"model      {folder}, {count_parameters(model):,} parameters, loaded in {loading:.1f} s")

    meter = PartMeter()
    for clip in clips:
        try:
            samples = clip.make()
        except (ValueError, OSError) as error:
            print(f"\n{clip.name:<10} left out: {' '.join(str(error).split())}")
            continue
        print(f"\n{clip.name:<10} {len(samples) / SAMPLING_RATE:.2f} s, {clip.heard}")
        for question in clip.questions if options.question is None else (options.question,):
            ask(model, processor, samples, question, meter, options)
    print(f"\n{meter.table()}")
    if options.model is None:
        print(f"\n{QUALITY if (folder / 'adapter_config.json').is_file() else UNTRAINED}")


def ask(model, processor, samples: np.ndarray, question: str, meter: PartMeter, options: argparse.Namespace) -> None:
    """Prints a question and the model's answer, and counts what each part of the model takes for it."""
    from cli_salmonn.inference import decode, prepare

    start = time.perf_counter()
    with meter.part("features"):
        inputs = prepare(processor, samples, question).to(model.device)
    with meter.watch(model):
        output = model.generate(**inputs, max_new_tokens=options.max_new_tokens, num_beams=options.num_beams)
    seconds = time.perf_counter() - start

    prompt = inputs["input_ids"].shape[1]
    audio_tokens = int((inputs["input_ids"] == model.config.audio_token_id).sum())
    new_tokens = output.shape[1] - prompt
    print(f"question   {question}")
    print(f"answer     {decode(processor, inputs, output)}")
    print(f"tokens     {audio_tokens} audio, {prompt - audio_tokens} text, {new_tokens} new, in {seconds:.2f} s")


def find_nano() -> Path:
    """The folder of `salmonn-nano` in the cache, assembled first if it is not there; without a checkpoint untrained."""
    from nano_salmonn.assemble import NANO_CHECKPOINT, assemble_nano
    from nano_salmonn.data_wheels import cache_folder

    checkpoint = NANO_CHECKPOINT if NANO_CHECKPOINT.is_dir() else None
    folder = cache_folder() / f"salmonn-nano-{hash_nano(checkpoint)}"
    if not (folder / "config.json").is_file():
        print(f"assembling salmonn-nano in {folder} (once; 160 MB to download)", flush=True)
        start = time.perf_counter()
        assemble_nano(folder, checkpoint, overwrite=True)
        print(f"assembled  in {time.perf_counter() - start:.1f} s")
    return folder


def hash_nano(checkpoint: Path | None) -> str:
    """A name for what `salmonn-nano` is made of, so that an old one in the cache is not taken for it."""
    from nano_salmonn.assemble import NANO

    digest = hashlib.sha256(json.dumps(NANO, sort_keys=True).encode())
    for file in sorted(checkpoint.glob("*/*")) if checkpoint else ():
        digest.update(str(file.relative_to(checkpoint)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    sys.exit(main())
