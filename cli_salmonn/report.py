# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn report`: the report of a finished run, written again."""

import argparse

from cli_salmonn.commands import add_command, name_and_text


def add_parser(commands) -> None:
    parser = add_command(commands, "report", "write the report of a run again", _run)
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    add_data(parser)
    add_audio(parser)


def _run(options: argparse.Namespace) -> None:
    from evaluation_salmonn.run_files import read_results

    results = read_results(options.run_folder)
    write_report_of(options.run_folder, list(results["tasks"]), options, results["limit"])


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", metavar="DIR", help="folder with local data, by the names of tasks")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        type=name_and_text,
        metavar="TASK=PATH",
        help="manifest or folder for one task",
    )


def add_audio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audio", choices=("copy", "link", "none"), default="copy", help="clips in the report (default: copy)"
    )


def write_report_of(run: str, tasks: list[str], options: argparse.Namespace, limit: int | None) -> None:
    from evaluation_salmonn.data import load_examples
    from evaluation_salmonn.report import write_report
    from evaluation_salmonn.task import load_tasks

    examples = {}
    if options.audio != "none":
        for task in load_tasks(tasks):
            examples[task.name] = load_examples(task, dict(options.data), options.data_dir, limit)[0]
    print(f"wrote {write_report(run, examples, options.audio)}")
