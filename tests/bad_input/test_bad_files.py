# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Files and folders that are written: a full disk, a kill, something in the way. And files of JSON that are none."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import refuses, tree

from data_salmonn import files
from data_salmonn.files import UNFINISHED, create_array, output_folder, whole_file, whole_files, write_lines
from data_salmonn.json_text import parse_json, read_json, read_object, read_object_lines


WRITERS = {"whole_file": whole_file, "output_folder": output_folder, "whole_files": whole_files}


@pytest.fixture(scope="module")
def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def put(target) -> None:
    (target / "config.json" if target.is_dir() else target).write_text("half")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line(tmp_path, name, number):
    with refuses(str(tmp_path / "out"), "no space left"), WRITERS[name](tmp_path / "out") as target:
        put(target)
        raise OSError(number, "No space")
    assert not tree(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_in_other_words(tmp_path, monkeypatch, name):
    """Libraries for weights raise errors of their own."""
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with refuses(str(tmp_path / "out"), "no space left"), WRITERS[name](tmp_path / "out") as target:
        put(target)
        raise RuntimeError("file write failed")
    assert not tree(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ValueError])
@pytest.mark.parametrize("name", WRITERS)
def test_what_fails_leaves_nothing(tmp_path, name, error):
    with pytest.raises(error), WRITERS[name](tmp_path / "out") as target:
        put(target)
        raise error
    assert not tree(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_killed_process_left_is_removed(tmp_path, name, dead_process):
    """Not what a process writes that is still there, or that another machine's may write."""
    folder = tmp_path / "out" if name == "whole_files" else tmp_path
    target = "files" if name == "whole_files" else "out"
    folder.mkdir(exist_ok=True)
    left = folder / f".{target}.{files._machine()}-{dead_process}{UNFINISHED}"
    stays = [
        folder / f".{target}.{files._machine()}-{os.getppid()}{UNFINISHED}",
        folder / f".{target}.elsewhere-7{UNFINISHED}",
    ]
    for file in (left, *stays):
        file.write_text("half")
    with WRITERS[name](tmp_path / "out") as written:
        put(written)
    assert not left.exists() and all(file.exists() for file in stays)


def test_a_folder_that_was_being_replaced_is_put_back(tmp_path, dead_process):
    old = tmp_path / f".out.{files._machine()}-{dead_process}-abc-old{UNFINISHED}"
    old.mkdir()
    (old / "mine.txt").write_text("mine")
    with refuses("`output`", "not empty"):
        files.sweep(tmp_path, "out")
        with output_folder(tmp_path / "out"):
            pass
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_where_a_folder_should_be(tmp_path, overwrite):
    (tmp_path / "out").write_text("mine")
    with refuses("`output`"), output_folder(tmp_path / "out", overwrite):
        pass
    with refuses("`output`"), output_folder(tmp_path / "out" / "in", overwrite):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_room_for_an_array_is_taken_at_once(tmp_path, monkeypatch):
    """A mapped file on a full disk would end the process without a word."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with refuses("no space left"), whole_file(tmp_path / "a.npy") as unfinished:
        create_array(unfinished, np.float16, (10, 3))
    assert not tree(tmp_path)


def test_several_files_beside_others(tmp_path):
    (tmp_path / "training").mkdir()
    with whole_files(tmp_path) as folder:
        for name in ("config.json", "weights"):
            (folder / name).write_text(name)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "training", "weights"}


TEXTS = {
    "empty": b"",
    "cut": b'{"a": 1',
    "no JSON": b"a: 1",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a number of 5000 digits": b"9" * 5000,
    "two objects": b'{"a": 1}{"a": 2}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_json(tmp_path, case):
    file = tmp_path / "rows.json"
    file.write_bytes(TEXTS[case] + b"\n")
    for read in (read_json, read_object):
        with refuses(str(file)):
            read(file)
    if case != "empty":
        with refuses(f"{file}, line 1"):
            list(read_object_lines(file))


@pytest.mark.parametrize("text", ["[1]", "5", "null", '"a"', "NaN"])
def test_json_that_is_no_object(tmp_path, text):
    file = tmp_path / "rows.json"
    file.write_text(text)
    with refuses(str(file), "object"):
        read_object(file)
    with refuses(f"{file}, line 1", "object"):
        list(read_object_lines(file))


@pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "a\x0bb\x0cc\x1cd", "half \ud800", "\r\n", "\ufeffa", "\0"])
def test_every_text_comes_back(tmp_path, text):
    file = tmp_path / "rows.jsonl"
    write_lines(file, [{"text": text}, {"text": "after"}])
    assert list(read_object_lines(file)) == [{"text": text}, {"text": "after"}]
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # a byte-order mark, as some editors write it
    assert next(read_object_lines(file)) == {"text": text}
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
