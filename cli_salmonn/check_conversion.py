# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn check-conversion`: whether a converted model is what it should be, before anything is built on it."""

import argparse
import json
from collections.abc import Iterator

from cli_salmonn.commands import add_command, add_dtype


EXAMPLES = """\
examples:
  salmonn check-conversion ./salmonn-13b
  salmonn check-conversion ./salmonn-13b --dtype bfloat16 --device cuda
  salmonn check-conversion ./salmonn-13b --files-only --json
  salmonn check-conversion ./merged --no-adapter

Files first: names, shapes and values of the weights, tokenizer, features, adapter and the base weights that it belongs
to. Then the model is loaded and answers about made clips: twice, in a batch, with and without LoRA, and about a spoken
sentence where there is a voice (espeak-ng). The exit status is 1 if a check fails. How good the model is, is another
question: docs/acceptance.md.
"""

FAILURE = 1  # the exit status of a model that is not right


def add_parser(commands) -> None:
    summary = "check a converted model, and explain what is wrong with it"
    parser = add_command(commands, "check-conversion", summary, _run, EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder of a converted model")
    parser.add_argument("--files-only", action="store_true", help="do not load the model: needs little memory")
    parser.add_argument("--no-adapter", action="store_true", help="the model has none, since it was merged")
    parser.add_argument("--json", action="store_true", help="print one object with all checks")
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    add_dtype(parser, "default: float32 on a CPU, else the model's own")


def _run(options: argparse.Namespace) -> int:
    from conversion_salmonn.folders import check_model

    check_model(options.model)
    checks = []
    for check in _find(options):
        checks.append(check)
        if not options.json:
            print(f"{check.status:<8} {check.name:<18} {check.detail}", flush=True)
    failed = sum(check.status == "failed" for check in checks)
    if options.json:
        report = {"model": options.model, "passed": not failed, "checks": [vars(check) for check in checks]}
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print(f"\n{len(checks)} checks, {failed} failed")
    return FAILURE if failed else 0


def _find(options: argparse.Namespace) -> Iterator:
    from conversion_salmonn.file_checks import FAILED, SKIPPED, Check, check_files

    is_right = True
    for check in check_files(options.model, needs_adapter=not options.no_adapter):
        is_right = is_right and check.status != FAILED
        yield check
    if options.files_only:
        return
    if not is_right:
        yield Check("loading", SKIPPED, "the model is not loaded before its files are right")
        return
    from conversion_salmonn.answer_checks import check_answers
    from conversion_salmonn.loading import choose_device

    device = choose_device(options.device)
    dtype = options.dtype or ("float32" if device.type == "cpu" else "auto")
    yield from check_answers(options.model, _speak(), device, dtype)


def _speak():
    """A spoken sentence; `None` where there is no voice."""
    from conversion_salmonn.answer_checks import SENTENCE
    from demo_salmonn.speech import speak

    try:
        return speak(SENTENCE)
    except (ValueError, OSError):  # no program, or a library that does not load
        return None
