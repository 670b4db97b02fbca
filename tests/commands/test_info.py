# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn info`: what is read of a folder agrees with the model that is in it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cli_salmonn.checkpoint_summary import count_segment_tokens, summarize
from cli_salmonn.main import main
from tiny_salmonn import LLMS, VARIANTS, tiny_config, tiny_model, with_adapter


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`base`, `adapter` of it, `both` in one folder in half precision, and what the models count themselves."""
    folder = tmp_path_factory.mktemp("info")
    model = tiny_model(tiny_config(segment_seconds=30))
    model.save_pretrained(folder / "base", max_shard_size="200KB")
    model = type(model).from_pretrained(folder / "base")
    counts = {"base": model.num_parameters()}
    trained = with_adapter(model)
    counts["adapter"] = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    trained.save_pretrained(folder / "adapter", adapter_only=True)
    trained.half().save_pretrained(folder / "both")
    return folder, counts


def test_parts_are_those_of_the_model(folders):
    folder, counts = folders
    summary = summarize(folder / "base")
    model = tiny_model(tiny_config(segment_seconds=30))
    norms = (model.model.speech_layer_norm, model.model.beats_layer_norm)
    modules = {
        "Whisper": (model.model.speech_encoder,),
        "BEATs": (model.model.beats,),
        "Connector": (model.model.connector, *norms),
        "LLM": (model.model.language_model, model.lm_head),
    }
    assert {part["name"]: part["parameters"] for part in summary["parts"]} == {
        name: sum(p.numel() for module in parts for p in module.parameters()) for name, parts in modules.items()
    }
    assert len(list((folder / "base").glob("*.safetensors"))) > 1
    assert summary["parameters"] == counts["base"] and summary["bytes"] == 4 * counts["base"]
    assert summary["dtype"] == "float32" and summary["adapter"] is None
    linear = [m for m in model.model.language_model.modules() if isinstance(m, torch.nn.Linear)]
    assert summary["memory"] == {
        "float32": 4 * counts["base"],
        "bfloat16": 2 * counts["base"],
        "8-bit": 2 * counts["base"] - sum(m.weight.numel() for m in linear),
        "4-bit": round(2 * counts["base"] - (2 - 0.5625) * sum(m.weight.numel() for m in linear)),
    }


def test_adapters(folders):
    folder, counts = folders
    alone, both = summarize(folder / "adapter"), summarize(folder / "both")
    assert alone["base_model"] == str(folder / "base")
    assert alone["adapter"]["parameters"] == both["adapter"]["parameters"] == counts["adapter"]
    assert (alone["adapter"]["rank"], alone["adapter"]["alpha"], alone["adapter"]["kind"]) == (8, 32, "LORA")
    assert "connector" in alone["adapter"]["modules_to_save"]
    assert alone["parts"] == summarize(folder / "base")["parts"]  # it finds its base
    assert alone["parameters"] == both["parameters"] == counts["base"] + counts["adapter"]
    assert both["dtype"] == "float16" and both["parts"][0]["bytes"] == 2 * both["parts"][0]["parameters"]
    with safe_open(folder / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert alone["adapter"]["bytes"] == sum(file.get_tensor(name).nbytes for name in file.keys())


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_counted_as_the_model_does(variant):
    config = tiny_config(**VARIANTS[variant])
    frames = config.count_frames(config.segment_columns)
    assert count_segment_tokens(config.to_dict()) == config.num_audio_tokens(frames)


def test_beats_alone(tmp_path):
    tiny_model(tiny_config(speech_config=None, segment_seconds=10)).save_pretrained(tmp_path)
    summary = summarize(tmp_path)
    assert [part["name"] for part in summary["parts"]] == ["BEATs", "Connector", "LLM"]
    assert (summary["audio"]["tokens_per_segment"], summary["audio"]["segment_seconds"]) == (29, 10)


@pytest.mark.parametrize("llm", LLMS)
def test_configurations_of_every_kind(tmp_path, llm):
    config = tiny_config(llm, 30, beats_config=None, max_audio_seconds=None)
    tiny_model(config).save_pretrained(tmp_path)
    summary = summarize(tmp_path)
    assert [part["name"] for part in summary["parts"]] == ["Whisper", "Connector", "LLM"]
    assert summary["parts"][-1]["about"].startswith(f"{llm}, 2 layers of width 32")
    assert summary["audio"] == {
        "tokens_per_second": 2.933,
        "tokens_per_segment": 88,
        "segment_seconds": 30,
        "max_audio_seconds": None,
        "fixed_length": True,
    }


def test_packed_weights_are_counted_unpacked(folders, tmp_path):
    """As bitsandbytes saves them: two weights of 4 bits in a byte, and what decodes them beside."""
    shutil.copy(folders[0] / "base" / "config.json", tmp_path)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    tensors = {name: torch.zeros(32, 1, dtype=torch.uint8), f"{name}.absmax": torch.zeros(1)}
    tensors[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(7, dtype=torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    summary = summarize(tmp_path)
    assert summary["parameters"] == 64 and summary["bytes"] == 32 + 4 + 7


def test_text(folders, capsys):
    folder, counts = folders
    assert main(["info", str(folder / "adapter")]) == 0
    text = capsys.readouterr().out
    for expected in (
        "Whisper",
        "2 layers of width 32",
        "qformer, 1 token for each window of 0.333 s",
        "llama, 2 layers of width 32, context of 2048 tokens",
        f"{counts['base'] + counts['adapter']:,}",
        "LORA of rank 8, alpha 32",
        "2.93 tokens a second (88 for 30 s), trained on up to 30 s",
        f"trained on {folder / 'base'}\n",
        "float32 0.8 MB, bfloat16 0.4 MB",
    ):
        assert expected in text


def test_json(folders, capsys):
    assert main(["info", str(folders[0] / "both"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summarize(folders[0] / "both")


def test_an_adapter_without_its_base(folders, tmp_path, capsys):
    adapter = shutil.copytree(folders[0] / "adapter", tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "./gone"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    assert main(["info", str(adapter)]) == 0
    text = capsys.readouterr().out
    assert "Adapter" in text and "trained on ./gone, which is not on this machine" in text and "Whisper" not in text
    assert summarize(adapter)["parts"] is None


def test_what_cannot_be_read(folders, tmp_path, capsys):
    folder = folders[0]
    whole = shutil.copytree(folder / "both", tmp_path / "whole", ignore=shutil.ignore_patterns("adapter*"))
    config = json.loads((whole / "config.json").read_text())

    def complaint(path) -> str:
        assert main(["info", str(path)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "does not exist" in complaint(tmp_path / "gone")
    assert "must be a folder on this machine, got some/id" in complaint("some/id")
    assert "must be a folder or a Hub id, got the file" in complaint(whole / "config.json")
    assert "is no folder of a model" in complaint(tmp_path)
    weights = (whole / "model.safetensors").read_bytes()
    (whole / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "may be truncated" in complaint(whole)
    (whole / "model.safetensors").unlink()
    assert "has no weights as safetensors" in complaint(whole)
    del config["speech_config"]["encoder_layers"]
    (whole / "config.json").write_text(json.dumps(config))
    assert "is not complete: it lacks 'encoder_layers'" in complaint(whole)
    (whole / "config.json").write_text('{"model_type": "llama"}')
    assert "must be a SALMONN, got a model of type 'llama'" in complaint(whole)
    (whole / "config.json").write_text("{")
    assert "cannot be read as JSON" in complaint(whole)


def test_no_torch_is_needed(folders):
    code = (
        "import sys; from cli_salmonn.main import main\n"
        f"assert main(['info', {str(folders[0] / 'both')!r}]) == 0\n"
        "print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["False"], result.stderr
