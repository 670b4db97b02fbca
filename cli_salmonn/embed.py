# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn embed`: clips as vectors, by the layers of a BEATs."""

import argparse
import tempfile
from pathlib import Path

from cli_salmonn.commands import add_beats, add_command, integer, real_number


EXAMPLES = """\
examples:
  salmonn embed recordings/ --model ./beats --output embeddings.npz
  salmonn embed recordings/ --model ./salmonn-13b --layers 6 12 --output embeddings.npz
  salmonn embed "recordings/**/*.flac" --model ./beats --frames --layers 12 --output frames
  salmonn embed lecture.mp3 --model ./beats --frames --window 10 --hop 5 --output frames

embeddings.npz has `audio` (clips,), `layers` (layers,) and `embeddings` (clips, layers, width): the mean of each clip over
time. With --frames, OUT is a folder with a file for each clip: `layers`, `times` (frames,) in seconds, and `embeddings`
(layers, frames, width), a frame for each 0.16 s. docs/beats.md has more.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "embed", "write clips as vectors, by the layers of a BEATs", _run, EXAMPLES)
    add_beats(parser)
    parser.add_argument("--output", required=True, metavar="OUT", help="the .npz file, or with --frames the folder")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in OUT")
    parser.add_argument(
        "--layers", type=integer(0), nargs="+", metavar="N", help="0 is the input of the first layer (default: all)"
    )
    parser.add_argument("--frames", action="store_true", help="all frames, not their mean")
    parser.add_argument(
        "--window", type=real_number(0.025), default=10.0, metavar="S", help="seconds heard at a time (default: 10)"
    )
    parser.add_argument(
        "--hop", type=real_number(0.01), metavar="S", help="seconds from window to window (default: a whole window)"
    )


def _run(options: argparse.Namespace) -> None:
    output = Path(options.output)
    if not options.frames:
        _check_file(output, options.overwrite)
    from cli_salmonn.sources import find_clips  # which takes longer to import than these checks

    with tempfile.TemporaryDirectory(prefix="salmonn-") as folder:
        clips = find_clips(options.words, folder)
        if options.frames:
            _write_frames(output, clips, options)
        else:
            _write_means(output, clips, options)
    print(f"wrote {output}")


def _check_file(output: Path, overwrite: bool) -> None:
    if output.suffix != ".npz":
        raise ValueError(f"`--output` must be a .npz file, or a folder with --frames, got {output}")
    if output.exists() and not overwrite:
        raise ValueError(f"`--output` {output} exists: choose another name, or --overwrite it")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"`--output` {output} cannot be written: there is no folder {output.parent}")


def _write_means(output: Path, clips, options: argparse.Namespace) -> None:
    """One file, which appears complete or not at all."""
    import numpy as np

    from data_salmonn.files import whole_file

    embedder, found = _embed(clips, options)
    values = np.stack([embedding.values for embedding in found])
    with whole_file(output) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, audio=[clip.name for clip in clips], layers=embedder.layers, embeddings=values)


def _write_frames(output: Path, clips, options: argparse.Namespace) -> None:
    """A folder, which appears complete or not at all."""
    import numpy as np

    from conversion_salmonn.checkpoint_io import output_folder

    files = [f"{Path(clip.name).name}.npz" for clip in clips]
    same = {name for number, name in enumerate(files) if name in files[:number]}
    if same:
        raise ValueError(f"`audio` has several clips that would be written to {min(same)}: embed them one by one")
    with output_folder(output, options.overwrite) as folder:
        embedder, found = _embed(clips, options)
        for name, embedding in zip(files, found):
            np.savez(
                folder / name,
                audio=embedding.audio,
                layers=embedder.layers,
                times=embedding.times,
                embeddings=embedding.values,
            )


def _embed(clips, options: argparse.Namespace):
    """The embedder, and the embeddings of `clips` as they are computed."""
    from tqdm.auto import tqdm

    from beats_salmonn import Clip, Embedder
    from cli_salmonn.audio_files import read_clip
    from conversion_salmonn.loading import choose_device

    embedder = Embedder(options.model, choose_device(options.device), options.layers)
    named = [Clip(clip.name, clip.path) for clip in clips]
    found = embedder.embed(named, options.window, options.hop, options.frames, options.batch_size, read_clip)
    hidden = True if len(clips) == 1 else None  # or else if stderr is no terminal
    return embedder, tqdm(found, "Embedding", len(clips), unit="clip", leave=False, disable=hidden)
