# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn nano build`: the whole of salmonn-nano, made by one command."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cli_salmonn.commands import add_command, positive_integer, real_number


EXAMPLES = """\
examples:
  salmonn nano build ./build
  salmonn nano build ./build --status
  salmonn nano build ./build --until beats
  salmonn nano build ./build --from instruct
  salmonn nano build ./small --scale 0.01
  salmonn nano build ./further --chain continue

All of it takes hours. The same command again goes on where it was interrupted, and skips what is done. The steps, their
sizes and their order are in nano_salmonn/chain.yaml; --chain takes another one. A step whose commands, recipes or
needed steps have changed is done anew with --redo, and not without.
"""


def add_parser(kinds) -> None:
    parser = add_command(kinds, "build", "make salmonn-nano from its sources, in one go", _build, EXAMPLES)
    parser.add_argument("output", metavar="OUT", help="folder of all clips, runs and results")
    parser.add_argument(
        "--scale",
        type=real_number(1e-6, 1e6),
        default=1.0,
        metavar="S",
        help="factor on numbers of clips and steps (default: 1)",
    )
    parser.add_argument("--from", dest="again_from", metavar="STEP", help="do STEP and all that need it anew")
    parser.add_argument("--until", metavar="STEP", help="stop after STEP")
    parser.add_argument("--redo", action="store_true", help="do steps anew that were done with other inputs")
    parser.add_argument(
        "--processes",
        type=positive_integer,
        metavar="N",
        help="of steps that share their work (default: one for each GPU, or for each core where there is none)",
    )
    parser.add_argument(
        "--chain",
        default="chain",
        help="`chain`, all of it; `continue`, training goes on from the published model; or a file",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say what is done, and stop")
    what.add_argument("--dry-run", action="store_true", help="print the commands that are left, and stop")


def _build(options: argparse.Namespace) -> int | None:
    from nano_salmonn.build import Build, CommandError
    from nano_salmonn.chain import find_chain, read_chain

    steps = read_chain(find_chain(options.chain), options.scale)
    build = Build(options.output, steps, start, options.processes or _count_processes())
    if options.status:
        print_status(build)
    elif options.dry_run:
        for step in build.find_work(options.until, options.again_from):
            print(f"# {step.name}: {step.about}")
            for words in step.commands(build.processes):
                print(_shell(words))
    else:
        try:
            build.run(options.until, options.again_from, options.redo)
        except CommandError as error:  # which has said itself what is wrong
            print(f"salmonn: error: {error} The same build goes on from there.", file=sys.stderr)
            return 1
    return None


def print_status(build) -> None:
    """What is done of a build, a line a step."""
    from nano_salmonn.build import format_time

    rows = build.status()
    width = max(len(row["step"]) for row in rows)
    for row in rows:
        times = f"{format_time(row['wall'])}, {format_time(row['cpu'])} of CPU" if row["wall"] else "-"
        print(f"{row['step']:{width}}  {row['state']:12}  {times:28}  {row['about']}")
    total = sum(row["wall"] for row in rows), sum(row["cpu"] for row in rows)
    left = build.remaining_minutes(build.find_work())
    print(f"so far {format_time(total[0])}, {format_time(total[1])} of CPU; about {format_time(60 * left)} left")


def start(words: Sequence[str], folder: Path, processes: int) -> subprocess.Popen:
    """Starts a command of `salmonn`, in several processes through torchrun, with one thread each on CPUs."""
    from nano_salmonn.build import start_command

    program = [sys.executable, "-m"]
    if processes > 1:
        program += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    # More threads than one per process make small models slower. And glibc would give each large tensor back to the
    # system and ask for the next one, which can be a third of the time where a connector is trained.
    kept_bytes = str(2**30)
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": kept_bytes, "MALLOC_TRIM_THRESHOLD_": kept_bytes}
    environment |= os.environ
    root = str(Path(__file__).resolve().parents[1])  # of a clone that is not installed
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return start_command(words, folder, [*program, "cli_salmonn"], environment)


def _count_processes() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else os.cpu_count() or 1


def _shell(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(["salmonn", *words])
