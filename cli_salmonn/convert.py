# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn convert`: released weights become folders that `from_pretrained` loads."""

import argparse

from cli_salmonn.commands import (
    add_command,
    add_dtype,
    add_output,
    add_repo_id,
    positive_integer,
    real_number,
    seconds_or_none,
)


# As `conversion_salmonn.families` has it, which takes long to import.
KNOWN = """\
known to `salmonn convert auto`:
  BEATs           iter1, 2, 3, 3+, fine-tuned: .pt with `cfg` and `model`
  OpenBEATs       base and large: .pt whose `cfg` has overrides only
  ESPnet BEATs    fine-tuned: .pth with config.yaml beside it
  AVEX BEATs      sl-beats, naturelm-beats: safetensors, label_map.json, YAML
  SALMONN         13B, 7B, speech quality 7B: .pth with `model`; needs --whisper, --llm
  NatureLM-audio  model.safetensors with config.json, or .pth of its training; needs --llm
Recognised and refused: BEATs tokenizers, AHAMasks (see `salmonn ask --head-mask`), converted folders.
"""

AUTO_EXAMPLES = """\
examples:
  salmonn convert auto BEATs_iter3_plus_AS2M.pt ./beats
  salmonn convert auto OpenBEATs-Large-i3.pt ./openbeats
  salmonn convert auto OpenBEATS-Large-i2-as20k/ ./tagger
  salmonn convert auto esp-aves2-sl-beats-all/ ./birds
  salmonn convert auto NatureLM-audio/ ./naturelm --llm meta-llama/Llama-3.1-8B-Instruct

FILE is a file, or a folder with one file of weights and what belongs to it. What it is is told by its tensors, never by its
name, and said. Options that do not go with it are refused.
"""

BEATS_EXAMPLES = """\
example:
  salmonn convert beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt ./beats

A fine-tuned checkpoint becomes an audio classifier for pipeline("audio-classification"), a self-supervised one an
encoder.
"""

SALMONN_EXAMPLES = """\
examples:
  salmonn convert salmonn --ckpt salmonn_v1.pth --whisper openai/whisper-large-v2 --llm ./vicuna-13b-v1.1 \\
      --beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt ./salmonn-13b
  salmonn convert salmonn --ckpt salmonn_7b_v0.pth --whisper ./whisper-large-v2 --llm ./vicuna-7b-v1.5 \\
      --beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt ./salmonn-7b

The released file holds only what was trained. Give the very Whisper, LLM and BEATs that it was trained with: another
one of the same size would load and answer nonsense, so what can be compared is compared.
"""


def add_parser(commands) -> None:
    summary = "turn released weights into a folder that from_pretrained loads"
    convert = add_command(commands, "convert", summary, examples=KNOWN)
    formats = convert.add_subparsers(title="formats", required=True, metavar="FORMAT")
    _add_auto(formats)
    _add_beats(formats)
    _add_salmonn(formats)


def _add_auto(formats) -> None:
    summary = "recognise what a published file is, and convert it"
    parser = add_command(formats, "auto", summary, _convert_auto, f"{KNOWN}\n{AUTO_EXAMPLES}")
    parser.add_argument("file", metavar="FILE", help="published file, or folder of it")
    parser.add_argument("--whisper", help="folder or Hub id of its Whisper (SALMONN)")
    parser.add_argument("--llm", help="folder or Hub id of its LLM (SALMONN, NatureLM-audio)")
    parser.add_argument(
        "--beats", help="its BEATs, where that is not in the file; or what an ESPnet BEATs was tuned from"
    )
    parser.add_argument("--qformer-heads", type=int, metavar="N", help="attention heads of the Q-Former (default: 12)")
    add_dtype(parser, "default: each tensor keeps its own")
    add_repo_id(parser)
    add_output(parser)


def _convert_auto(options: argparse.Namespace) -> None:
    from conversion_salmonn.families import convert_auto

    names = ("whisper", "llm", "beats", "qformer_heads", "dtype", "repo_id")
    given = {name: getattr(options, name) for name in names}
    found = convert_auto(options.file, options.output, options.overwrite, **given)
    print(f"{found.path} is {found.family.name}: wrote {options.output}")


def _add_beats(formats) -> None:
    summary = "convert a released BEATs .pt file"
    parser = add_command(formats, "beats", summary, _convert_beats, BEATS_EXAMPLES)
    parser.add_argument("file", metavar="FILE.pt", help="self-supervised or fine-tuned checkpoint")
    add_output(parser)


def _add_salmonn(formats) -> None:
    summary = "convert a released SALMONN .pth file"
    parser = add_command(formats, "salmonn", summary, _convert_salmonn, SALMONN_EXAMPLES)
    parser.add_argument("--ckpt", required=True, metavar="FILE.pth", help="released checkpoint")
    parser.add_argument("--whisper", required=True, help="folder or Hub id of its Whisper")
    parser.add_argument("--llm", required=True, help="folder or Hub id of its LLM")
    parser.add_argument("--beats", help="its BEATs .pt file, or a converted folder; left out: trained without BEATs")
    parser.add_argument(
        "--qformer-heads", type=positive_integer, metavar="N", help="attention heads of the Q-Former (default: 12)"
    )
    recorded = "default: as the file records it, else {}"
    parser.add_argument("--lora-alpha", type=real_number(0), metavar="X", help=recorded.format(32))
    parser.add_argument("--lora-dropout", type=real_number(0, 1), metavar="P", help=recorded.format(0.1))
    parser.add_argument(
        "--window-seconds",
        type=seconds_or_none,
        metavar="S",
        help=recorded.format(0.333333) + "; 'none': the Q-Former reads whole segments",
    )
    parser.add_argument("--stride-seconds", type=real_number(0), metavar="S", help=recorded.format(0.333333))
    add_dtype(parser, "default: each tensor keeps its own")
    add_repo_id(parser)
    add_output(parser)


def _convert_beats(options: argparse.Namespace) -> None:
    from conversion_salmonn.convert_beats import convert_beats

    print(f"wrote {convert_beats(options.file, options.output, overwrite=options.overwrite)}")


def _convert_salmonn(options: argparse.Namespace) -> None:
    from conversion_salmonn.convert_salmonn import convert_salmonn

    output = convert_salmonn(
        options.ckpt,
        options.whisper,
        options.llm,
        options.beats,
        options.output,
        qformer_heads=options.qformer_heads,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        window_seconds=options.window_seconds,
        stride_seconds=options.stride_seconds,
        dtype=options.dtype,
        repo_id=options.repo_id,
        overwrite=options.overwrite,
    )
    print(f"wrote {output}")
