# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn average`: the weighted mean of two adapters."""

import argparse

from cli_salmonn.commands import add_command, real_number


EXAMPLES = """\
example:
  salmonn average runs/sentences/adapter runs/shuffled/adapter runs/instruct/adapter --weight 0.4

As a rule SECOND was trained on from FIRST, and the best weight is found by evaluating some on validation data.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "average", "the weighted mean of two adapters", _run, EXAMPLES)
    parser.add_argument("first", metavar="FIRST", help="adapter whose settings the mean has")
    parser.add_argument("second", metavar="SECOND", help="adapter of the same model")
    parser.add_argument("output", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--weight", type=real_number(0, 1), default=0.5, metavar="W", help="share of SECOND (default: 0.5)"
    )


def _run(options: argparse.Namespace) -> None:
    from training_salmonn.averaging import average_adapters

    print(f"wrote {average_adapters(options.first, options.second, options.output, options.weight)}")
