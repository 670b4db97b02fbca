# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Commands about scores.

    salmonn tasks
    salmonn evaluate MODEL --tasks level1 --data-dir DATA --output RUN
    salmonn judge RUN --url http://127.0.0.1:8000/v1 --model NAME
    salmonn report RUN --data-dir DATA
    salmonn compare RUN RUN --output DIR

Nothing that needs torch is imported before it is used, so that help appears at once.
"""

import argparse
import functools
import json
import sys

from cli_salmonn.commands import add_command


EVALUATE_EXAMPLES = """\
examples:
  salmonn evaluate ./salmonn-13b --tasks asr_librispeech_clean --limit 100 --output runs/first
  salmonn evaluate ./salmonn-13b --tasks level1 level2 --data-dir ./data --batch-size 16 --output runs/13b
  salmonn evaluate openai/whisper-large-v2 --llm ./vicuna --tasks sqqa_wikiqa --data-dir ./data --output runs/cascade
  accelerate launch --num_processes 8 -m cli_salmonn evaluate ./salmonn-13b --tasks all --output runs/13b

The same command again goes on with a run that was interrupted. A file or folder in DATA with the name of a task, such as
asr_librispeech_clean.jsonl, stands in for the task's dataset.
"""

JUDGE_EXAMPLES = """\
examples:
  salmonn judge runs/13b --url https://api.openai.com/v1 --model gpt-4o-mini
  salmonn judge runs/13b --local Qwen/Qwen2.5-7B-Instruct --tasks story_audiocaps --prompts follows

