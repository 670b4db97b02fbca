# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The example that fine-tunes without this project's tools, on a model as the Hub has it and a CSV as users have it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from peft.utils import load_peft_weights
from tiny_training import TEXTS, save_model, small_model, small_processor, tones
from transformers import AutoModelForMultimodalLM, AutoProcessor

from examples.finetune_with_trainer import CollateQuestions, finetune


ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "finetune_with_trainer.py"
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from finetune_with_trainer import finetune
trainer = finetune(*sys.argv[2:], max_steps=12, learning_rate=3e-3, logging_steps=1, report_to="none", disable_tqdm=True)
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
assert losses[-1] < 0.8 * losses[0], losses
assert not any(name.endswith("_salmonn") and not name.startswith("transformers_modules") for name in sys.modules)
"""


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "clips").mkdir()
    with open(tmp_path / "data.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["audio", "question", "answer"])
        writer.writeheader()
        for number in range(8):
            soundfile.write(tmp_path / "clips" / f"{number}.wav", tones(number), 16000)
            row = {
                "audio": f"clips/{number}.wav",
                "question": "What is said?",
                "answer": TEXTS[5],
            }
            writer.writerow(row)
    return tmp_path / "data.csv"


def test_it_learns_and_saves_an_adapter(tmp_path, data):
    """In a process and a folder that know nothing of this project: the code comes with the checkpoint."""
    base = save_model(tmp_path / "base")
    command = [sys.executable, "-c", SCRIPT, str(EXAMPLE.parent), str(base), str(data), str(tmp_path / "out")]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    assert result.returncode == 0, result.stderr[-3000:]
    model = AutoModelForMultimodalLM.from_pretrained(base)
    model.load_adapter(str(tmp_path / "out"))
    assert model.model.connector.modules_to_save["default"].query_tokens.shape[1] == 1


def test_it_goes_on_with_the_adapter_of_a_model(tmp_path, data):
    """As every converted SALMONN has one: what it knew is not lost, and its settings stay."""
    model = small_model()
    model.add_adapter(model.lora_config(r=3, lora_alpha=6))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.half().save_pretrained(tmp_path / "base")
    small_processor().save_pretrained(tmp_path / "base")
    settings = {"max_steps": 4, "learning_rate": 1e-3, "report_to": "none", "disable_tqdm": True, "use_cpu": True}

    trainer = finetune(str(tmp_path / "base"), str(data), str(tmp_path / "out"), logging_steps=1, **settings)

    trained, settings = trainer.model, json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (3, 6)
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    before, after = (
        {name: tensor.float() for name, tensor in load_peft_weights(str(tmp_path / name), "cpu").items()}
        for name in ("base", "out")
    )
    assert before.keys() == after.keys()
    changes = [(after[name] - tensor).abs().max().item() for name, tensor in before.items()]
    assert 0 < max(changes) < 0.01  # four steps away from where it was, not drawn anew
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model.delete_adapter("default")
    model.load_adapter(tmp_path / "out")
    rows = [{"audio": "clips/0.wav", "question": "What is said?", "answer": TEXTS[5]}]
    batch = CollateQuestions(AutoProcessor.from_pretrained(tmp_path / "base"), data.parent)(rows)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, trained.eval()(**batch).loss)


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    assert "training_salmonn" not in EXAMPLE.read_text()
