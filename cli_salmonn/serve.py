# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn serve`: a model for OpenAI's clients, whoever they are."""

import argparse

from cli_salmonn.commands import add_command, add_dtype, integer, positive_integer, real_number


EXAMPLES = """\
examples:
  salmonn serve ./salmonn-13b
  salmonn serve ./salmonn-nano --host 0.0.0.0 --port 8080 --max-clip-seconds 60 --max-new-tokens 128

The server of Transformers, for this model alone: chats with clips (/v1/chat/completions) and transcriptions
(/v1/audio/transcriptions). Clips come as base64 or as files; no request makes the server read an address or a path. It has no
passwords: who may reach it is up to what stands before it. docs/serving.md has a client.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "serve", "serve a model to OpenAI's clients", _run, EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SALMONN")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=integer(1, 65535), default=8000, metavar="N", help="default: 8000")
    parser.add_argument(
        "--max-upload-megabytes", type=real_number(0.001), metavar="MB", help="largest request (default: 50)"
    )
    parser.add_argument("--max-clip-seconds", type=real_number(0.1), metavar="S", help="longest clip (default: 600)")
    parser.add_argument("--max-new-tokens", type=positive_integer, metavar="N", help="longest answer (default: 512)")
    parser.add_argument(
        "--max-waiting", type=positive_integer, metavar="N", help="requests at a time, others get 503 (default: 64)"
    )
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    add_dtype(parser, "default: float32 on a CPU, else the model's own")


def _run(options: argparse.Namespace) -> None:
    from conversion_salmonn.folders import check_model

    check_model(options.model)
    from serving_salmonn.guard import ServerLimits
    from serving_salmonn.server import serve

    given = {
        "upload_megabytes": options.max_upload_megabytes,
        "clip_seconds": options.max_clip_seconds,
        "new_tokens": options.max_new_tokens,
        "waiting": options.max_waiting,
    }
    limits = ServerLimits(**{name: value for name, value in given.items() if value is not None})
    serve(options.model, options.host, options.port, options.device, options.dtype, limits)
