# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn train`: a model trained as a recipe says."""

import argparse
from pathlib import Path

from cli_salmonn.commands import add_command


EXAMPLES = """\
examples:
  salmonn train alignment --model ./base --train asr.jsonl --output_dir runs/alignment
  salmonn train pretrain --model ./base --adapter runs/alignment/adapter --train asr.jsonl captions.jsonl \\
      --eval dev.jsonl --output_dir runs/pretrain
  salmonn train pretrain --model ./base --train '{source: asr.jsonl, weight: 0.7}' '{source: captions.jsonl, weight: 0.3}'
  salmonn train my_recipe.yaml --learning_rate 1e-5 --resume

In several processes:
  torchrun --nproc-per-node 8 -m cli_salmonn train pretrain --model ./base --train asr.jsonl

RECIPE is a YAML file or the name of one of the project's: alignment, asr_qformer, asr_linear, asr_cross_attention,
longform, pretrain, instruct, activate, and nano/alignment, nano/pretrain, nano/instruct, nano/activate for the small
model. Every field of it is an option; `salmonn train RECIPE --help` shows the values that RECIPE has. A file may begin
with `extends: pretrain`. What was trained is in OUTPUT_DIR/adapter: `salmonn ask OUTPUT_DIR/adapter clip.wav`.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "train", "train a model as a recipe says", _run, EXAMPLES)
    add_recipe(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe, `--resume`, and all fields of recipes: these come as a dictionary, `fields`."""
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of a recipe of the project")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="DIR",
        help="go on from a checkpoint, the last one in the output folder if none is named",
    )
    parser.complete = _add_fields


def _add_fields(parser: argparse.ArgumentParser, words: list[str]) -> argparse.ArgumentParser:
    from training_salmonn.recipe_files import RecipeParser, read_recipe
    from training_salmonn.recipes import RECIPES, SECTIONS

    usage = f"{parser.prog} RECIPE [--resume [DIR]] [--FIELD VALUE ...]"
    complete = RecipeParser(parser, SECTIONS, usage)
    if {"-h", "--help"} & set(words) and not words[0].startswith("-"):
        complete.set_defaults(**read_recipe(find_file(words[0]), RECIPES))
    return complete


def _run(options: argparse.Namespace) -> None:
    from training_salmonn.recipes import load_recipe
    from training_salmonn.run import run_recipe

    say_written(run_recipe(load_recipe(find_file(options.recipe), **options.fields), options.resume))


def say_written(path: Path) -> None:
    """Says what was written, in one of several processes."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(f"wrote {path}")


def find_file(recipe: str) -> Path:
    """The file of a recipe: that of its name in the project, `nano/NAME` for the small model, or itself."""
    from nano_salmonn.recipes import RECIPES as NANO_RECIPES
    from training_salmonn.recipe_files import find_recipe, list_recipes
    from training_salmonn.recipes import RECIPES

    of_nano = [f"nano/{name}" for name in list_recipes(NANO_RECIPES)]
    if recipe in of_nano and not Path(recipe).is_file():
        return find_recipe(recipe.removeprefix("nano/"), NANO_RECIPES)
    return find_recipe(recipe, RECIPES, known=", ".join(of_nano))
