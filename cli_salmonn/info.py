# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn info`: what a model is made of and what it needs, without loading it."""

import argparse
import json

from cli_salmonn.commands import add_command


EXAMPLES = """\
examples:
  salmonn info ./salmonn-13b
  salmonn info runs/pretrain/adapter
  salmonn info ./salmonn-13b --json

Only configurations and the headers of safetensors are read. Memory is that of the weights: 8-bit and 4-bit are
bitsandbytes' on the linear layers of the LLM, the rest then being bfloat16. Answers need some more of it.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "info", "say what a model is made of and what it needs", _run, EXAMPLES)
    parser.add_argument("model", metavar="FOLDER", help="a SALMONN, or an adapter of one")
    parser.add_argument("--json", action="store_true", help="print one object")


def _run(options: argparse.Namespace) -> None:
    from cli_salmonn.checkpoint_summary import summarize

    summary = summarize(options.model)
    if options.json:
        print(json.dumps(summary, ensure_ascii=False, indent=2))
    else:
        print("\n".join(_describe(summary)))


def _describe(summary: dict) -> list[str]:
    lines = [summary["model"], ""]
    adapter, audio = summary["adapter"], summary["audio"]
    parts = list(summary["parts"] or [])
    if adapter is not None:
        parts.append({"name": "Adapter", "about": _describe_adapter(adapter), **adapter})
    table = [(part["name"], part["parameters"], part["bytes"], part["dtype"], part["about"]) for part in parts]
    if summary["parts"] is not None:
        table.append(("Total", summary["parameters"], summary["bytes"], "", ""))
    lines.append(f"{'part':<10} {'parameters':>14} {'size':>9}  dtype")
    for name, parameters, size, dtype, about in table:
        lines.append(f"{name:<10} {parameters:>14,} {_size(size):>9}  {dtype or '':<9} {about}".rstrip())
    lines.append("")
    if audio is not None:
        longest = audio["max_audio_seconds"]
        limit = "trained on any length" if longest is None else f"trained on up to {longest:g} s"
        lines.append(
            f"audio      {audio['tokens_per_second']:.2f} tokens a second ({audio['tokens_per_segment']} for "
            f"{audio['segment_seconds']:g} s), {limit}"
            + f", silence up to {audio['segment_seconds']:g} s is encoded"
            * audio["fixed_length"]
        )
    if adapter is not None and adapter["base_model"] is not None:
        missing = ", which is not on this machine" if summary["parts"] is None else ""
        lines.append(f"adapter    trained on {adapter['base_model']}{missing}")
    if summary["memory"] is not None:
        needs = ", ".join(f"{name} {_size(size)}" for name, size in summary["memory"].items())
        lines.append(f"memory     {needs} (weights)")
    return lines


def _describe_adapter(adapter: dict) -> str:
    about = str(adapter["kind"]) + (f" of rank {adapter['rank']}, alpha {adapter['alpha']}" if adapter["rank"] else "")
    targets, whole = adapter["target_modules"], adapter["modules_to_save"]
    if targets:
        about += " on " + (targets if isinstance(targets, str) else ", ".join(sorted(targets)))
    return about + (f", and {', '.join(whole)} as a whole" if whole else "")


def _size(size: int) -> str:
    """Bytes as GB or MB, of ten to the power of nine or six."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
