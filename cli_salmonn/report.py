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
    write_report_of(options.run_folder, options)


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


def write_report_of(run: str, options: argparse.Namespace) -> None:
    from evaluation_salmonn.data import load_examples
    from evaluation_salmonn.report import write_report
    from evaluation_salmonn.run_files import read_results
    from evaluation_salmonn.task import load_task, task_from_dict

    examples, results = {}, read_results(run)
    if options.audio != "none":
        for name, entry in results["tasks"].items():
            # as it was asked, also where the task has a file of its own; older runs only have its name
            task = task_from_dict(entry["definition"]) if "definition" in entry else load_task(name)
            examples[name] = load_examples(task, dict(options.data), options.data_dir, results["limit"])[0]
    print(f"wrote {write_report(run, examples, options.audio)}")