The key of an endpoint is read from OPENAI_API_KEY. Verdicts are kept: the same command again asks only what is missing.
"""


def add_parsers(commands) -> None:
    """Adds the commands of this file to the subparsers `commands`; each leaves its function in `run`."""
    _add_tasks(commands)
    _add_evaluate(commands)
    _add_judge(commands)
    _add_report(commands)
    _add_compare(commands)


def _add_command(commands, name: str, summary: str, run, examples: str | None = None) -> argparse.ArgumentParser:
    return add_command(commands, name, summary, functools.partial(_run_with_extra, run), examples)


def _run_with_extra(run, options: argparse.Namespace) -> None:
    """Runs a command, and says what to install where a library is missing."""
    try:
        run(options)
    except ModuleNotFoundError as error:
        raise ValueError(f"`pip install 'salmonn-transformers[eval]'` is needed: {error}") from error


def _add_tasks(commands) -> None:
    parser = _add_command(commands, "tasks", "list evaluation tasks", _tasks)
    parser.add_argument("names", nargs="*", default=["all"], metavar="TASK", help="names or groups (default: all)")


def _add_evaluate(commands) -> None:
    parser = _add_command(commands, "evaluate", "score a model on tasks", _evaluate, EVALUATE_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SALMONN or another audio model")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="names, groups, or task files")
    parser.add_argument("--output", required=True, metavar="RUN", help="folder of the run")
    _add_data(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N examples of each task")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="clips at a time (default: 8)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of sampling and of the bootstrap (default: 0)"
    )
    parser.add_argument(
        "--generation", nargs="+", default=[], type=_key_value, metavar="KEY=VALUE", help="such as num_beams=1"
    )
    parser.add_argument("--bootstrap-samples", type=int, default=1000, metavar="N", help="default: 1000; 0 for none")
    parser.add_argument("--llm", help="text LLM that reads what a Whisper writes: a cascade")
    parser.add_argument("--adapter", help="PEFT adapter to load on the model")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32 on a CPU")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--name", help="what reports call the model (default: MODEL)")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where RUN holds another run")
    parser.add_argument("--no-report", action="store_true", help="scores only")
    _add_audio(parser)


def _add_judge(commands) -> None:
    summary = "have the answers of a run judged by a language model"
    parser = _add_command(commands, "judge", summary, _judge, JUDGE_EXAMPLES)
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--url", help="of an OpenAI-compatible endpoint, up to /v1")
    which.add_argument("--local", metavar="LLM", help="folder or Hub id of a text LLM")
    parser.add_argument("--model", metavar="NAME", help="of the endpoint's model")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all that name a judge prompt")
    parser.add_argument("--prompts", nargs="+", metavar="PROMPT", help="default: those of each task")


def _add_report(commands) -> None:
    parser = _add_command(commands, "report", "write the report of a run again", _report)
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    _add_data(parser)
    _add_audio(parser)


def _add_compare(commands) -> None:
    parser = _add_command(commands, "compare", "compare two runs", _compare)
    parser.add_argument("first", metavar="RUN", help="folder of a finished run")
    parser.add_argument("second", metavar="RUN", help="folder of another one on the same examples")
    parser.add_argument("--output", metavar="DIR", help="also write comparison.md and comparison.html there")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", metavar="DIR", help="folder with local data, by the names of tasks")
    parser.add_argument(
        "--data", nargs="+", default=[], type=_key_text, metavar="TASK=PATH", help="manifest or folder for one task"
    )


def _add_audio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audio", choices=("copy", "link", "none"), default="copy", help="clips in the report (default: copy)"
    )


def _key_text(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return key, value


def _key_value(text: str) -> tuple[str, object]:
    """A name and a value that is JSON (a number, true, null), or else text."""
    key, value = _key_text(text)
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


# ----------------------------------------------------------------------------------------------------------------------
# What the commands do


def _tasks(options: argparse.Namespace) -> None:
    from evaluation_salmonn.task import load_tasks

    for task in load_tasks(options.names):
        metrics = ", ".join(entry.name for entry in task.metrics)
        print(f"{task.name:32} level {task.level}  {metrics:40} {task.description}")


def _evaluate(options: argparse.Namespace) -> None:
    from accelerate import PartialState

    from evaluation_salmonn.runner import evaluate

    results = evaluate(
        options.model,
        options.tasks,
        options.output,
        data=dict(options.data),
        data_dir=options.data_dir,
        limit=options.limit,
        batch_size=options.batch_size,
        seed=options.seed,
        generation=dict(options.generation),
        bootstrap_samples=options.bootstrap_samples,
        overwrite=options.overwrite,
        name=options.name,
        llm=options.llm,
        adapter=options.adapter,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )
    if not PartialState().is_main_process:
        return
    _print_scores(results)
    if not options.no_report:
        _write_report(options.output, options.tasks, options, options.limit)


def _judge(options: argparse.Namespace) -> None:
    from evaluation_salmonn.judge import EndpointJudge, LocalJudge, judge_run

    if options.url and not options.model:
        raise ValueError("`--model` must name the endpoint's model, got none.")
    judge = EndpointJudge(options.url, options.model) if options.url else LocalJudge(options.local)
    for task, scores in judge_run(options.run_folder, judge, options.tasks, options.prompts).items():
        for name, score in scores.items():
            print(f"{task} {name} {score['value']}")


def _report(options: argparse.Namespace) -> None:
    from evaluation_salmonn.run_files import read_results

    results = read_results(options.run_folder)
    _write_report(options.run_folder, list(results["tasks"]), options, results["limit"])


def _compare(options: argparse.Namespace) -> None:
    from evaluation_salmonn.compare import compare_runs, comparison_to_markdown, write_comparison

    comparison = compare_runs(options.first, options.second)
    sys.stdout.write(comparison_to_markdown(comparison))
    if options.output:
        print(f"wrote {write_comparison(comparison, options.output)}")


def _print_scores(results: dict) -> None:
    from evaluation_salmonn.report import score_rows

    for row in score_rows(results):
        interval = f" ({row['interval']})" if row["interval"] else ""
        print(f"{row['task']} {row['score']} {row['value']}{interval} {row['note']}".rstrip())


def _write_report(run: str, tasks: list[str], options: argparse.Namespace, limit: int | None) -> None:
    from evaluation_salmonn.data import load_examples
    from evaluation_salmonn.report import write_report
    from evaluation_salmonn.task import load_tasks

    examples = {}
    if options.audio != "none":
        for task in load_tasks(tasks):
            examples[task.name] = load_examples(task, dict(options.data), options.data_dir, limit)[0]
    print(f"wrote {write_report(run, examples, options.audio)}")
