# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Reading checkpoints tensor by tensor and writing folders in one step.

    with output_folder("OUT") as folder: ...      OUT appears complete, or not at all
    read_pickle("BEATs.pt")                       weights only, memory-mapped
    with_weights = TensorFolder("whisper/")       names and shapes now, tensors when asked for
"""

import logging
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm.auto import tqdm

from data_salmonn.files import output_folder  # noqa: F401  # beside what it writes
from data_salmonn.json_text import read_object


logger = logging.getLogger(__name__)

# The files in which Transformers keeps weights, in the order in which they are preferred.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# How many names an error message lists before it says how many more there are.
MAX_NAMES = 8


# ----------------------------------------------------------------------------------------------------------------------
# Input


def read_pickle(path: str | os.PathLike) -> Any:
    """
    What `torch.save` wrote to `path`, with tensors memory-mapped where the file's format allows it.

    Only tensors and plain containers are unpickled (`weights_only=True`), so that a hostile file cannot run code.
    Raises `ValueError` naming the file if it is missing, truncated, not a checkpoint, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint file {path} does not exist")
    try:
        # Files of before torch 1.6 are plain pickles and cannot be mapped.
        is_zip = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        damaged = _find_damage(path) if is_zip else None
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"checkpoint file {path} cannot be read: it is truncated, no PyTorch checkpoint, or holds more than weights "
            f"({_shorten(error)})"
        ) from error
    if damaged:
        raise ValueError(f"checkpoint file {path} is damaged: what it holds in {damaged} is not what was written")
    return content


def _shorten(error: Exception) -> str:
    """What unpickling found, without torch's advice to run the code in the file."""
    found = re.search(r"Unsupported .*?(?=\. |\n|$)", str(error))
    lines = [found[0]] if found else str(error).strip().splitlines()
    return lines[0] if lines and not isinstance(error, KeyError) else type(error).__name__


def _find_damage(path: Path) -> str | None:
    """The first part of an archive whose checksum is not that of its bytes. torch looks at none."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def read_json(path: Path) -> dict:
    """The JSON object in `path`. Raises `ValueError` naming the file if there is none."""
    try:
        return read_object(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


class TensorFolder(Mapping):
    """
    The weights in a folder of Transformers (or in one weight file) as a mapping from names to tensors.

    Names are known at once; a tensor is read when it is asked for, from memory-mapped files, so that a model larger
    than the memory can be converted. Understands `model.safetensors`, `pytorch_model.bin` and the sharded forms.

    Raises `ValueError` naming the folder or file if weights are missing or unreadable.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._opened: dict[Path, Any] = {}
        if self.path.is_dir():
            self._file_of = self._scan_folder()
        elif self.path.is_file():
            self._file_of = dict.fromkeys(self._open(self.path), self.path)
        else:
            raise ValueError(f"weights {self.path} do not exist: expected a folder or a weight file")

    def _scan_folder(self) -> dict[str, Path]:
        found = next((self.path / name for name in WEIGHT_FILES if (self.path / name).is_file()), None)
        if found is None:
            raise ValueError(f"folder {self.path} has no weights: expected one of {', '.join(WEIGHT_FILES)}")
        if found.suffix != ".json":
            return dict.fromkeys(self._open(found), found)
        weight_map = read_json(found).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{found} has no `weight_map`")
        if not all(isinstance(shard, str) for shard in weight_map.values()):
            raise ValueError(f"`weight_map` in {found} must hold names of files")
        if any(Path(shard).name != shard for shard in weight_map.values()):
            raise ValueError(f"`weight_map` in {found} must name files beside it")
        for shard in sorted(set(weight_map.values())):
            if not (self.path / shard).is_file():
                raise ValueError(f"weight file {self.path / shard} is missing, though {found.name} names it")
        return {name: self.path / shard for name, shard in weight_map.items()}

    def _open(self, file: Path) -> Any:
        """The opened safetensors file, or the mapping that a pickle holds. Both stay open, neither is in memory."""
        if file not in self._opened:
            if file.suffix == ".safetensors":
                try:
                    self._opened[file] = _SafetensorsFile(file)
                except (SafetensorError, OSError) as error:
                    raise ValueError(f"weight file {file} cannot be read, it may be truncated ({error})") from error
            else:
                content = read_pickle(file)
                if not isinstance(content, Mapping):
                    raise ValueError(f"weight file {file} should hold named tensors, got {type(content).__name__}")
                self._opened[file] = content
        return self._opened[file]

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._file_of[name]
        try:
            return self._open(file)[name]
        except (KeyError, SafetensorError) as error:
            raise ValueError(f"weight file {file} holds no readable tensor {name}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of


class _SafetensorsFile(Mapping):
    """The tensors of one safetensors file, read when asked for."""

    def __init__(self, file: Path):
        self._file = safe_open(file, framework="pt")
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def find_folder(source: str | os.PathLike, argument: str) -> Path:
    """
    The folder that `source` means: a local folder, or else a repository of the Hub, downloaded.

    `argument` is the name under which the user gave `source`. Raises `ValueError` if it is neither.
    """
    local = Path(source).expanduser()
    if local.is_dir():
        return local
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        raise ValueError(f"`{argument}` must be a folder or the id of a repository on the Hub, got {source!r}")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.model", "*.txt", "*.jinja"]
    try:
        folder = Path(snapshot_download(str(source), allow_patterns=[*wanted, "model*.safetensors"]))
        if not any((folder / name).is_file() for name in WEIGHT_FILES[:2]):
            folder = Path(snapshot_download(str(source), allow_patterns=[*wanted, "pytorch_model*.bin"]))
    except Exception as error:  # every kind of network and repository error means the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"`{argument}` {source!r} is no local folder and cannot be loaded from the Hub ({reason})"
        ) from error
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# From source to model


