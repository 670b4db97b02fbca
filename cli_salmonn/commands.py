# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""How every command of `salmonn` is made: a summary, examples, and the function that it runs."""

import argparse


def add_command(commands, name: str, summary: str, run=None, examples: str | None = None) -> argparse.ArgumentParser:
    """Adds a command with its help to the subparsers `commands`; only those that `run` something can be verbose."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run is not None:
        parser.add_argument("--verbose", action="store_true", help="say more, and show where an error came from")
        parser.set_defaults(run=run)
    return parser
