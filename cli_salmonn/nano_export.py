# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn nano export` and `salmonn nano start`: what was trained of salmonn-nano, as it is published, and back."""

import argparse

from cli_salmonn.commands import add_command, add_output


def add_parser(kinds) -> None:
    parser = add_command(kinds, "export", "write what was trained, BEATs and adapter, as 16-bit folders", _export)
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the trained adapter")
    parser.add_argument("beats", metavar="BEATS", help="folder of the BEATs that it was trained with, in float16")
    parser.add_argument("--card", metavar="FILE", help="its card, written beside them as README.md")
    add_output(parser)
    summary = "copy what is published, BEATs and adapter, for a training that goes on from it"
    parser = add_command(kinds, "start", summary, _start)
    parser.add_argument("beats", metavar="BEATS", help="folder to write BEATs to")
    parser.add_argument("adapter", metavar="ADAPTER", help="folder to write the adapter to")
    parser.add_argument("--overwrite", action="store_true", help="replace folders that exist")


def _export(options: argparse.Namespace) -> None:
    from nano_salmonn.export import export_trained

    print(f"wrote {export_trained(options.adapter, options.beats, options.output, options.overwrite, options.card)}")


def _start(options: argparse.Namespace) -> None:
    from nano_salmonn.export import copy_published

    for folder in copy_published(options.beats, options.adapter, options.overwrite):
        print(f"wrote {folder}")
