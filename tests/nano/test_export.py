# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Trained parts as 16-bit folders."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from nano_salmonn.assemble import NANO_CHECKPOINT
from nano_salmonn.export import copy_published, export_trained


@pytest.fixture
def trained(tmp_path):
    for name in ("adapter", "beats"):
        (tmp_path / name).mkdir()
    weights = {"lora": torch.tensor([0.1, -3.0]), "connector.base_fingerprint": torch.tensor([1e5, 1 / 3])}
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 2, "base_model_name_or_path": "/home/me/base"}')
    save_file({"w": torch.ones(2).half()}, tmp_path / "beats" / "model.safetensors")
    (tmp_path / "beats" / "config.json").write_text(
        '{"auto_map": {"AutoModel": "modeling_beats.X"}, "hidden_size": 8}'
    )
    (tmp_path / "beats" / "modeling_beats.py").write_text("")
    (tmp_path / "beats" / "scores.json").write_text("{}")
    return tmp_path


def test_weights_are_halved_and_the_fingerprint_is_not(trained):
    output = export_trained(trained / "adapter", trained / "beats", trained / "out")

    weights = load_file(output / "adapter" / "adapter_model.safetensors")
    assert weights["lora"].tolist() == torch.tensor([0.1, -3.0]).half().tolist()
    assert weights["connector.base_fingerprint"].tolist() == torch.tensor([1e5, 1 / 3]).tolist()
    assert "/home" not in (output / "adapter" / "adapter_config.json").read_text()
    assert sorted(file.name for file in (output / "beats").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((output / "beats" / "config.json").read_text()) == {"hidden_size": 8}


def test_a_card_comes_along(trained):
    (trained / "card.md").write_text("a card")
    output = export_trained(trained / "adapter", trained / "beats", trained / "out", card=trained / "card.md")

    assert (output / "README.md").read_text() == "a card"
    with pytest.raises(ValueError, match="`card` a file: .*none.md are missing"):
        export_trained(trained / "adapter", trained / "beats", trained / "other", card=trained / "none.md")


def test_what_would_not_load_is_refused(trained):
    save_file({"w": torch.ones(2)}, trained / "beats" / "model.safetensors")
    with pytest.raises(ValueError, match=r"must be float16, as it was when .* got \['torch.float32'\]"):
        export_trained(trained / "adapter", trained / "beats", trained / "out")
    save_file({"w": torch.ones(2).half()}, trained / "beats" / "model.safetensors")
    save_file({"lora": torch.tensor([1e6])}, trained / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="beyond float16 in lora"):
        export_trained(trained / "adapter", trained / "beats", trained / "out")
    with pytest.raises(ValueError, match="adapter_config.json .* missing"):
        export_trained(trained / "nothing", trained / "beats", trained / "out")
    assert not (trained / "out").exists()


def test_what_is_published_is_copied_as_it_is(tmp_path):
    beats, adapter = copy_published(tmp_path / "beats", tmp_path / "adapter")

    for part, folder in (("beats", beats), ("adapter", adapter)):
        published = NANO_CHECKPOINT / part
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            file.name: file.read_bytes() for file in published.iterdir()
        }
    with pytest.raises(ValueError, match="beats"):
        copy_published(beats, adapter)
    copy_published(beats, adapter, overwrite=True)
