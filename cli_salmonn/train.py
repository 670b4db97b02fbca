# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn train`: a model trained as a recipe says."""

import argparse
from pathlib import Path

from cli_salmonn.commands import add_command


EXAMPLES = """\
examples:
  salmonn train pretrain --override model=./base 'train=["librispeech.json", "clotho.jsonl"]' output_dir=runs/one
  salmonn train my_recipe.json --override learning_rate=1e-5 --resume
  torchrun --nproc-per-node 8 -m cli_salmonn.train train pretrain --override model=./base 'train=["a.json"]'

RECIPE is a JSON file or the name of one of the project's: alignment, asr_qformer, asr_linear, asr_cross_attention,
longform, pretrain, instruct, activate, and nano/alignment, nano/pretrain, nano/instruct, nano/activate for the small
model. See docs/training.md.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "train", "train a model as a recipe says", _run, EXAMPLES)
    add_recipe(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="JSON file, or the name of a recipe of the project")
    parser.add_argument(
        "--override", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="fields to replace, in JSON"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="DIR",
        help="go on from a checkpoint, the last one in the output folder if none is named",
    )


def _run(options: argparse.Namespace) -> None:
    from training_salmonn.recipes import load_recipe
    from training_salmonn.run import run_recipe

    print(f"wrote {run_recipe(load_recipe(find_file(options.recipe), options.override), options.resume)}")


def find_file(recipe: str) -> str | Path:
    """The file of a recipe of the small model, `nano/NAME`; any other recipe as it is."""
    from nano_salmonn.recipes import RECIPES

    file = RECIPES / f"{recipe.removeprefix('nano/')}.json"
    return file if recipe.startswith("nano/") and file.is_file() else recipe
