# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Writes the report on what `salmonn-nano` repeats of the papers, from a folder of runs.

    make report RUNS=runs/nano
    python -m nano_salmonn.report runs/nano --output docs

Folders that are missing are left out of the report and named at its end; malformed files stop it.
"""

import argparse
import logging
import sys
from pathlib import Path

from nano_salmonn.report import inputs
from nano_salmonn.report.document import write_report


def main(arguments: list[str] | None = None) -> int:
    description = f"{__doc__.strip()}\n\nThe folder of runs:\n{inputs.__doc__.partition(chr(10) * 2)[2]}"
    parser = argparse.ArgumentParser(
        prog="python -m nano_salmonn.report",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="DIR", help="default: docs")
    parser.add_argument(
        "--hide",
        nargs="+",
        type=Path,
        default=[Path()],
        metavar="DIR",
        help="folders whose paths are left out of commands, so that these are relative to them (default: this folder)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = write_report(options.runs, options.output, options.hide)
    except ValueError as error:
        logging.error("%s", error)
        return 2
    logging.info("wrote %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