def list_names(names: Iterable[str]) -> str:
    """At most `MAX_NAMES` of `names` for an error message, sorted, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def check_all_used(names: Iterable[str], used: Iterable[str], leftovers: Iterable[str], source: str) -> None:
    """
    Every name of a source is either used or matches one of the patterns `leftovers` of tensors known to be of no use.

    Raises `ValueError` naming the tensors for which neither holds: a weight silently dropped is a wrong model.
    """
    patterns = [re.compile(pattern) for pattern in leftovers]
    unknown = [name for name in set(names) - set(used) if not any(pattern.search(name) for pattern in patterns)]
    if unknown:
        raise ValueError(f"{source} holds tensors that this model has no place for: {list_names(unknown)}")


def check_fits(
    state: Mapping[str, torch.Tensor],
    module: nn.Module,
    source: str,
    allow_missing: str = r"$^",
    check_values: bool = True,
) -> None:
    """
    `state` has a tensor of the right shape for each parameter and persistent buffer of `module`, and no other, and its
    values are those of weights, unless `check_values` is false.

    Names matching the pattern `allow_missing` may be absent. Raises `ValueError` naming what differs.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state and not re.search(allow_missing, name)]
    if missing:
        raise ValueError(f"{source} lacks these tensors: {list_names(missing)}")
    check_all_used(state, expected, (), source)
    if check_values:
        check_tensors(state, source, [name for name, tensor in expected.items() if tensor.is_floating_point()])
    wrong = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(f"{source} holds tensors of other sizes than its configuration says: {list_names(wrong)}")


def check_tensors(state: Mapping[str, torch.Tensor], source: str, names: Iterable[str] | None = None) -> None:
    """
    The tensors called `names`, or all, are dense, of floats and finite. Raises `ValueError` naming those that are not: a
    weight that is NaN makes every answer nonsense, and no error.
    """
    wrong = {}
    for name in state if names is None else names:
        tensor = state.get(name)
        if tensor is None:
            continue
        if tensor.layout != torch.strided:
            wrong[name] = f"{name} ({tensor.layout})"
        elif not tensor.is_floating_point():
            wrong[name] = f"{name} ({tensor.dtype})"
        elif not tensor.is_meta and not tensor.isfinite().all():
            wrong[name] = f"{name} (NaN or inf)"
    if wrong:
        raise ValueError(f"{source} holds tensors that are no dense, finite floats: {list_names(wrong.values())}")


def collect(source: Mapping[str, torch.Tensor], new_names: Mapping[str, str], title: str) -> dict[str, torch.Tensor]:
    """The tensors of `source` under `new_names` (old to new), with a progress bar when there are many."""
    items = tqdm(new_names.items(), desc=title, unit="tensor", disable=len(new_names) < 64 or None, leave=False)
    return {new: source[old] for old, new in items}
