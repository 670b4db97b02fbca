# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn nano make`: training and test data from freely licensed sources."""

import argparse
from pathlib import Path

from cli_salmonn.commands import SEED, add_command, positive_integer


CLIP_EXAMPLES = """\
examples:
  salmonn nano make speech data/speech/train --split train --count 44000
  salmonn nano make sounds data/sounds/test --split test --count 700
  salmonn nano make music data/music/train --split train --count 4000

The same command again goes on where it was interrupted. The same seed gives the same clips. Sources are Debian
packages, fetched with apt-get into ~/.cache/salmonn and never installed; their licences are written to SOURCES.md
beside the clips. Speech needs the programs flite and espeak-ng and the extra `voices`, music the library of fluidsynth.
"""

CLIP_OPTIONS = {"speech": ("shuffle_words", "voices", "backgrounds"), "sounds": ("arrangement",)}  # of one kind alone
MORE_SPLITS = {"speech": ", test_unseen_voice, test_natural_voice", "recorded": ", test_read, test_dialogue"}

INSTRUCTION_EXAMPLES = """\
examples:
  salmonn nano make instructions data/alignment.jsonl data/*/train --stage alignment
  salmonn nano make instructions data/pretrain.jsonl data/speech/train data/sounds/train data/music/train --stage pretrain
  salmonn nano make instructions data/instruct.jsonl data/*/train --stage instruct --tasks asr=20000 audio_QA=0.4

A number is the most rows of a task, a fraction with a point the share of all rows that the clips allow. 0 leaves
a task out.
"""

BENCHMARK_SPLITS = (
    "speech",
    "unseen-voice",
    "natural-voice",
    "recorded",
    "real",
    "dialogue",
    "sounds",
    "scenes",
    "questions",
    "quiet",
    "music",
)
BENCHMARK_EXAMPLES = """\
example:
  salmonn nano make benchmark data/benchmark --speech data/speech/test --unseen-voice data/speech/test_unseen_voice \\
      --sounds data/sounds/test --music data/music/test
  salmonn evaluate ./salmonn-nano --tasks nano_asr nano_sound --data-dir data/benchmark --output runs/nano
"""


def add_parser(commands) -> None:
    make = add_command(commands, "make", "make training and test data from freely licensed sources")
    kinds = make.add_subparsers(title="what to make", required=True, metavar="WHAT")
    for kind, summary in (
        ("speech", "synthetic voices that read sentences, with transcripts, phones, speakers and questions"),
        ("recorded", "people who were recorded, with transcripts"),
        ("questions", "spoken questions of general knowledge, with answers"),
        ("quiet", "clips in which nobody speaks"),
        ("scenes", "speech over sounds, with both in one description"),
        ("sounds", "sound events, alone, in turn and mixed, with captions"),
        ("music", "short pieces of music, with captions and questions"),
    ):
        parser = add_command(kinds, kind, summary, _make_clips, CLIP_EXAMPLES)
        parser.set_defaults(kind=kind)
        parser.add_argument("output", metavar="DIR", help="folder of the clips and of clips.jsonl")
        splits = "test" if kind == "questions" else f"train, validation, test{MORE_SPLITS.get(kind, '')}"
        parser.add_argument("--split", required=True, help=splits)
        parser.add_argument("--count", type=positive_integer, required=True, metavar="N", help="number of clips")
        parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="default: 0")
        parser.add_argument(
            "--workers", type=positive_integer, metavar="N", help="processes (default: one for each core)"
        )
        if kind == "speech":
            shuffled = "the words of all sentences in random order, which cannot be guessed"
            parser.add_argument("--shuffle-words", action="store_true", help=shuffled)
            which = "all, natural or robotic ones (default: all)"
            parser.add_argument("--voices", default="all", metavar="NAME", help=which)
            behind = "no sounds of the catalogue behind training clips"
            parser.add_argument("--no-backgrounds", dest="backgrounds", action="store_false", help=behind)
        if kind == "sounds":
            one = "single, sequence or mix: clips of this arrangement only (default: all)"
            parser.add_argument("--arrangement", metavar="NAME", help=one)
    _add_instructions(kinds)
    _add_benchmark(kinds)


