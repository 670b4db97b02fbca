# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints to be converted: damaged files, found by fuzzing too, and tensors that are no weights."""

import io
import json
import pickle
import zipfile

import pytest
import torch
from refusals import refuses
from safetensors.torch import save_file
from torch import nn

from conversion_salmonn.assemble import assemble
from conversion_salmonn.checkpoint_io import TensorFolder, check_fits, check_tensors, read_pickle


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return print, ("it ran",)


def overwritten() -> bytes:
    """An archive in which a tensor's bytes were changed: torch reads it."""
    content = bytearray(saved({"a": torch.zeros(64)}))
    place = content.index(bytes(256))
    content[place : place + 16] = b"\xff" * 16
    return bytes(content)


NEW, OLD = saved({"a": torch.zeros(64)}), saved({"a": torch.zeros(64)}, _use_new_zipfile_serialization=False)
PICKLES = {
    "empty": b"",
    "text": b"no checkpoint",
    "zeros": bytes(1000),
    "half of an archive": NEW[: len(NEW) // 2],
    "half of an old one": OLD[: len(OLD) // 2],
    "tensors overwritten": overwritten(),
    "an archive of something else": b"PK\x05\x06" + bytes(18),
    "code": pickle.dumps(Code()),
    "code in a dict": pickle.dumps({"model": Code()}),
    # of the fuzzer: torch's own unpickler takes what is not there
    "pops from nothing": b"\x80\x02" + b"0" * 10 + b".",
    "stack without a mark": b"\x80\x02}(K\x01s.",
    "a tuple of nothing": b"\x80\x02\x87.",
    "unknown memo": b"\x80\x02h\x05.",
    "an endless string": b"\x80\x02X\xff\xff\xff\x7f.",
    "half of a number": b"\x80\x02J\x01",
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles(tmp_path, capsys, case):
    file = tmp_path / "model.bin"
    file.write_bytes(PICKLES[case])
    with refuses(str(file)):
        read_pickle(file)
    with refuses(str(file)):
        TensorFolder(file)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("start", range(0, 400, 23))
def test_damage_anywhere_is_refused_or_harmless(tmp_path, start):
    for name, content in (("new.bin", NEW), ("old.bin", OLD)):
        file = tmp_path / name
        file.write_bytes(content[:start] + b"\x30\xff\x87" + content[start + 3 :])
        try:
            assert set(read_pickle(file)) == {"a"}
        except ValueError as error:
            assert str(file) in str(error)


INDICES = {
    "a list": [1],
    "no map": {},
    "a map that is a list": {"weight_map": ["a"]},
    "a number for a file": {"weight_map": {"a": 1}},
    "a file that is not there": {"weight_map": {"a": "gone.safetensors"}},
    "a file elsewhere": {"weight_map": {"a": "../outside.safetensors"}},
}


@pytest.mark.parametrize("case", INDICES)
def test_indices(tmp_path, case):
    save_file({"a": torch.zeros(2)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps(INDICES[case]))
    with refuses("model"):
        TensorFolder(folder)


TENSORS = {
    "NaN": lambda w: w * float("nan"),
    "inf": lambda w: w / 0,
    "one NaN": lambda w: w.index_fill(0, torch.tensor([1]), float("nan")),
    "integers": lambda w: w.long(),
    "bool": lambda w: w > 0,
    "complex": lambda w: w.to(torch.complex64),
    "sparse": lambda w: w.to_sparse(),
    "half NaN": lambda w: (w * float("nan")).half(),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors(case):
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    state = {"weight": TENSORS[case](torch.ones(2, 3)), "bias": torch.zeros(2)}
    with refuses("`model` a.pt", "weight"):
        check_fits(state, module, "`model` a.pt")
    with refuses("`model` a.pt", "weight"):
        check_tensors(state, "`model` a.pt")


SETTINGS = [
    *[("seed", value) for value in (-1, 2**70, 1.5, "0", None)],
    *[("chat_template", value) for value in ("{% if %}", "{{ a", "{{ a | nonsense }}", 5)],
    *[("qformer", value) for value in ([1], "a", 5, {"hidden_size": "24"}, {"num_hidden_layers": 0}, {"nonsense": 1})],
    ("dtype", "float99"),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_settings_of_assemble(tmp_path, name, value):
    with refuses(f"`{name}`" if name != "qformer" else "qformer"):
        assemble("gone", "gone", None, tmp_path / "out", **{name: value})
    assert not list(tmp_path.iterdir())


def test_archives_are_those_of_torch(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("../outside", "x")
    with refuses("a.pt"):
        read_pickle(tmp_path / "a.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
