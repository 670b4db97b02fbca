# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn compare`: which scores of two runs differ by more than chance."""

import argparse
import sys

from cli_salmonn.commands import add_command


def add_parser(commands) -> None:
    parser = add_command(commands, "compare", "compare two runs", _run)
    parser.add_argument("first", metavar="RUN", help="folder of a finished run")
    parser.add_argument("second", metavar="RUN", help="folder of another one on the same examples")
    parser.add_argument("--output", metavar="DIR", help="also write comparison.md and comparison.html there")


def _run(options: argparse.Namespace) -> None:
    from evaluation_salmonn.compare import compare_runs, comparison_to_markdown, write_comparison

    comparison = compare_runs(options.first, options.second)
    sys.stdout.write(comparison_to_markdown(comparison))
    if options.output:
        print(f"wrote {write_comparison(comparison, options.output)}")
