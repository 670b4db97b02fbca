# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Files and folders that are there as a whole or not at all, whatever happens while they are written."""

import errno
import logging
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_salmonn.json_text import to_json


logger = logging.getLogger(__name__)

# How the name of a file or folder ends while it is written.
UNFINISHED = ".unfinished"
# A disk with less than this is full: not all libraries say why they could not write.
MIN_FREE_BYTES = 2**20


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """
    Gives the path of an unfinished file to write, and moves it to `path` once the block ends without an error.

        with whole_file("features.npy") as unfinished:
            np.save(unfinished, features)

    After an error or a kill, `path` is what it was before. The folder is made where it is missing. Each process writes a
    file of its own, so several may write the same `path`: the last one stays. What a killed process left is removed by
    the next one that writes `path` on the same machine.

    Raises an `OSError` that names `path` if the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    unfinished = path.with_name(f"{_mark(path)}{os.getpid()}{UNFINISHED}")
    try:
        with _names_full_disk(path):
            yield unfinished
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def output_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    A new folder that appears at `path` complete or not at all.

    Work goes into a hidden folder beside `path`, which takes its place when the block ends. If the block raises, or is
    interrupted, that folder is removed and whatever stood at `path` before is untouched. What a killed process left is
    removed by the next one that writes `path` on the same machine.

    Raises `ValueError` if `path` is a file, or a folder with something in it and `overwrite` is not given, and an
    `OSError` that names `path` if the disk is full.
    """
    target = Path(path).expanduser().absolute()
    check_output(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, target.name)
        # Beside the target, not in the system's temporary folder: a rename must not cross file systems.
        work = Path(tempfile.mkdtemp(prefix=f"{_mark(target)}{os.getpid()}-", suffix=UNFINISHED, dir=target.parent))
    except OSError as error:
        raise ValueError(f"`output` {target} cannot be created: {error}") from error
    try:
        with _names_full_disk(target):
            yield work
            _make_readable(work)
            _put_in_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """
    Gives a new folder for several files, and moves them into `folder`, in which others stay, once the block ends without
    an error. As [`whole_file`] else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "files"
    sweep(folder, target.name)
    work = Path(tempfile.mkdtemp(prefix=f"{_mark(target)}{os.getpid()}-", suffix=UNFINISHED, dir=folder))
    try:
        with _names_full_disk(folder):
            yield work
            _make_readable(work)
            for file in sorted(
                work.iterdir(), key=lambda file: file.name == "config.json"
            ):  # by which a model is found
                os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_output(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raises `ValueError` if `path` is a file, or a folder with something in it and `overwrite` is not given."""
    path = Path(path).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(f"`output` must be a folder, got the file {path}")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"`output` {path} exists and is not empty: choose another folder, or overwrite it")


def create_array(path: str | Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """
    A new `.npy` file to write into piece by piece. Its room on the disk is taken at once: a disk that is found full
    while a mapped file is written ends the process without a word.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, os.fstat(file.fileno()).st_size))
    return array


def write_text(path: str | Path, text: str) -> None:
    """
    Writes `text` as UTF-8, with line feeds as they are, to a file that appears whole or not at all. What is no character,
    half of a surrogate pair, is written as `\\udXXX`.
    """
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON to a file that appears whole or not at all."""
    write_text(path, to_json(content, indent=2) + "\n")


def write_lines(path: str | Path, rows: list[Any]) -> None:
    """Writes JSON, one row a line, to a file that appears whole or not at all."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


# ----------------------------------------------------------------------------------------------------------------------
# What is unfinished


def sweep(folder: Path, name: str | None = None) -> None:
    """
    Removes what processes of this machine left in `folder` that were killed while they wrote the file or folder `name`,
    or any; what one of them was replacing is put back.
    """
    machine = re.escape(_machine())
    for left in folder.iterdir():
        found = re.fullmatch(rf"\.(.+)\.{machine}-(\d+)(-.*)?{re.escape(UNFINISHED)}", left.name)
        if found is None or name not in (None, found[1]) or _runs(int(found[2])):
            continue
        path = folder / found[1]
        if left.name.endswith(f"-old{UNFINISHED}") and not path.exists():
            logger.warning("%s was being replaced when a process was killed: it is put back.", path)
            os.replace(left, path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _mark(path: Path) -> str:
    """How the names of what will become `path` begin, before the number of the process that writes it."""
    return f".{path.name}.{_machine()}-"


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True


def _make_readable(folder: Path) -> None:
    """`mkdtemp` keeps others out, and so do some writers of weights; what is finished is as readable as other files."""
    mask = _umask()
    for written in (folder, *folder.rglob("*")):
        written.chmod((0o777 if written.is_dir() else 0o666) & ~mask)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _put_in_place(work: Path, target: Path) -> None:
    """Renames `work` to `target`; a folder that stood there is kept until the new one is in its place."""
    if not target.exists():
        os.replace(work, target)
        return
    old = work.with_name(work.name.removesuffix(UNFINISHED) + f"-old{UNFINISHED}")
    os.replace(target, old)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _names_full_disk(path: Path) -> Iterator[None]:
    """Turns what fails because a disk is full, each library in its own words, into one `OSError`."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors and torch have errors of their own
        if full or not isinstance(error, ValueError) and shutil.disk_usage(path.parent).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, "no space left on its disk, nothing was written", str(path)) from error
        raise
