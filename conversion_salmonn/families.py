# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Every published checkpoint of this design: how it is recognised, what it is, and what converts it.

    found = recognise("OpenBEATs-Base-i1.pt")
    print(found.family.name, found.path)
    convert_auto("OpenBEATs-Base-i1.pt", "openbeats")
"""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conversion_salmonn.beats_sources import AVEX_PREFIX, PADS, find_weights, read_weights
from conversion_salmonn.checkpoint_io import list_names
from conversion_salmonn.convert_beats import convert_beats
from conversion_salmonn.convert_naturelm import convert_naturelm
from conversion_salmonn.convert_salmonn import convert_salmonn
from data_salmonn.json_text import read_object


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """`files` is what one has of it, `needs` are the options without which it cannot be converted, `takes` all of them."""

    name: str
    files: str
    result: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


BEATS = Family("BEATs", "iter1, 2, 3, 3+, fine-tuned: `.pt` with `cfg` and `model`", "encoder or classifier")
OPENBEATS = Family("OpenBEATs", "base and large: `.pt` whose `cfg` has overrides only", "encoder")
ESPNET = Family("ESPnet BEATs", "fine-tuned: `.pth` with `config.yaml` beside it", "classifier", takes=("beats",))
AVEX = Family("AVEX BEATs", "sl-beats, naturelm-beats: safetensors, `label_map.json`, YAML", "encoder or classifier")
SALMONN = Family(
    "SALMONN",
    "13B, 7B, speech quality 7B: `.pth` with `model`",
    "model",
    needs=("whisper", "llm"),
    takes=("whisper", "llm", "beats", "qformer_heads", "dtype", "repo_id"),
)
NATURELM = Family(
    "NatureLM-audio",
    "`model.safetensors` with `config.json`, or `.pth` of its training",
    "model",
    needs=("llm",),
    takes=("llm", "beats", "qformer_heads", "dtype", "repo_id"),
)
FAMILIES = (BEATS, OPENBEATS, ESPNET, AVEX, SALMONN, NATURELM)

# What is recognised, and is nothing to convert: why.
REFUSED = {
    "BEATs tokenizer": "it makes the targets that BEATs is trained on, and is no encoder of sounds",
    "AHAMask": "a mask of attention heads is used as it is: `salmonn ask --head-mask FILE`",
    "converted folder": "it is converted already: `from_pretrained` loads it",
}


@dataclass(frozen=True)
class Found:
    """A family, and the file that is of it."""

    family: Family
    path: Path


def recognise(source: str | os.PathLike) -> Found:
    """
    Tells by names of tensors and settings which family a file, or the one file of weights in a folder, is of.

    Raises `ValueError`, which says what was found, if it is of none, or is one of those that cannot be converted.
    """
    _refuse_converted(Path(source))
    path = find_weights(source)
    content = read_weights(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"`source` {path} is of no known family: it holds a {type(content).__name__}")
    tensors = content["model"] if isinstance(content.get("model"), Mapping) else content
    names = {str(name) for name in tensors}
    if any(name.startswith("quantize") for name in names):
        raise ValueError(f"`source` {path} is a BEATs tokenizer: {REFUSED['BEATs tokenizer']}")
    if names == {"tensor"}:
        raise ValueError(f"`source` {path} is an AHAMask: {REFUSED['AHAMask']}")
    family = _find_family(content, names)
    if family is None:
        known = ", ".join(family.name for family in FAMILIES)
        raise ValueError(f"`source` {path} is of no known family ({known}): it holds {list_names(names) or 'nothing'}")
    return Found(family, path)


def _find_family(content: Mapping, names: set[str]) -> Family | None:
    if isinstance(content.get("cfg"), Mapping) and "patch_embedding.weight" in names:
        return OPENBEATS if names.intersection(PADS) else BEATS
    if "encoder.patch_embedding.weight" in names:
        return ESPNET
    if "audio_query_tokens" in names:
        return NATURELM
    if "speech_query_tokens" in names:
        return SALMONN
    if f"{AVEX_PREFIX}patch_embedding.weight" in names or "patch_embedding.weight" in names:
        return AVEX
    return None


def _refuse_converted(source: Path) -> None:
    file = source / "config.json" if source.is_dir() else source.parent / "config.json"
    try:
        model_type = read_object(file).get("model_type")
    except (OSError, ValueError, AttributeError):
        return
    if model_type in ("salmonn", "beats"):
        raise ValueError(f"`source` {source} is a folder of model type {model_type!r}: {REFUSED['converted folder']}")
    if model_type is not None:
        raise ValueError(
            f"`source` {source} is a model of type {model_type!r}, which is a part at most: `salmonn assemble` puts parts "
            "together"
        )


def convert_auto(source: str | os.PathLike, output: str | os.PathLike, overwrite: bool = False, **parts) -> Found:
    """
    Recognises a published checkpoint, says what it found, and converts it.

    Args:
        source (`str` or `os.PathLike`): the file, or a folder with one file of weights and what belongs to it.
        output (`str` or `os.PathLike`): folder to write; it appears complete or not at all.
        overwrite (`bool`, *optional*): replace what is in `output`.
        parts (`dict`, *optional*): `whisper`, `llm`, `beats`, `qformer_heads`, `dtype` and `repo_id` as the converter of the
            family takes them.

    Returns:
        [`Found`]: what it was.

    Raises:
        ValueError: if it is of no known family, or of one that needs other parts or takes none of those given.
    """
    found = recognise(source)
    family, given = found.family, {name: part for name, part in parts.items() if part is not None}
    logger.info("%s is %s (%s)", found.path, family.name, family.files)
    missing = [name for name in family.needs if name not in given]
    if missing:
        raise ValueError(f"{found.path} is {family.name}, which also needs {_options(missing)}")
    unused = given.keys() - family.takes
    if unused:
        raise ValueError(f"{found.path} is {family.name}, which takes no {_options(sorted(unused))}")
    if family is SALMONN:
        whisper, llm, beats = (given.pop(name, None) for name in ("whisper", "llm", "beats"))
        convert_salmonn(found.path, whisper, llm, beats, output, overwrite=overwrite, **given)
    elif family is NATURELM:
        convert_naturelm(found.path, given.pop("llm"), output, overwrite=overwrite, **given)
    else:
        convert_beats(found.path, output, overwrite, given.get("beats"))
    return found


def _options(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def families_table() -> str:
    """What `salmonn convert auto` knows, in Markdown."""
    rows = [(family.name, family.files, family.result, _options(family.needs)) for family in FAMILIES]
    rows += [(name, "recognised", f"refused: {why}", "") for name, why in REFUSED.items()]
    lines = ["| family | files | becomes | needs |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(f"`{cell}`" if cell.startswith("--") else cell for cell in row) + " |" for row in rows]
    return "\n".join(lines)
