# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn activate`: activation tuning, which cures task over-fitting."""

import argparse

from cli_salmonn.commands import add_command
from cli_salmonn.train import add_recipe, find_file, say_written


EXAMPLES = """\
examples:
  salmonn activate activate --model ./base --adapter runs/instruct/adapter --train clips.jsonl --output_dir runs/activate
  salmonn activate activate --model ./base --adapter runs/instruct/adapter --train clips.jsonl --only-answers

The answers are written to answers.jsonl in the output folder before anything is trained. Read them, edit them, take
lines out; with the file there, the same command tunes on what it holds.

RECIPE is a YAML file or one of activate and nano/activate. Every field of it is an option, see
`salmonn activate activate --help`.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "activate", "cure task over-fitting", _run, EXAMPLES)
    add_recipe(parser)
    parser.add_argument("--only-answers", action="store_true", help="write the answers and stop")


def _run(options: argparse.Namespace) -> None:
    from training_salmonn.activation import activate
    from training_salmonn.recipes import load_recipe

    recipe = load_recipe(find_file(options.recipe), **options.fields)
    say_written(activate(recipe, options.resume, options.only_answers))
