# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn perplexity`: how likely answers are with and without instructions."""

import argparse

from cli_salmonn.commands import add_command
from cli_salmonn.sweep_lora import add_analysis, load_for_analysis


EXAMPLES = """\
example:
  salmonn perplexity ./base --checkpoints runs/instruct/adapter runs/activate/checkpoint-* --data test.json \\
      --instructions none asr story --output perplexity

An instruction is a task of the prompt bank, asked in its test phrasing; "none" asks nothing.
"""


def add_parser(commands) -> None:
    summary = "show how likely answers are with and without instructions"
    parser = add_command(commands, "perplexity", summary, _run, EXAMPLES)
    add_analysis(parser)
    parser.add_argument("--checkpoints", nargs="+", required=True, metavar="DIR", help="adapters to compare")
    parser.add_argument("--instructions", nargs="+", default=["none"], metavar="TASK", help="default: none")


def _run(options: argparse.Namespace) -> None:
    from conversion_salmonn.loading import find_base
    from data_salmonn.prompts import PromptBank
    from training_salmonn.analysis import NO_INSTRUCTION, perplexity_over_checkpoints, save_perplexity

    bank = PromptBank.load()
    instructions = {name: None if name == NO_INSTRUCTION else bank.test_prompt(name) for name in options.instructions}
    if options.adapter is None and find_base(options.model) is None:
        options.adapter = options.checkpoints[0]  # gives the model an adapter of the right shape
    model, processor, dataset = load_for_analysis(options)
    result = perplexity_over_checkpoints(model, processor, dataset, options.checkpoints, instructions)
    save_perplexity(options.output, result)
    print(f"wrote {options.output}")
