# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The commands that train and that look at training: `train`, `train-beats`, `score-beats`, `widen`, `average`, `export`, `activate`,
`sweep-lora` and `perplexity`.

They are part of the `salmonn` command. For a launcher that starts Python modules they are also a command of their own:

    torchrun --nproc-per-node 8 -m cli_salmonn.train train pretrain --override model=./base train='["a.json"]'
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cli_salmonn.commands import add_command


TRAIN_EXAMPLES = """\
examples:
  salmonn train pretrain --override model=./base 'train=["librispeech.json", "clotho.jsonl"]' output_dir=runs/one
  salmonn train my_recipe.json --override learning_rate=1e-5 --resume
  torchrun --nproc-per-node 8 -m cli_salmonn.train train pretrain --override model=./base 'train=["a.json"]'

RECIPE is a JSON file or the name of one of the project's: alignment, asr_qformer, asr_linear, asr_cross_attention,
longform, pretrain, instruct, activate, and nano/alignment, nano/pretrain, nano/instruct, nano/activate for the small
model. See docs/training.md.
"""

BEATS_EXAMPLES = """\
example:
  salmonn train-beats runs/beats --train data/sounds/train data/music/train --validation data/sounds/validation \\
      --test data/sounds/test data/music/test

Folders are those that `salmonn make` writes. OUT is for pipeline("audio-classification") and for
`salmonn assemble --beats OUT`; scores.json in it has the accuracy on the test folders.
"""

SCORE_EXAMPLES = """\
example:
  salmonn score-beats runs/beats-mean data/sounds/test data/music/test

For a model that `salmonn average` wrote; one of `salmonn train-beats --test` has been scored already.
"""

WIDEN_EXAMPLES = """\
example:
  salmonn widen ./salmonn-nano-base runs/speech/adapter runs/widened

The adapter of a speech-only model becomes one of MODEL, which has BEATs beside the same Whisper and LLM. Until it is
trained further, the answers stay those of the speech-only model.
"""

AVERAGE_EXAMPLES = """\
examples:
  salmonn average runs/sentences/adapter runs/shuffled/adapter runs/instruct/adapter --weight 0.4
  salmonn average runs/beats runs/beats-2 runs/beats-mean --weight 0.7

As a rule SECOND was trained on from FIRST, and the best weight is found by evaluating some on validation data.
"""

ACTIVATE_EXAMPLES = """\
examples:
  salmonn activate activate --override model=./base adapter=runs/instruct/adapter 'train=["clips.json"]'
  salmonn activate activate --only-answers --override model=./base adapter=runs/instruct/adapter 'train=["clips.json"]'

The answers are written to answers.jsonl in the output folder before anything is trained. Read them, edit them, take
lines out; with the file there, the same command tunes on what it holds.
"""

SWEEP_EXAMPLES = """\
example:
  salmonn sweep-lora ./base --adapter runs/instruct/adapter --data test.json --scales 0 0.25 0.5 0.75 1 --output sweep
"""

PERPLEXITY_EXAMPLES = """\
example:
  salmonn perplexity ./base --checkpoints runs/instruct/adapter runs/activate/checkpoint-* --data test.json \\
      --instructions none asr story --output perplexity

An instruction is a task of the prompt bank, asked in its test phrasing; "none" asks nothing.
"""


def add_parsers(subparsers) -> None:
    """Adds the commands to the sub-parsers of an `argparse.ArgumentParser`; each leaves its function in `run`."""
    train = add_command(subparsers, "train", "train a model as a recipe says", _train, TRAIN_EXAMPLES)
    _add_recipe(train)
    beats = add_command(subparsers, "train-beats", "train a small BEATs to name what is heard", _beats, BEATS_EXAMPLES)
    beats.add_argument("output", metavar="OUT", help="folder of the model")
    beats.add_argument("--train", nargs="+", required=True, metavar="DIR", help="folders of made clips")
    beats.add_argument("--validation", nargs="+", required=True, metavar="DIR", help="folders to evaluate on")
    beats.add_argument("--test", nargs="+", default=[], metavar="DIR", help="folders to score the finished model on")
    beats.add_argument("--recipe", default="nano", metavar="FILE", help="JSON file, or a name (default: nano)")
    beats.add_argument("--override", nargs="+", default=[], metavar="NAME=VALUE", help="fields to replace, in JSON")
    beats.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    summary = "score a BEATs on made clips"
    score = add_command(subparsers, "score-beats", summary, _score_beats, SCORE_EXAMPLES)
    score.add_argument("model", metavar="MODEL", help="folder of the model, where scores.json is written too")
    score.add_argument("test", nargs="+", metavar="DIR", help="folders of made clips")
    widen = add_command(subparsers, "widen", "let a speech-only connector hear BEATs too", _widen, WIDEN_EXAMPLES)
    widen.add_argument("model", metavar="MODEL", help="folder of a model with BEATs")
    widen.add_argument("adapter", metavar="DIR", help="adapter of the speech-only model")
    widen.add_argument("output", metavar="OUT", help="folder of the adapter to write")
    widen.add_argument("--lora", metavar="DIR", help="adapter whose LoRA takes the place of the first one's")
    summary = "the weighted mean of two adapters, or of two BEATs"
    average = add_command(subparsers, "average", summary, _average, AVERAGE_EXAMPLES)
    average.add_argument("first", metavar="FIRST", help="adapter, or BEATs, whose settings the mean has")
    average.add_argument("second", metavar="SECOND", help="adapter of the same model, or BEATs with the same labels")
    average.add_argument("output", metavar="OUT", help="folder to write")
    average.add_argument("--weight", type=float, default=0.5, metavar="W", help="share of SECOND (default: 0.5)")
    export = add_command(subparsers, "export", "write what was trained, BEATs and adapter, as 16-bit folders", _export)
    export.add_argument("adapter", metavar="ADAPTER", help="folder of the trained adapter")
    export.add_argument("beats", metavar="BEATS", help="folder of the BEATs that it was trained with, in float16")
    export.add_argument("output", metavar="OUT", help="folder to write")
    export.add_argument("--overwrite", action="store_true", help="replace what is in OUT")
    activate = add_command(subparsers, "activate", "cure task over-fitting", _activate, ACTIVATE_EXAMPLES)
    _add_recipe(activate)
    activate.add_argument("--only-answers", action="store_true", help="write the answers and stop")
    sweep = add_command(
        subparsers, "sweep-lora", "score tasks with LoRA at several strengths", _sweep_lora, SWEEP_EXAMPLES
    )
    _add_analysis(sweep)
    sweep.add_argument("--scales", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1], metavar="X")
    sweep.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="longest answer (default: 200)")
    perplexity = add_command(
        subparsers,
        "perplexity",
        "show how likely answers are with and without instructions",
        _perplexity,
        PERPLEXITY_EXAMPLES,
    )
    _add_analysis(perplexity)
    perplexity.add_argument("--checkpoints", nargs="+", required=True, metavar="DIR", help="adapters to compare")
    perplexity.add_argument("--instructions", nargs="+", default=["none"], metavar="TASK", help="default: none")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
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


