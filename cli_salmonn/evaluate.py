# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn evaluate`: scores of a model on tasks, and their report."""

import argparse

from cli_salmonn.commands import SEED, add_command, integer, name_and_value, positive_integer
from cli_salmonn.report import add_audio, add_data, write_report_of


EXAMPLES = """\
examples:
  salmonn evaluate ./salmonn-13b --tasks asr_librispeech_clean --limit 100 --output runs/first
  salmonn evaluate runs/instruct/adapter --tasks my_task.json --data my_task=test.csv --output runs/mine
  salmonn evaluate ./salmonn-13b --tasks level1 level2 --data-dir ./data --batch-size 16 --output runs/13b
  salmonn evaluate openai/whisper-large-v2 --llm ./vicuna --tasks sqqa_wikiqa --data-dir ./data --output runs/cascade
  accelerate launch --num_processes 8 -m cli_salmonn evaluate ./salmonn-13b --tasks all --output runs/13b

The same command again goes on with a run that was interrupted. A file or folder in DATA with the name of a task, such as
asr_librispeech_clean.jsonl, stands in for the task's dataset.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "evaluate", "score a model on tasks", _run, EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", help="folder or Hub id of a SALMONN, of an adapter, or of another audio model"
    )
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="names, groups, or task files")
    parser.add_argument("--output", required=True, metavar="RUN", help="folder of the run")
    add_data(parser)
    parser.add_argument("--limit", type=positive_integer, metavar="N", help="the first N examples of each task")
    parser.add_argument(
        "--batch-size", type=positive_integer, default=8, metavar="N", help="clips at a time (default: 8)"
    )
    parser.add_argument(
        "--seed", type=SEED, default=0, metavar="N", help="of sampling and of the bootstrap (default: 0)"
    )
    parser.add_argument(
        "--generation", nargs="+", default=[], type=name_and_value, metavar="KEY=VALUE", help="such as num_beams=1"
    )
    parser.add_argument(
        "--bootstrap-samples", type=integer(0), default=1000, metavar="N", help="default: 1000; 0 for none"
    )
    parser.add_argument("--llm", help="text LLM that reads what a Whisper writes: a cascade")
    parser.add_argument("--adapter", help="PEFT adapter to load on the model")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32 on a CPU")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--name", help="what reports call the model (default: MODEL)")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where RUN holds another run")
    parser.add_argument("--skip-missing", action="store_true", help="leave out tasks whose data are not there")
    parser.add_argument("--no-report", action="store_true", help="scores only")
    add_audio(parser)
    parser.set_defaults(extra="eval")


def _run(options: argparse.Namespace) -> None:
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
        skip_missing=options.skip_missing,
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
    for task, reason in results["skipped"].items():
        print(f"{task} skipped: {reason}")
    if not options.no_report:
        write_report_of(options.output, options)


def _print_scores(results: dict) -> None:
    from evaluation_salmonn.report import score_rows

    for row in score_rows(results):
        interval = f" ({row['interval']})" if row["interval"] else ""
        print(f"{row['task']} {row['score']} {row['value']}{interval} {row['note']}".rstrip())
