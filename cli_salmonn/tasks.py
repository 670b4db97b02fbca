# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn tasks`: which evaluation tasks there are."""

import argparse

from cli_salmonn.commands import add_command


def add_parser(commands) -> None:
    parser = add_command(commands, "tasks", "list evaluation tasks", _run)
    parser.add_argument("names", nargs="*", default=["all"], metavar="TASK", help="names or groups (default: all)")


def _run(options: argparse.Namespace) -> None:
    from evaluation_salmonn.task import load_tasks

    for task in load_tasks(options.names):
        metrics = ", ".join(entry.name for entry in task.metrics)
        print(f"{task.name:32} level {task.level}  {metrics:40} {task.description}")
