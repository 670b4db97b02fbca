# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Models assembled from parts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from conversion_salmonn.assemble import assemble
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
        {"whisper": None, "segment_seconds": 10},
        {"beats": "random-small", "segment_position_embeddings": True},
    ],
)
def test_kinds_of_models(tmp_path, settings):
    model, logits = answer(put_together(tmp_path / "model", **settings))
    assert logits.isfinite().all()
    assert (model.model.beats is None) == (settings.get("beats", "") is None)
    assert (model.model.speech_encoder is None) == (settings.get("whisper", "") is None)
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
# Trained adapters


def train(base, output, dtype=torch.bfloat16):
    """An adapter of the model in `base`, changed as if it had been trained, in 16 bits as checkpoints have it."""
    model = SalmonnForConditionalGeneration.from_pretrained(base, dtype=dtype)
    model.add_adapter(model.lora_config())
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(output, adapter_only=True)
    file = output / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, metadata=metadata)
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base model and the folder of an adapter that was trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    base = put_together(folder / "base")
    return base, train(base, folder / "adapter")


def test_adapter_is_put_beside_the_weights(tmp_path, trained):
    base, adapter = trained
    folder = put_together(tmp_path / "model", adapter=adapter)
    weights, expected = load_file(folder / "model.safetensors"), load_file(base / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None

    alone = SalmonnForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    untrained = answer(base)[1]
    alone.load_adapter(str(adapter))
    model, logits = answer(folder)
    assert (logits - untrained).abs().max() > 1e-3
    state, expected = model.state_dict(), alone.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_model_with_its_adapter_loads_in_every_dtype(tmp_path, trained, dtype):
    folder = put_together(tmp_path / "model", adapter=trained[1], dtype="float16")
    model = SalmonnForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    assert model._hf_peft_config_loaded and model.dtype == dtype


@pytest.fixture
def other_whisper(tmp_path):
    """A Whisper of the same size with other weights."""
    folder = shutil.copytree(WHISPER, tmp_path / "whisper")
    weights = {name: 1.1 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_adapter_of_other_weights_is_refused(tmp_path, trained, other_whisper):
    with pytest.raises(ValueError, match="trained on other base weights: .* in speech_encoder "):
        put_together(tmp_path / "new" / "model", adapter=trained[1], whisper=other_whisper)
    assert not list(tmp_path.glob("new/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beats": "random-small"}, "does not fit this model: its tensors have other sizes"),
        ({"num_query_tokens": 2}, "does not fit this model: its tensors have other sizes"),
        ({"connector_type": "linear"}, "does not fit this model, which differs in model.connector"),
        ({"adapter": WHISPER}, "lacks adapter_config.json and adapter_model.safetensors"),
    ],
)
def test_adapter_that_does_not_fit_is_refused(tmp_path, trained, changes, message):
    with pytest.raises(ValueError, match=message):
        put_together(tmp_path / "new" / "model", **{"adapter": trained[1], **changes})
    assert not list(tmp_path.glob("new/*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda tensors: {n: t for n, t in tensors.items() if "query_tokens" not in n},
            "differs in .*query_tokens",
        ),
        (lambda tensors: {**tensors, "base_model.model.model.more": torch.ones(1)}, "differs in model.more"),
        (None, "cannot be read, it may be truncated"),
    ],
)
def test_damaged_adapter_is_refused(tmp_path, trained, damage, message):
    adapter = shutil.copytree(trained[1], tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    if damage:
        save_file(damage(load_file(file)), file, metadata={"format": "pt"})
    else:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=message):
        put_together(tmp_path / "new" / "model", adapter=adapter)
    assert not list(tmp_path.glob("new/*"))


def test_a_model_needs_an_encoder(tmp_path):
    with pytest.raises(ValueError, match="One of `whisper` and `beats` must be given"):
        put_together(tmp_path / "model", whisper=None, beats=None)
