# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn demo`: a web page to ask a model about clips."""

import argparse

from cli_salmonn.commands import add_command, add_dtype, integer
from demo_salmonn.limits import Limits


EXAMPLES = """\
examples:
  salmonn demo
  salmonn demo ./salmonn-13b --device cuda
  salmonn demo ./salmonn-13b --tasks asr translation_ed audiocaption --max-clip-seconds 30
  salmonn demo --host 0.0.0.0 --port 8080 --no-browser

Without MODEL it is salmonn-nano, made in a cache the first time. The page needs Gradio, which comes with
  pip install -e '.[web]'
in a clone. Whoever reaches the port can use the page: it is this machine only unless --host
or --share says otherwise. See docs/web.md, also for a Hugging Face Space and for calls from programs.
"""


def add_parser(commands) -> None:
    limits = Limits()
    parser = add_command(commands, "demo", "open a web page to ask a model about clips", _run, EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="folder or Hub id of a SALMONN (default: salmonn-nano)"
    )
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    add_dtype(parser, "default: float32 on a CPU, else the model's own")
    parser.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="tasks of the prompt bank to offer (default: what the model knows)"
    )
    page = parser.add_argument_group("page")
    page.add_argument("--host", metavar="NAME", help="name or address to listen at (default: 127.0.0.1)")
    page.add_argument(
        "--port", type=integer(1, 65535), metavar="N", help="port to listen at (default: the first free from 7860 on)"
    )
    page.add_argument("--share", action="store_true", help="give the page a public address for a few days, by Gradio")
    page.add_argument("--no-browser", action="store_true", help="do not open a browser")
    bounds = parser.add_argument_group("what a visitor can ask of this machine")
    for name, kind, metavar, text in (
        ("upload_megabytes", float, "MB", "largest file"),
        ("clip_seconds", float, "SECONDS", "longest clip"),
        ("clips", int, "N", "most clips that are kept for a visitor"),
        ("question_characters", int, "N", "longest question"),
        ("new_tokens", int, "N", "longest answer"),
        ("answer_seconds", float, "SECONDS", "longest time for an answer"),
        ("waiting", int, "N", "most questions that wait for their turn"),
    ):
        default = getattr(limits, name)
        bounds.add_argument(
            f"--max-{name.replace('_', '-')}",
            dest=name,
            type=kind,
            default=default,
            metavar=metavar,
            help=f"{text} (default: {default:g})",
        )


def _run(options: argparse.Namespace) -> None:
    limits = Limits(**{name: getattr(options, name) for name in vars(Limits())})
    from demo_salmonn.web import launch_page, load_page

    page = load_page(options.model, options.device, options.dtype, options.tasks, limits)
    launch_page(
        page,
        limits,
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        inbrowser=not options.no_browser,
    )
