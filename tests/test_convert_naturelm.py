# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
NatureLM-audio: a model that hears with BEATs alone. `fixtures/naturelm` is a tiny random one, saved and run in float32 by the
published code (`NatureLM.save_pretrained`, `encode_audio`, `prompt_wrap`; transformers 4.47, peft 0.13) on 3.5 s of noise with
silence up to 10 s, as that pads it, and "What is the common name?".
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM, AutoProcessor

from conversion_salmonn.convert_naturelm import convert_naturelm
from conversion_salmonn.file_checks import check_files


NATURELM = Path(__file__).parent / "fixtures" / "naturelm"
LLM = NATURELM / "llama"
EXPECTED = load_file(NATURELM / "expected.safetensors")
WAVEFORM = (0.1 * np.random.default_rng(7).standard_normal(56000)).astype(np.float32)
QUESTION = [
    {
        "role": "user",
        "content": [{"type": "audio", "audio": WAVEFORM}, {"type": "text", "text": "What is the common name?"}],
    }
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return convert_naturelm(NATURELM / "hub", LLM, tmp_path_factory.mktemp("naturelm") / "model", qformer_heads=4)


def load(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def ask(processor):
    return processor.apply_chat_template(
        QUESTION, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def test_embeddings_logits_and_answers_are_those_of_its_own_code(folder, tmp_path):
    model, processor = load(folder)
    inputs = ask(processor)
    assert model.config.speech_config is None and inputs["input_features"].shape == (1, 128, 1000)
    with torch.no_grad():
        heard = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
        logits = model(**inputs).logits[0, -20:]
    states = model.model.beats_layer_norm(EXPECTED["beats"])
    torch.testing.assert_close(heard.last_hidden_state[0, :48], states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(heard.pooler_output, EXPECTED["audio_embeds"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[:, : EXPECTED["logits"].shape[1]], EXPECTED["logits"], atol=1e-4, rtol=1e-5)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    ids = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
    assert ids.tolist() == EXPECTED["ids"].tolist()
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    model, processor = load(tmp_path / "again")
    assert torch.equal(model(**ask(processor)).logits[0, -20:], logits)
    assert model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :].tolist() == EXPECTED["ids"].tolist()


def test_the_folder_is_as_it_should_be(folder):
    config = json.loads((folder / "config.json").read_text())
    assert (config["segment_seconds"], config["max_audio_seconds"], config["num_query_tokens"]) == (10, 10, 1)
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (4, 32)
    assert all(f"{name}_proj" in adapter["target_modules"] for name in "qkvo")
    wrong = [check for check in check_files(folder) if check.status == "failed"]
    assert not wrong


def test_the_prompt_is_that_of_training(folder):
    processor = AutoProcessor.from_pretrained(folder)
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Owl"}]
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert processor.apply_chat_template(turns) == (
        f"<|begin_of_text|>{header.format('user')}Hello.<|eot_id|>{header.format('assistant')}Owl<|end_of_text|>"
    )
    text = processor.apply_transcription_request(WAVEFORM, tokenize=False)[0]
    assert text == (
        f"<|begin_of_text|>{header.format('user')}<Audio><|audio|></Audio> Caption the audio.<|eot_id|>"
        + header.format("assistant")
    )
    turns[0]["content"] = QUESTION[0]["content"]
    inputs = processor.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"output_labels": True}
    )
    assert processor.decode(inputs["labels"][inputs["labels"] >= 0]) == "Owl<|end_of_text|>"


def test_a_file_of_its_training_has_what_was_trained_only(folder, tmp_path):
    tensors = load_file(NATURELM / "hub" / "model.safetensors")
    trained = {name: tensor for name, tensor in tensors.items() if not name.startswith(("llama", "beats."))}
    trained |= {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    torch.save({"model": trained}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="has no BEATs in it: give the one that it was trained on with --beats"):
        convert_naturelm(tmp_path / "checkpoint.pth", LLM, tmp_path / "out", qformer_heads=4)
    beats = {
        "cfg": json.loads((NATURELM / "hub" / "config.json").read_text())["beats_cfg"],
        "model": {name.removeprefix("beats."): tensors[name] for name in tensors if name.startswith("beats.")},
    }
    torch.save(beats, tmp_path / "beats.pt")
    out = convert_naturelm(
        tmp_path / "checkpoint.pth", LLM, tmp_path / "out", beats=tmp_path / "beats.pt", qformer_heads=4
    )
    for name in ("model.safetensors", "adapter_model.safetensors"):
        expected, found = load_file(folder / name), load_file(out / name)
        assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in found)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    def convert(source=NATURELM / "hub", llm=LLM, **settings):
        convert_naturelm(source, llm, tmp_path / "out", **{"qformer_heads": 4, **settings})

    changed = Path(shutil.copytree(LLM, tmp_path / "llm"))
    weights = load_file(changed / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is another LLM than the one in .*layers.1.mlp.up_proj.weight differs"):
        convert(llm=changed)
    with pytest.raises(ValueError, match="has a BEATs in it, trained with the rest: leave out --beats"):
        convert(beats="beats.pt")
    hub = Path(shutil.copytree(NATURELM / "hub", tmp_path / "hub"))
    settings = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(settings | {"max_pooling": True}))
    with pytest.raises(ValueError, match="has no Q-Former"):
        convert(hub)
    (hub / "config.json").write_text(json.dumps(settings))
    tensors = load_file(hub / "model.safetensors")
    save_file(tensors | {"other.weight": torch.ones(1)}, hub / "model.safetensors")
    with pytest.raises(ValueError, match="no place for: other.weight"):
        convert(hub)
    del tensors["audio_query_tokens"]
    save_file(tensors, hub / "model.safetensors")
    with pytest.raises(ValueError, match="is no NatureLM-audio: it has no `audio_query_tokens`"):
        convert(hub)
    assert not (tmp_path / "out").exists()
