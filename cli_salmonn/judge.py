# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn judge`: the answers of a run judged by a language model."""

import argparse

from cli_salmonn.commands import add_command


EXAMPLES = """\
examples:
  salmonn judge runs/13b --url https://api.openai.com/v1 --model gpt-4o-mini
  salmonn judge runs/13b --local Qwen/Qwen2.5-7B-Instruct --tasks story_audiocaps --prompts follows

The key of an endpoint is read from OPENAI_API_KEY. Verdicts are kept: the same command again asks only what is missing.
"""


def add_parser(commands) -> None:
    summary = "have the answers of a run judged by a language model"
    parser = add_command(commands, "judge", summary, _run, EXAMPLES)
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--url", help="of an OpenAI-compatible endpoint, up to /v1")
    which.add_argument("--local", metavar="LLM", help="folder or Hub id of a text LLM")
    parser.add_argument("--model", metavar="NAME", help="of the endpoint's model")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all that name a judge prompt")
    parser.add_argument("--prompts", nargs="+", metavar="PROMPT", help="default: those of each task")


def _run(options: argparse.Namespace) -> None:
    from evaluation_salmonn.judge import EndpointJudge, LocalJudge, judge_run

    if options.url and not options.model:
        raise ValueError("`--model` must name the endpoint's model, got none.")
    judge = EndpointJudge(options.url, options.model) if options.url else LocalJudge(options.local)
    for task, scores in judge_run(options.run_folder, judge, options.tasks, options.prompts).items():
        for name, score in scores.items():
            print(f"{task} {name} {score['value']}")
