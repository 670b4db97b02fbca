# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""How every command of `salmonn` is made, and the options that several of them share."""

import argparse
import math
from collections.abc import Callable

from audio_reading_salmonn import shorten
from data_salmonn.json_text import parse_json


class CommandParser(argparse.ArgumentParser):
    """
    A parser that another one may take the place of when its command is given: of recipes, whose options Transformers
    says, which takes seconds to import.

    `complete`, if set, makes that one of this one and of the words on the command line. With `intermixed`, options may
    stand between arguments of any number.
    """

    complete: Callable[[argparse.ArgumentParser, list[str]], argparse.ArgumentParser] | None = None
    intermixed = False

    def parse_known_args(self, args=None, namespace=None):
        if self.intermixed:
            self.intermixed = False  # it parses twice, with this method
            try:
                return self.parse_known_intermixed_args(args, namespace)
            finally:
                self.intermixed = True
        if self.complete is None:
            return super().parse_known_args(args, namespace)
        return self.complete(self, args).parse_known_args(args, namespace)


def add_command(commands, name: str, summary: str, run=None, examples: str | None = None) -> argparse.ArgumentParser:
    """Adds a command with its help to the subparsers `commands`; only those that `run` something can be verbose."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run is not None:
        parser.add_argument("--verbose", action="store_true", help="say more, and show where an error came from")
        parser.set_defaults(run=run)
    return parser


def add_dtype(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds `--dtype`; `default` says what happens without it."""
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help=f"of the weights ({default})")


def add_speech_tagger(parser: argparse.ArgumentParser) -> None:
    """Adds what tells that nothing is said."""
    parser.add_argument(
        "--speech-tagger",
        metavar="BEATS",
        help="a BEATs with a classifier: what it hears no speech in is not transcribed (default: all is transcribed)",
    )
    parser.add_argument(
        "--no-speech-threshold",
        type=real_number(0, 1),
        metavar="P",
        help="how sure the tagger must be that nothing is said (default: 0.95)",
    )


def check_speech_tagger(options: argparse.Namespace) -> None:
    """Raises `ValueError` if there is a threshold and nothing that it is for."""
    if options.no_speech_threshold is not None and options.speech_tagger is None:
        raise ValueError("`--no-speech-threshold` needs the BEATs whose scores it is for: give `--speech-tagger` too")


def add_beats(parser: argparse.ArgumentParser) -> None:
    """Adds clips, the BEATs that hears them, and how."""
    parser.intermixed = True
    parser.add_argument(
        "words",
        metavar="AUDIO",
        nargs="+",
        help="audio files of any length, folders of them, quoted globs, http(s) addresses, or - for standard input",
    )
    parser.add_argument("--model", required=True, help="a BEATs: .pt file, folder or Hub id; or a SALMONN with one")
    parser.add_argument("--batch-size", type=positive_integer, default=8, metavar="N", help="windows (default: 8)")
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the folder that a command writes, and `--overwrite`."""
    parser.add_argument("output", metavar="OUT", help="new folder; it appears complete or not at all")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in OUT")


def add_repo_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repo-id",
        metavar="USER/NAME",
        help="where OUT will be uploaded: Auto classes find a base model on the Hub by what the adapter beside it says",
    )


def integer(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """For argparse: an integer from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected an integer from {least} to {most}, got {shorten(text)!r}")
        return value

    return read


def real_number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """For argparse: a number from `least` to `most`, and finite."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value):
            limits = f"from {least:g} to {most:g}" if most < math.inf else f"of at least {least:g}"
            raise argparse.ArgumentTypeError(f"expected a number {limits}, got {shorten(text)!r}")
        return value

    return read


positive_integer = integer(1)
SEED = integer(0, 2**32 - 1)  # numpy's seeds
MAX_BEAMS = 256  # as `generate` has it; each beam holds a cache of the prompt


def seconds_or_none(text: str) -> float | str:
    """For argparse: a number of seconds, or the word none."""
    return "none" if text.lower() == "none" else float(text)


def name_and_text(text: str) -> tuple[str, str]:
    """For argparse: a name and a text."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return key, value


def name_and_value(text: str) -> tuple[str, object]:
    """For argparse: a name and a value that is JSON (a number, true, null), or else text."""
    key, value = name_and_text(text)
    try:
        return key, parse_json(value)
    except ValueError:
        return key, value
