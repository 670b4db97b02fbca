# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The example that fine-tunes without this project's tools, on a model as the Hub has it and a CSV as users have it."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tiny_training import TEXTS, save_model, tones
from transformers import AutoModelForMultimodalLM


ROOT = Path(__file__).parents[1]
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


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 60
    assert "training_salmonn" not in EXAMPLE.read_text()
