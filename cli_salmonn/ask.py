# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn ask`: one question to a model about one clip."""

import argparse
import json

from cli_salmonn.commands import add_command, add_dtype


EXAMPLES = """\
examples:
  salmonn ask ./salmonn-13b clip.wav
  salmonn ask ./salmonn-13b clip.wav "Is there music in the background?"
  salmonn ask ./salmonn-13b clip.wav "Tell a story about it." --lora-scale 0.5
  salmonn ask ./base clip.wav --adapter runs/pretrain/adapter
  salmonn ask runs/pretrain/adapter clip.wav
  salmonn ask ./salmonn-13b questions.jsonl > answers.jsonl

A LoRA scale below 1 gives up some of what fine-tuning taught for freer answers: try it where the model answers every
question with a transcription.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "ask", "ask a model about a clip", _run, EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", help="folder or Hub id of a SALMONN, or of an adapter, whose base model it finds"
    )
    parser.add_argument(
        "audio", metavar="AUDIO", help="audio file, of any length, or a manifest (.jsonl, .csv, a folder of one, ...)"
    )
    parser.add_argument(
        "question",
        metavar="QUESTION",
        nargs="?",
        help="left out: the model transcribes the speech, or answers what the rows of a manifest ask",
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="adapter, such as `salmonn train` writes, for a MODEL without one"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the model's own)")
    parser.add_argument("--num-beams", type=int, metavar="N", help="1 is fastest (default: the model's own)")
    parser.add_argument("--lora-scale", type=float, metavar="X", help="strength of LoRA, 1 is as trained")
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    add_dtype(parser, "default: float32 on a CPU, else the model's own")


def _run(options: argparse.Namespace) -> None:
    from cli_salmonn.inference import ask, ask_all
    from data_salmonn.readers import find_manifest

    how = {
        "adapter": options.adapter,
        "device": options.device,
        "dtype": options.dtype,
        "max_new_tokens": options.max_new_tokens,
        "num_beams": options.num_beams,
        "lora_scale": options.lora_scale,
    }
    if find_manifest(options.audio) is None:
        print(ask(options.model, options.audio, options.question, **how))
        return
    for row in ask_all(options.model, options.audio, options.question, **how):
        print(json.dumps(row, ensure_ascii=False), flush=True)
