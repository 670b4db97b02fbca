# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks run, on tiny models and for no time, and write what they measured."""

import json
import runpy
import sys

import pytest
import soundfile
import torch
from doc_pages import ROOT

from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor, with_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(fixed_length=False)
    with_adapter(tiny_model(config)).save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    return folder


def run(monkeypatch, name: str, *arguments) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("name", "arguments", "alternatives"),
    [
        ("features", ["--seconds", 1], {"both, at real length", "Whisper's extractor alone"}),
        ("generation", ["--seconds", 2, "--new-tokens", 3], {"a new clip", "another question in a session"}),
        ("training", ["--seconds", 2, "--batch-size", 2], {"a step", "of it, the loader"}),
    ],
)
def test_alternatives_are_measured_in_turns(folder, tmp_path, monkeypatch, capsys, name, arguments, alternatives):
    pytest.importorskip("matplotlib")
    model = [] if name == "features" else ["--model", folder]
    run(monkeypatch, name, *model, *arguments, "--repeats", 1, "--output", tmp_path)
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    assert alternatives <= {row["name"] for row in rows}
    assert all(len(row["cpu_seconds"]) == len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in rows)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "ratio" in capsys.readouterr().out


def test_ways_of_decoding_are_measured_on_clips_with_texts(folder, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "clip.wav", noise(2), 16000)
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps({"audio": "clip.wav", "text": "hello"}) + "\n")
    run(monkeypatch, "decoding", manifest, "--model", folder, "--max-new-tokens", 3, "--output", tmp_path)
    rows = {row["name"]: row["cpu_seconds"] for row in json.loads((tmp_path / "decoding.json").read_text())["rows"]}
    assert {"greedy", "drafts from the prompt", "four beams", "greedy, bfloat16"} <= rows.keys()
    assert all(len(seconds) == 1 for seconds in rows.values()) and "WER" in capsys.readouterr().out


def test_the_gpu_benchmark_can_be_rehearsed(monkeypatch, tmp_path):
    output = tmp_path / "gpu.json"
    sizes = ("--tiny", "--models", "SALMONN", "--batches", 1, "--repeats", 1, "--device", "cpu")
    run(monkeypatch, "gpu", "all", *sizes, "--output", output)
    assert [row["question"] for row in json.loads(output.read_text())] == ["encode", "generate", "train"]


def test_a_floor_is_made_of_the_products_of_the_model(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import encoders

    config = tiny_config()
    extractor = tiny_processor(config).feature_extractor
    model = tiny_model(config).model
    run_encoders, products = encoders.encode(model, extractor, [noise(2)])
    assert run_encoders().pooler_output.shape[1] == 32
    parts = (model.speech_encoder, model.beats, model.connector)
    linear = sum(isinstance(module, torch.nn.Linear) for part in parts for module in part.modules())
    attention = config.speech_config.encoder_layers + config.beats_config.num_hidden_layers
    assert len(products.linears) >= linear and len(products.others) >= attention
    products.run()
