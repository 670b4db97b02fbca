# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn tags`: what is heard in clips and when, by a BEATs with a classifier."""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cli_salmonn.commands import add_beats, add_command, positive_integer, real_number
from data_salmonn.extras import needs_extra


EXAMPLES = """\
examples:
  salmonn tags clip.wav --model checkpoints/salmonn-nano/beats --window 4
  salmonn tags clip.wav --model ./beats --labels class_labels_indices.csv
  salmonn tags clip.wav --model ./beats --window 2 --hop 0.5 --plot tags.png
  salmonn tags clip.wav --model ./beats --frames --plot tags.png
  salmonn tags recordings/ --model ./beats --csv > tags.csv

MODEL is a fine-tuned BEATs: a released .pt file or a folder. The BEATs inside a SALMONN has no classifier any more. A clip
of any length is heard in windows; the tags of a clip are those with the highest score in any window. docs/beats.md has more.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "tags", "say what is heard in clips, and when", _run, EXAMPLES)
    add_beats(parser)
    parser.add_argument(
        "--window", type=real_number(0.025), default=10.0, metavar="S", help="seconds heard at a time (default: 10)"
    )
    parser.add_argument(
        "--hop",
        type=real_number(0.01),
        metavar="S",
        help="seconds from window to window (default: half a window, with --frames a whole one)",
    )
    parser.add_argument("--frames", action="store_true", help="a score for each 0.16 s")
    parser.add_argument(
        "--top", type=positive_integer, default=5, metavar="N", help="tags of a clip, at most (default: 5)"
    )
    parser.add_argument(
        "--threshold", type=real_number(0, 1), default=0.0, metavar="P", help="lowest score of a tag (default: 0)"
    )
    parser.add_argument("--labels", metavar="CSV", help="names of AudioSet's labels: columns mid and display_name")
    parser.add_argument("--plot", metavar="PNG", help="draw the tags over time; of several clips, a folder")
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--json", action="store_true", help="print an object a line for each clip, scores over time in it"
    )
    output.add_argument("--csv", action="store_true", help="print a row for each clip, time and tag")


def _run(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise ValueError(f"`--top` must be at least 1, got {options.top}")
    if not 0 <= options.threshold <= 1:
        raise ValueError(f"`--threshold` must be a probability, from 0 to 1, got {options.threshold:g}")
    from cli_salmonn.sources import find_clips  # which takes longer to import than these checks

    with tempfile.TemporaryDirectory(prefix="salmonn-") as folder:
        clips = find_clips(options.words, folder)
        plots = None if options.plot is None else _name_plots(options.plot, [clip.name for clip in clips])
        write = _print_json if options.json else _print_csv if options.csv else _print_text
        write(_tag(clips, plots, options))


def _name_plots(plot: str, names: list[str]) -> list[Path]:
    """The file of each clip. Raises `ValueError`, before anything is computed, if they cannot be written."""
    with needs_extra("eval"):
        import matplotlib  # noqa: F401  # to say at once that it is missing

    is_file = Path(plot).suffix.lower() == ".png"
    if is_file and len(names) > 1:
        raise ValueError(f"`--plot` must be a folder for {len(names)} clips, got the file {plot}")
    if not is_file and Path(plot).suffix:
        raise ValueError(f"`--plot` must be a .png file or a folder, got {plot}")
    folder = Path(plot).parent if is_file else Path(plot)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`--plot` {plot} cannot be written: {folder} is a file")
    files = [Path(plot)] if is_file else [folder / f"{Path(name).name}.png" for name in names]
    same = {file.name for number, file in enumerate(files) if file in files[:number]}
    if same:
        raise ValueError(f"`--plot` would write {min(same)} twice: clips of the same name are plotted one by one")
    return files


def _tag(clips, plots: list[Path] | None, options: argparse.Namespace) -> Iterator[tuple]:
    """The tags of each clip, and which of them are the best ones."""
    from tqdm.auto import tqdm

    from beats_salmonn import Clip, Tagger
    from cli_salmonn.audio_files import read_clip
    from conversion_salmonn.loading import choose_device

    tagger = Tagger(options.model, choose_device(options.device), options.labels)
    named = [Clip(clip.name, clip.path) for clip in clips]
    found = tagger.tag(named, options.window, options.hop, options.frames, options.batch_size, read_clip)
    hidden = True if len(clips) == 1 else None  # or else if stderr is no terminal
    for number, tags in enumerate(tqdm(found, "Tagging", len(clips), unit="clip", leave=False, disable=hidden)):
        best = tags.top(options.top, options.threshold)
        if plots is not None:
            from cli_salmonn.tag_plots import plot_tags

            plots[number].parent.mkdir(parents=True, exist_ok=True)
            plot_tags(tags, best, plots[number])
        yield tags, best


def _print_text(found: Iterator[tuple]) -> None:
    for number, (tags, best) in enumerate(found):
        print(("\n" if number else "") + f"{tags.audio}, {tags.seconds:.1f} s", flush=True)
        for label in best:
            peak = tags.peak(label)
            when = f"{tags.starts[peak]:.1f} to {tags.ends[peak]:.1f} s"
            print(f"  {tags.best[label]:.3f}  {tags.labels[label]}  ({when})")


def _print_json(found: Iterator[tuple]) -> None:
    for tags, best in found:
        times = [
            {
                "start": round(float(start), 3),
                "end": round(float(end), 3),
                "scores": {tags.labels[label]: round(float(scores[label]), 5) for label in best},
            }
            for start, end, scores in zip(tags.starts, tags.ends, tags.scores)
        ]
        whole = [{"label": tags.labels[label], "score": round(float(tags.best[label]), 5)} for label in best]
        row = {"audio": tags.audio, "seconds": round(tags.seconds, 3), "tags": whole, "times": times}
        print(json.dumps(row, ensure_ascii=False), flush=True)


def _print_csv(found: Iterator[tuple]) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["audio", "start", "end", "label", "score"])
    for tags, best in found:
        for start, end, scores in zip(tags.starts, tags.ends, tags.scores):
            for label in best:
                rows.writerow([tags.audio, f"{start:.3f}", f"{end:.3f}", tags.labels[label], f"{scores[label]:.5f}"])
