# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The `salmonn` command: one module of this package for each of its commands.

Nothing that needs torch is imported before it is used, so that help appears at once.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from cli_salmonn import (
    activate,
    ask,
    assemble,
    average,
    check_conversion,
    compare,
    convert,
    demo,
    embed,
    evaluate,
    info,
    judge,
    merge,
    nano,
    perplexity,
    report,
    serve,
    sweep_lora,
    tags,
    tasks,
    train,
    transcribe,
)
from cli_salmonn.commands import CommandParser
from data_salmonn.extras import explain_missing, find_version


# In the order of the help: use a model, get one, train it, look at it, score it.
COMMANDS = (
    ask,
    transcribe,
    info,
    tags,
    embed,
    demo,
    serve,
    convert,
    check_conversion,
    assemble,
    train,
    activate,
    average,
    merge,
    sweep_lora,
    perplexity,
    evaluate,
    tasks,
    judge,
    report,
    compare,
    nano,
)

# The exit status of a command that was used wrongly, as in argparse.
USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments` (those of the process unless given) and returns the exit status."""
    options = argparse.Namespace(verbose=False, run=None)
    try:
        options = build_parser().parse_args(arguments, options)
        _set_logging(options.verbose)
        return options.run(options) or 0
    except (ValueError, OSError) as error:
        # What fails within the work of a command, and not for how it was called, has other types: see `keep_traceback`.
        if options.verbose:
            raise
        print(f"salmonn: error: {str(error).strip() or type(error).__name__}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        help_text = explain_missing(error)
        if options.verbose or help_text is None:
            raise
        print(f"salmonn: error: {help_text}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("salmonn: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. Each command leaves its function in `run`."""
    parser = CommandParser(
        prog="salmonn", description="SALMONN: ask a language model about what is heard, and make such models."
    )
    parser.add_argument("--version", action="version", version=f"salmonn {find_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _set_logging(verbose: bool) -> None:
    """Messages go to stderr: what a command answers is alone on stdout."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


if __name__ == "__main__":
    sys.exit(main())