def _add_instructions(kinds) -> None:
    summary = "a training manifest: what is asked about clips, and the answers"
    parser = add_command(kinds, "instructions", summary, _make_instructions, INSTRUCTION_EXAMPLES)
    parser.add_argument("output", metavar="FILE.jsonl", help="manifest to write")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders of made clips")
    parser.add_argument("--stage", choices=("alignment", "pretrain", "instruct"), required=True)
    parser.add_argument(
        "--tasks", nargs="+", type=_task_size, default=[], metavar="TASK=SIZE", help="sizes other than all there is"
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="default: 0")


def _add_benchmark(kinds) -> None:
    summary = "the test data of the nano_* tasks"
    parser = add_command(kinds, "benchmark", summary, _make_benchmark, BENCHMARK_EXAMPLES)
    parser.add_argument("output", metavar="DIR", help="folder of the manifests, for `salmonn evaluate --data-dir`")
    for name in BENCHMARK_SPLITS:
        parser.add_argument(f"--{name}", metavar="DIR", help="folder of made clips")
    parser.add_argument(
        "--limit", type=positive_integer, default=200, metavar="N", help="most rows of a task (default: 200)"
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="default: 0")


def _task_size(text: str) -> tuple[str, int | float]:
    """For argparse: `asr=2000` or `asr=0.5`."""
    task, _, size = text.partition("=")
    return task, float(size) if "." in size else int(size)


# ----------------------------------------------------------------------------------------------------------------------
# What the commands do. Imports are here, so that help appears at once.


def _make_clips(options: argparse.Namespace) -> None:
    from nano_salmonn.data_makers import (
        effects,
        music,
        questions,
        quiet,
        recorded,
        scenes,
        soundfont,
        sounds,
        speech,
        voices,
    )
    from nano_salmonn.data_makers.debian import write_credits

    makers = {
        "speech": (speech.make_speech, speech.PACKAGES),
        "recorded": (recorded.make_recorded, recorded.PACKAGES),
        "questions": (questions.make_questions, speech.PACKAGES),
        "quiet": (quiet.make_quiet, ()),
        "scenes": (scenes.make_scenes, speech.PACKAGES),
        "sounds": (sounds.make_sounds, effects.PACKAGES),
        "music": (music.make_music, [soundfont.SOUNDFONT]),
    }
    make, packages = makers[options.kind]
    more = {name: getattr(options, name) for name in CLIP_OPTIONS.get(options.kind, ())}
    manifest = make(options.output, options.split, options.count, seed=options.seed, workers=options.workers, **more)
    programs = voices.PROGRAMS if packages is speech.PACKAGES else ()
    write_credits(packages, Path(options.output, "SOURCES.md"), programs)
    print(f"wrote {manifest}")


def _make_instructions(options: argparse.Namespace) -> None:
    from nano_salmonn.data_makers.instructions import INSTRUCTION_TASKS, PRETRAINING_TASKS, make_instructions

    tasks = INSTRUCTION_TASKS if options.stage == "instruct" else PRETRAINING_TASKS
    tasks, alignment = tasks | dict(options.tasks), options.stage == "alignment"
    print(f"wrote {make_instructions(options.folders, options.output, tasks, options.seed, alignment)}")


def _make_benchmark(options: argparse.Namespace) -> None:
    from nano_salmonn.data_makers.benchmark import make_benchmark

    written = make_benchmark(
        options.output,
        **{name: getattr(options, name) for name in (split.replace("-", "_") for split in BENCHMARK_SPLITS)},
        limit=options.limit,
        seed=options.seed,
    )
    print(f"wrote {len(written)} manifests in {options.output}")
