# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn merge`: a model and its adapter become one model without an adapter."""

import argparse

from cli_salmonn.commands import add_command, add_dtype, add_output


EXAMPLES = """\
examples:
  salmonn merge ./base ./merged --adapter runs/instruct/adapter
  salmonn merge runs/instruct/adapter ./merged
  salmonn merge ./salmonn-13b ./merged --dtype bfloat16
  salmonn merge ./salmonn-13b ./served --keep-lora

LoRA is added to the weights of the LLM, so that OUT is for engines that know no adapters. Greedy answers to a test clip
are the same before and after, or nothing is written. --lora-scale means nothing to a merged model: keep the adapter.

With --keep-lora, LoRA stands in OUT/lora, an adapter of OUT, and only connector and norms are merged: for engines that add
LoRA themselves, such as vLLM with --enable-lora.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "merge", "make one model of a model and its adapter", _run, EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SALMONN or of an adapter")
    add_output(parser)
    parser.add_argument("--adapter", metavar="DIR", help="adapter for a MODEL without one")
    parser.add_argument("--keep-lora", action="store_true", help="leave LoRA an adapter, in OUT/lora")
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    add_dtype(parser, "default: the model's own")


def _run(options: argparse.Namespace) -> None:
    from conversion_salmonn.merge import merge

    output = merge(
        options.model,
        options.output,
        adapter=options.adapter,
        dtype=options.dtype,
        device=options.device,
        overwrite=options.overwrite,
        keep_lora=options.keep_lora,
    )
    print(f"wrote {output}" + (f", and its LoRA to {output / 'lora'}" if options.keep_lora else ""))
