# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn sweep-lora`: scores of tasks with LoRA at several strengths."""

import argparse

from cli_salmonn.commands import add_command, positive_integer, real_number


EXAMPLES = """\
example:
  salmonn sweep-lora ./base --adapter runs/instruct/adapter --data test.json --scales 0 0.25 0.5 0.75 1 --output sweep
"""


def add_parser(commands) -> None:
    summary = "score tasks with LoRA at several strengths"
    parser = add_command(commands, "sweep-lora", summary, _run, EXAMPLES)
    add_analysis(parser)
    parser.set_defaults(extra="eval")
    parser.add_argument("--scales", type=real_number(0), nargs="+", default=[0, 0.25, 0.5, 0.75, 1], metavar="X")
    parser.add_argument(
        "--max-new-tokens", type=positive_integer, default=200, metavar="N", help="longest answer (default: 200)"
    )


def _run(options: argparse.Namespace) -> None:
    from evaluation_salmonn.sweep import save_sweep, sweep_lora

    model, processor, dataset = load_for_analysis(options)
    result = sweep_lora(model, processor, dataset, options.scales, max_new_tokens=options.max_new_tokens)
    save_sweep(options.output, result)
    print(f"wrote {options.output}")


def add_analysis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SALMONN")
    parser.add_argument("--adapter", metavar="DIR", help="adapter, where the model comes without one")
    parser.add_argument("--data", nargs="+", required=True, metavar="FILE", help="manifests or Hub ids")
    parser.add_argument("--limit", type=positive_integer, metavar="N", help="at most so many rows of each task")
    parser.add_argument("--dtype", default="auto", help="of the weights (default: as they are saved)")
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results, JSON and PNG")


def load_for_analysis(options: argparse.Namespace):
    """Model with adapter on its device, processor, and data, at most `limit` rows of each task."""
    from conversion_salmonn.loading import choose_device
    from data_salmonn.datasets import load_training_data
    from data_salmonn.mixing import MixturePart, mix
    from training_salmonn.stages import load_for_inference

    caps = {} if options.limit is None else {"*": options.limit}
    dataset = mix([MixturePart(load_training_data(source), caps=caps) for source in options.data])
    device = choose_device(options.device)
    model, processor = load_for_inference(options.model, options.adapter, options.dtype)
    return model.to(device).eval(), processor, dataset
