# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn nano train-beats`, `score-beats` and `average-beats`: the small BEATs of salmonn-nano."""

import argparse
from pathlib import Path

from cli_salmonn.commands import add_command, real_number


TRAIN_EXAMPLES = """\
example:
  salmonn nano train-beats runs/beats --train data/sounds/train data/music/train --validation data/sounds/validation \\
      --test data/sounds/test data/music/test

Folders are those that `salmonn nano make` writes. OUT is for pipeline("audio-classification") and for
`salmonn assemble --beats OUT`; scores.json in it has the accuracy on the test folders. Every field of the recipe is an
option, such as `--learning_rate 5e-4 --start runs/beats`.
"""

SCORE_EXAMPLES = """\
example:
  salmonn nano score-beats runs/beats-mean data/sounds/test data/music/test

For a model that `salmonn nano average-beats` wrote; one of `salmonn nano train-beats --test` has been scored already.
"""

AVERAGE_EXAMPLES = """\
example:
  salmonn nano average-beats runs/beats runs/beats-2 runs/beats-mean --weight 0.7

As a rule SECOND was trained on from FIRST, and the best weight is found by scoring some on validation data.
"""


def add_parsers(commands) -> None:
    """Adds `train-beats`, `score-beats` and `average-beats`."""
    summary = "train a small BEATs to name what is heard"
    parser = add_command(commands, "train-beats", summary, _train_beats, TRAIN_EXAMPLES)
    parser.add_argument("output", metavar="OUT", help="folder of the model")
    parser.add_argument("--train", nargs="+", required=True, metavar="DIR", help="folders of made clips")
    parser.add_argument("--validation", nargs="+", required=True, metavar="DIR", help="folders to evaluate on")
    parser.add_argument("--test", nargs="+", default=[], metavar="DIR", help="folders to score the finished model on")
    parser.add_argument("--recipe", default="nano", metavar="FILE", help="YAML file, or a name")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.complete = _add_fields

    parser = add_command(commands, "score-beats", "score a BEATs on made clips", _score_beats, SCORE_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder of the model, where scores.json is written too")
    parser.add_argument("test", nargs="+", metavar="DIR", help="folders of made clips")

    parser = add_command(commands, "average-beats", "the weighted mean of two BEATs", _average_beats, AVERAGE_EXAMPLES)
    parser.add_argument("first", metavar="FIRST", help="BEATs whose settings the mean has")
    parser.add_argument("second", metavar="SECOND", help="BEATs with the same labels")
    parser.add_argument("output", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--weight", type=real_number(0, 1), default=0.5, metavar="W", help="share of SECOND (default: 0.5)"
    )


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


def _score_beats(options: argparse.Namespace) -> None:
    from nano_salmonn.beats_classifier import SCORES, score_beats

    score_beats(options.model, options.test)
    print(f"wrote {Path(options.model, SCORES)}")


def _average_beats(options: argparse.Namespace) -> None:
    from nano_salmonn.average_beats import average_beats

    print(f"wrote {average_beats(options.first, options.second, options.output, options.weight)}")