def _add_analysis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SALMONN")
    parser.add_argument("--adapter", metavar="DIR", help="adapter, where the model comes without one")
    parser.add_argument("--data", nargs="+", required=True, metavar="FILE", help="manifests or Hub ids")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many rows of each task")
    parser.add_argument("--dtype", default="auto", help="of the weights (default: as they are saved)")
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results, JSON and PNG")


# ----------------------------------------------------------------------------------------------------------------------
# What the commands do. Imports are here, so that help appears at once.


def _train(options: argparse.Namespace) -> None:
    from training_salmonn.recipes import load_recipe
    from training_salmonn.run import run_recipe

    print(f"wrote {run_recipe(load_recipe(options.recipe, options.override), options.resume)}")


def _beats(options: argparse.Namespace) -> None:
    from accelerate import PartialState

    from training_salmonn.beats_classifier import load_beats_recipe, score_beats, train_beats

    recipe = load_beats_recipe(options.recipe, options.override)
    output = train_beats(options.train, options.validation, options.output, recipe, options.resume)
    if not PartialState().is_main_process:
        return
    print(f"wrote {output}")
    if options.test:
        score_beats(output, options.test)


def _score_beats(options: argparse.Namespace) -> None:
    from training_salmonn.beats_classifier import SCORES, score_beats

    score_beats(options.model, options.test)
    print(f"wrote {Path(options.model, SCORES)}")


def _widen(options: argparse.Namespace) -> None:
    from training_salmonn.widen import widen_adapter

    print(f"wrote {widen_adapter(options.model, options.adapter, options.output, options.lora)}")


def _average(options: argparse.Namespace) -> None:
    from training_salmonn.averaging import average

    print(f"wrote {average(options.first, options.second, options.output, options.weight)}")


def _export(options: argparse.Namespace) -> None:
    from training_salmonn.export import export_trained

    print(f"wrote {export_trained(options.adapter, options.beats, options.output, options.overwrite)}")


def _activate(options: argparse.Namespace) -> None:
    from training_salmonn.activation import activate
    from training_salmonn.recipes import load_recipe

    recipe = load_recipe(options.recipe, options.override)
    print(f"wrote {activate(recipe, options.resume, options.only_answers)}")


def _sweep_lora(options: argparse.Namespace) -> None:
    from training_salmonn.analysis import save_sweep, sweep_lora

    model, processor, dataset = _load_for_analysis(options)
    result = sweep_lora(model, processor, dataset, options.scales, max_new_tokens=options.max_new_tokens)
    save_sweep(options.output, result)
    print(f"wrote {options.output}")


def _perplexity(options: argparse.Namespace) -> None:
    from training_salmonn.analysis import NO_INSTRUCTION, perplexity_over_checkpoints, save_perplexity
    from training_salmonn.prompts import PromptBank

    bank = PromptBank.load()
    instructions = {name: None if name == NO_INSTRUCTION else bank.test_prompt(name) for name in options.instructions}
    options.adapter = options.adapter or options.checkpoints[0]  # gives the model an adapter of the right shape
    model, processor, dataset = _load_for_analysis(options)
    result = perplexity_over_checkpoints(model, processor, dataset, options.checkpoints, instructions)
    save_perplexity(options.output, result)
    print(f"wrote {options.output}")


def _load_for_analysis(options: argparse.Namespace):
    """Model with adapter on its device, processor, and data, at most `limit` rows of each task."""
    import torch

    from training_salmonn.data import load_training_data
    from training_salmonn.mixing import MixturePart, mix
    from training_salmonn.stages import load_for_inference

    model, processor = load_for_inference(options.model, options.adapter, options.dtype)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    caps = {} if options.limit is None else {"*": options.limit}
    dataset = mix([MixturePart(load_training_data(source), caps=caps) for source in options.data])
    return model.to(device).eval(), processor, dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the commands of this module."""
    parser = argparse.ArgumentParser(prog="python -m cli_salmonn.train", description=__doc__.split("\n\n")[0].strip())
    add_parsers(parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(name)s: %(message)s")
    try:
        options.run(options)
    except (ValueError, TypeError) as error:
        if options.verbose:
            raise
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
