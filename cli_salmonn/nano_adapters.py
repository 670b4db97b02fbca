# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn nano widen` and `export`: the adapter of salmonn-nano, changed and written."""

import argparse

from cli_salmonn.commands import add_command, add_output


WIDEN_EXAMPLES = """\
example:
  salmonn nano widen ./salmonn-nano-base runs/speech/adapter runs/widened

The adapter of a speech-only model becomes one of MODEL, which has BEATs beside the same Whisper and LLM. Until it is
trained further, the answers stay those of the speech-only model.
"""


def add_parsers(commands) -> None:
    """Adds `widen` and `export`."""
    parser = add_command(commands, "widen", "let a speech-only connector hear BEATs too", _widen, WIDEN_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder of a model with BEATs")
    parser.add_argument("adapter", metavar="DIR", help="adapter of the speech-only model")
    parser.add_argument("output", metavar="OUT", help="folder of the adapter to write")
    parser.add_argument("--lora", metavar="DIR", help="adapter whose LoRA takes the place of the first one's")

    parser = add_command(commands, "export", "write what was trained, BEATs and adapter, as 16-bit folders", _export)
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the trained adapter")
    parser.add_argument("beats", metavar="BEATS", help="folder of the BEATs that it was trained with, in float16")
    add_output(parser)


def _widen(options: argparse.Namespace) -> None:
    from nano_salmonn.widen import widen_adapter

    print(f"wrote {widen_adapter(options.model, options.adapter, options.output, options.lora)}")


def _export(options: argparse.Namespace) -> None:
    from nano_salmonn.export import export_trained

    print(f"wrote {export_trained(options.adapter, options.beats, options.output, options.overwrite)}")
