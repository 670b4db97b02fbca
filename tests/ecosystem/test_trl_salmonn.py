"""TRL on clips: the examples of SFT and DPO, on the settings of the shipped `salmonn-nano`."""

import csv
import json
import sys
from pathlib import Path

import pytest
import soundfile as sf
import torch
from datasets import Dataset
from peft import PeftModel
from tiny_nano import save_nano
from transformers import AutoModelForMultimodalLM, AutoProcessor

from tiny_salmonn import ask, noise, question


pytest.importorskip("trl")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
QUIET = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 1,
    "bf16": False,
}
COLUMNS = ("audio", "question", "answer", "chosen", "rejected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_nano(tmp_path_factory.mktemp("nano") / "salmonn-nano", with_adapter=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number, seconds in enumerate((1.3, 2.78, 2.75, 0.5)):
        sf.write(folder / f"{number}.wav", noise(seconds, number), 16000)
        rows.append((f"{number}.wav", "What is this?", "a dog barks", "yes", "no, a dog barks"))
    with open(folder / "data.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    with open(folder / "data.jsonl", "w") as file:
        file.writelines(json.dumps(dict(zip(COLUMNS, row))) + "\n" for row in rows)
    return folder


def check_adapter(trainer, output: Path, folder: str, clip) -> None:
    """That it has learnt, and answers as the trained model once it is loaded."""
    base = AutoModelForMultimodalLM.from_pretrained(folder)
    before = dict(base.named_parameters())["model.connector.query_tokens"].clone()
    model = PeftModel.from_pretrained(base, output).eval()
    learnt = [name for name, value in model.state_dict().items() if "lora_B" in name and value.any()]
    assert learnt
    after = model.state_dict()["base_model.model.model.connector.modules_to_save.default.query_tokens"]
    assert not torch.equal(before, after)
    inputs = ask(AutoProcessor.from_pretrained(folder), question(clip))
    trained = trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, trained(**inputs).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("file", ["data.csv", "data.jsonl"])
def test_sft(folder, data, tmp_path, file):
    import trl_sft

    settings = trl_sft.Settings(output_dir=str(tmp_path / "run"), **QUIET)
    trainer = trl_sft.train(trl_sft.Arguments(folder, str(data / file), str(tmp_path / "out")), settings)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2 and all(loss > 0 for loss in losses)
    check_adapter(trainer, tmp_path / "out", folder, noise(1))


def test_models_with_an_adapter_are_merged_first(data, tmp_path):
    import trl_sft

    folder, clip = save_nano(tmp_path / "nano"), noise(1)
    inputs = ask(AutoProcessor.from_pretrained(folder), question(clip))
    settings = trl_sft.Settings(output_dir=str(tmp_path / "run"), **QUIET)
    trainer = trl_sft.train(trl_sft.Arguments(folder, str(data / "data.csv"), str(tmp_path / "out")), settings)
    check_adapter(trainer, tmp_path / "out", str(tmp_path / "out" / "base"), clip)
    with torch.no_grad():
        before, merged = (
            AutoModelForMultimodalLM.from_pretrained(path).eval()(**inputs).logits
            for path in (folder, tmp_path / "out" / "base")
        )
    torch.testing.assert_close(before, merged, atol=1e-3, rtol=1e-3)


def test_sft_that_loses_the_clips_is_refused(folder, data, tmp_path):
    """TRL's own preparation keeps the text: nobody trains a deaf model by accident."""
    from trl import SFTConfig, SFTTrainer

    parts = [{"type": "audio", "audio": str(data / "0.wav"), "text": None}, {"type": "text", "text": "What is this?"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ]
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    settings = SFTConfig(output_dir=str(tmp_path), **{**QUIET, "per_device_train_batch_size": 1})
    trainer = SFTTrainer(
        model,
        settings,
        train_dataset=Dataset.from_list([{"messages": messages}] * 2),
        processing_class=AutoProcessor.from_pretrained(folder),
        peft_config=model.lora_config(),
    )
    with pytest.raises(ValueError, match="audio"):
        trainer.train()


def test_dpo(folder, data, tmp_path):
    import trl_dpo

    settings = trl_dpo.Settings(output_dir=str(tmp_path / "run"), **QUIET)
    trainer = trl_dpo.train(trl_dpo.Arguments(folder, str(data / "data.csv"), str(tmp_path / "out")), settings)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and len(losses) == 2  # the reference is the base model
    check_adapter(trainer, tmp_path / "out", folder, noise(1))


def test_what_is_chosen_and_rejected_hears_the_same_clip(folder, data):
    import trl_dpo

    processor = AutoProcessor.from_pretrained(folder)
    rows = [{"audio": "0.wav", "question": "What?", "chosen": "yes", "rejected": "no"}]
    batch = trl_dpo.CollatePreferences(processor, data)(rows)
    assert torch.equal(*batch["input_features"])
    answers = [processor.decode(ids[mask == 1]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"])]
    assert answers == ["yes<|im_end|>", "no<|im_end|>"]
