# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn convert auto`: what a published file is, told by its tensors."""

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from cli_salmonn.convert import KNOWN
from cli_salmonn.main import main
from conversion_salmonn.families import FAMILIES, convert_auto, families_table, recognise


ROOT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
FILES = {
    "BEATs": FIXTURES / "beats" / "BEATs_tiny_ssl.pt",
    "OpenBEATs": FIXTURES / "beats_family" / "openbeats.pt",
    "ESPnet BEATs": FIXTURES / "beats_family" / "espnet",
    "AVEX BEATs": FIXTURES / "beats_family" / "avex",
    "SALMONN": FIXTURES / "salmonn" / "salmonn_tiny.pth",
    "NatureLM-audio": FIXTURES / "naturelm" / "hub",
}
PARTS = {
    "SALMONN": ["--whisper", FIXTURES / "salmonn" / "whisper", "--llm", FIXTURES / "salmonn" / "llama", "--beats"]
    + [FIXTURES / "beats" / "BEATs_tiny.pt", "--qformer-heads", "4"],
    "NatureLM-audio": ["--llm", FIXTURES / "naturelm" / "llama", "--qformer-heads", "4"],
}


@pytest.mark.parametrize("name", FILES)
def test_each_family_is_recognised_and_converted(tmp_path, capsys, name):
    words = [FILES[name], tmp_path / "out", *PARTS.get(name, [])]
    assert main(["convert", "auto", *map(str, words)]) == 0
    said = capsys.readouterr().out
    assert f"is {name}: wrote {tmp_path / 'out'}" in said
    is_model = name in PARTS
    model_type = json.loads((tmp_path / "out" / "config.json").read_text())["model_type"]
    assert model_type == ("salmonn" if is_model else "beats")
    with pytest.raises(ValueError, match=f"is a folder of model type '{model_type}': it is converted already"):
        recognise(tmp_path / "out")


def test_the_name_of_a_file_says_nothing(tmp_path):
    shutil.copy(FILES["OpenBEATs"], tmp_path / "salmonn_v1.pth")
    assert recognise(tmp_path / "salmonn_v1.pth").family.name == "OpenBEATs"


def test_parts_are_asked_for_and_none_is_ignored(tmp_path, capsys):
    assert main(["convert", "auto", str(FILES["SALMONN"]), str(tmp_path / "out")]) == 2
    assert "is SALMONN, which also needs --whisper, --llm" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is BEATs, which takes no --dtype, --llm"):
        convert_auto(FILES["BEATs"], tmp_path / "out", llm="llm", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"cfg": {}, "model": {"quantize.embedding.weight": torch.ones(1)}},
            "is a BEATs tokenizer: it makes the targets",
        ),
        ({"model": {"tensor": torch.ones(10)}}, "is an AHAMask: .*`salmonn ask --head-mask FILE`"),
        ({"model": {"fc.weight": torch.ones(1)}}, r"of no known family \(BEATs, .*\): it holds fc.weight"),
        ({}, "of no known family .*: it holds nothing"),
        ([1, 2], "of no known family: it holds a list"),
    ],
)
def test_others_are_refused_with_the_reason(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=message):
        recognise(tmp_path / "file.pt")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must have one file of weights .* got none"):
        recognise(tmp_path)
    (tmp_path / "cut.pt").write_bytes(FILES["OpenBEATs"].read_bytes()[:2000])
    with pytest.raises(ValueError, match="cut.pt cannot be read: it is truncated"):
        recognise(tmp_path / "cut.pt")
    weights = FILES["NatureLM-audio"] / "model.safetensors"
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights.read_bytes()[:20000])
    with pytest.raises(ValueError, match="cannot be read, it may be truncated"):
        recognise(tmp_path / "cut")
    with pytest.raises(ValueError, match="a model of type 'llama', which is a part at most"):
        recognise(FIXTURES / "naturelm" / "llama")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n" + b"0" * 100, r"holds more than weights \(Unsupported operand 80\)$"),
        (b"hello", r"holds more than weights \(KeyError\)$"),
        (b"", r"holds more than weights \(EOFError\)$"),
    ],
)
def test_other_files_have_no_advice_to_run_what_they_hold(tmp_path, content, reason):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        recognise(tmp_path / "file.pt")
    torch.save({"model": argparse.Namespace()}, tmp_path / "code.pt")
    with pytest.raises(
        ValueError, match=r"\(Unsupported global: GLOBAL argparse.Namespace was not an allowed .*default\)$"
    ):
        recognise(tmp_path / "code.pt")


def test_help_and_documentation_have_every_family():
    assert families_table() in (ROOT / "docs" / "family.md").read_text(encoding="utf-8")
    plain = re.sub(r"\s+", " ", KNOWN.replace("`", ""))
    for family in FAMILIES:
        assert f"{family.name} {family.files.replace('`', '')}" in plain, family.name
