# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Rows of manifests as they stand there, with the number by which errors call them:

    .jsonl              one object a line
    .json               a list of objects, or `{"annotation": [...]}`, the file of the released project
    .csv, .tsv          with a header
    a folder            with one of `MANIFEST_NAMES`, or LibriSpeech as it is unpacked (`*.trans.txt`)
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_salmonn.json_text import parse_json


MANIFEST_ENDINGS = (".json", ".jsonl", ".csv", ".tsv")
MANIFEST_NAMES = ("metadata.csv", "metadata.jsonl", *(f"manifest{e}" for e in (".jsonl", ".json", ".csv", ".tsv")))
# What a folder of `Dataset.save_to_disk` holds.
SAVED_NAMES = ("state.json", "dataset_dict.json")
Entry = tuple[int, Any]


def find_manifest(source: str | Path) -> Path | None:
    """
    The manifest that `source` is, or that lies in the folder `source`; the folder itself if it is one of LibriSpeech;
    `None` if `source` is something else. Raises a `ValueError` if it has the name of a manifest and does not exist.
    """
    source = Path(source)
    if source.suffix in MANIFEST_ENDINGS and not source.is_dir():
        if not source.is_file():
            raise ValueError(f"`source` {source} does not exist.")
        return source
    if not source.is_dir() or any((source / name).is_file() for name in SAVED_NAMES):
        return None
    found = next((source / name for name in MANIFEST_NAMES if (source / name).is_file()), None)
    return source if found is None and _find_transcripts(source) else found


def read_entries(manifest: Path) -> Iterator[Entry]:
    """
    The rows of a file or folder that [`find_manifest`] found, with their numbers; a `ValueError` in place of a row that
    cannot be read. Numbers count lines of JSONL, CSV and TSV files, and rows of all others, from 1.
    """
    if manifest.is_dir():
        yield from _read_librispeech(manifest)
    elif manifest.suffix == ".jsonl":
        yield from _read_jsonl(manifest)
    elif manifest.suffix == ".json":
        yield from _read_json(manifest)
    else:
        yield from _read_table(manifest)


def _read_json(file: Path) -> Iterator[Entry]:
    try:
        content = parse_json(file.read_bytes())
    except ValueError as error:
        yield 0, ValueError(f"the file cannot be read as JSON ({error})")
        return
    rows = content.get("annotation") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        yield (
            0,
            ValueError(
                'the file must be a list of objects or {"annotation": [...]}; a file with one object a line must end in .jsonl'
            ),
        )
        return
    yield from enumerate(rows, start=1)


def _read_jsonl(file: Path) -> Iterator[Entry]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, parse_json(line)
            except ValueError as error:
                yield number, ValueError(f"the line cannot be read as JSON ({error})")


def _read_table(file: Path) -> Iterator[Entry]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restkey="", restval=None, delimiter="\t" if file.suffix == ".tsv" else ",")
        try:
            for row in reader:
                if "" in row:
                    yield reader.line_num, ValueError(f"the line has more cells than the header: {row['']}")
                else:
                    # a cell cannot be left out, only left empty
                    yield reader.line_num, {name: cell or None for name, cell in row.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            yield reader.line_num + 1, ValueError(f"the line cannot be read as CSV ({error})")


def _find_transcripts(folder: Path) -> bool:
    return next(folder.rglob("*.trans.txt"), None) is not None


def _read_librispeech(folder: Path) -> Iterator[Entry]:
    """`id`, `audio`, `text` of each utterance, in the order of their names."""
    number = 0
    for transcripts in sorted(folder.rglob("*.trans.txt")):
        for line in transcripts.read_text(encoding="utf-8-sig").split("\n"):
            number += 1
            if not line.strip():
                continue
            name, _, text = line.partition(" ")
            stem = transcripts.parent.relative_to(folder) / name
            endings = (ending for ending in (".flac", ".wav") if (folder / f"{stem}{ending}").is_file())
            yield number, {"id": name, "audio": f"{stem}{next(endings, '.flac')}", "text": text}
