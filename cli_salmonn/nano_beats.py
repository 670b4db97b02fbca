# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn nano train-beats`: the small BEATs of salmonn-nano, and `silence-beats`, what a model is without it."""

import argparse

from cli_salmonn.commands import add_command, add_output


TRAIN_EXAMPLES = """\
example:
  salmonn nano train-beats runs/beats --train data/sounds/train data/music/train --validation data/sounds/validation \\
      --test data/sounds/test data/music/test

Folders are those that `salmonn nano make` writes. OUT is for pipeline("audio-classification") and for
`salmonn assemble --beats OUT`; scores.json in it has the accuracy on the test folders. Every field of the recipe is an
option, such as `--learning_rate 5e-4 --presentations 200000`.
"""

SILENCE_EXAMPLES = """\
example:
  salmonn nano silence-beats runs/instruct/adapter runs/silent
  salmonn evaluate ./base --adapter runs/silent --tasks nano_sound --data-dir data/benchmark --output runs/without

What the scores lose is what BEATs is worth to the model.
"""


def add_parsers(commands) -> None:
    """Adds `train-beats` and `silence-beats`."""
    summary = "train a small BEATs to name what is heard"
    parser = add_command(commands, "train-beats", summary, _train_beats, TRAIN_EXAMPLES)
    parser.add_argument("output", metavar="OUT", help="folder of the model")
    parser.add_argument("--train", nargs="+", required=True, metavar="DIR", help="folders of made clips")
    parser.add_argument("--validation", nargs="+", required=True, metavar="DIR", help="folders to evaluate on")
    parser.add_argument("--test", nargs="+", default=[], metavar="DIR", help="folders to score the finished model on")
    parser.add_argument("--recipe", default="nano", metavar="FILE", help="YAML file, or a name")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.complete = _add_fields

    summary = "write an adapter that no longer hears what BEATs gives"
    parser = add_command(commands, "silence-beats", summary, _silence_beats, SILENCE_EXAMPLES)
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of a trained adapter")
    add_output(parser)


def _add_fields(parser: argparse.ArgumentParser, words: list[str]) -> argparse.ArgumentParser:
    from nano_salmonn.beats_classifier import RECIPES, SECTIONS
    from training_salmonn.recipe_files import RecipeParser, find_recipe, read_recipe

    usage = f"{parser.prog} OUT --train DIR ... --validation DIR ... [--test DIR ...] [--FIELD VALUE ...]"
    complete = RecipeParser(parser, SECTIONS, usage)
    if {"-h", "--help"} & set(words):
        complete.set_defaults(**read_recipe(find_recipe("nano", RECIPES), RECIPES))
    return complete


def _train_beats(options: argparse.Namespace) -> None:
    from accelerate import PartialState

    from nano_salmonn.beats_classifier import load_beats_recipe, score_beats, train_beats

    recipe = load_beats_recipe(options.recipe, **options.fields)
    output = train_beats(options.train, options.validation, options.output, recipe, options.resume)
    if not PartialState().is_main_process:
        return
    print(f"wrote {output}")
    if options.test:
        score_beats(output, options.test)


def _silence_beats(options: argparse.Namespace) -> None:
    from nano_salmonn.silence_beats import silence_beats

    print(f"wrote {silence_beats(options.adapter, options.output, options.overwrite)}")
