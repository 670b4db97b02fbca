# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn nano report`: what salmonn-nano shows of the papers, and its card, from the files of a build."""

import argparse
from pathlib import Path

from cli_salmonn.commands import add_command


EXAMPLES = """\
examples:
  salmonn nano report ./build --output ./build/published --card ./build/published/card.md
  salmonn nano report docs/nano_runs

RUNS is the folder of a build, or one of runs, as docs/nano_runs, whose files are listed in nano_salmonn/report/inputs.py.
What is missing is named at the end of the page; malformed files stop it.
"""


def add_parser(kinds) -> None:
    parser = add_command(
        kinds, "report", "write what salmonn-nano shows of the papers, and its card", _report, EXAMPLES
    )
    parser.add_argument("runs", metavar="RUNS", help="folder of a build, or of runs")
    parser.add_argument("--output", default="docs", metavar="DIR", help="where nano.md is written (default: docs)")
    parser.add_argument("--card", metavar="FILE", help="write the card of the model too; RUNS must be a build")
    parser.add_argument(
        "--hide",
        nargs="+",
        default=["."],
        metavar="DIR",
        help="folders whose paths are left out of commands, so that these are relative to them (default: this folder)",
    )
    parser.set_defaults(extra="eval")


def _report(options: argparse.Namespace) -> None:
    from nano_salmonn.report.card import write_card
    from nano_salmonn.report.document import write_report
    from nano_salmonn.report.inputs import Runs
    from nano_salmonn.report.steps import gather, is_build

    if options.card and not is_build(options.runs):
        raise ValueError(f"--card needs the folder of a build, got {options.runs}")
    runs = gather(options.runs) if is_build(options.runs) else Path(options.runs)
    print(f"wrote {write_report(runs, options.output, options.hide)}")
    if options.card:
        print(f"wrote {write_card(options.runs, Runs(runs, options.hide), options.card)}")
