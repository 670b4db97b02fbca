# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn check-conversion`: a sound model passes, and each kind of damage is found and named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cli_salmonn.main import main
from configuration_salmonn import SalmonnConfig
from conversion_salmonn import answer_checks
from conversion_salmonn.answer_checks import check_loaded
from conversion_salmonn.convert_salmonn import convert_salmonn
from conversion_salmonn.file_checks import RELEASED, _compare_with_released, check_files
from conversion_salmonn.loading import load_with_adapter
from modeling_salmonn import SalmonnForConditionalGeneration


FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    parts = FIXTURES / "salmonn"
    return convert_salmonn(
        parts / "salmonn_tiny.pth",
        parts / "whisper",
        parts / "llama",
        FIXTURES / "beats" / "BEATs_tiny.pt",
        tmp_path_factory.mktemp("converted") / "model",
        qformer_heads=4,
    )


@pytest.fixture
def folder(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "model")


@pytest.fixture(scope="module")
def loaded(converted):
    return load_with_adapter(converted, dtype="float32")


def by_name(checks) -> dict:
    return {check.name: check for check in checks}


def change_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_tensors(file: Path, change) -> None:
    """Applies `change` to the tensors of a safetensors file, whose metadata stay."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata)


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_files_of_a_sound_model(converted):
    checks = by_name(check_files(converted))
    assert {name for name, check in checks.items() if check.status != "passed"} == {"released settings"}
    assert checks["adapter"].detail == "LoRA of rank 8, alpha 32, scale 4"
    assert checks["features"].detail == "88 audio tokens for 30 s"


def put_nan(tensors):
    tensors["model.beats.layers.0.fc1.weight"][0, 0] = torch.nan


def drop(tensors):
    del tensors["model.connector.query_tokens"]


def widen(tensors):
    tensors["model.connector.query_tokens"] = torch.zeros(1, 2, 64)


def other_llm(tensors):
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    tensors[name] = torch.randn_like(tensors[name])


def untrained(tensors):
    tensors[min(name for name in tensors if "lora_B" in name)].zero_()


def infinite(tensors):
    tensors[min(name for name in tensors if "lora_A" in name)][0, 0] = torch.inf


@pytest.mark.parametrize(
    ("file", "change", "name", "message"),
    [
        ("model", put_nan, "finite weights", "NaN or infinity in model.beats.layers.0.fc1.weight"),
        ("model", drop, "tensors", "lacks these tensors: model.connector.query_tokens"),
        ("model", widen, "tensors", r"model.connector.query_tokens \(1, 2, 64\) instead of"),
        (
            "model",
            other_llm,
            "base weights",
            "1 of 105 parameters differ, such as language_model.layers.1.mlp.up_proj",
        ),
        ("adapter_model", untrained, "adapter", "LoRA is untrained, all zeros, in "),
        ("adapter_model", infinite, "finite adapter", "NaN or infinity in base_model"),
    ],
)
def test_damaged_tensors_are_found(folder, file, change, name, message):
    change_tensors(folder / f"{file}.safetensors", change)
    failed = by_name(check for check in check_files(folder) if check.status == "failed")
    assert failed.keys() == {name}
    with pytest.raises(ValueError, match=message):
        raise ValueError(failed[name].detail)


@pytest.mark.parametrize(
    ("file", "values", "name", "message"),
    [
        ("config.json", {"audio_token_id": 599}, "placeholder", "is 600 to the tokenizer and 599 to the model"),
        ("config.json", {"transcription_prompt_ids": None}, "placeholder", "no `transcription_prompt_ids`"),
        ("config.json", {"transcription_prompt_ids": [1, 600]}, "placeholder", "are not what the tokenizer makes"),
        ("config.json", {"max_audio_seconds": 10}, "features", "max_audio_seconds is 30 and not 10"),
        ("config.json", {"model_type": "llama"}, "configuration", "is of type 'llama'"),
        ("processor_config.json", {"num_query_tokens": 2}, "features", "num_query_tokens is 2 and not 1"),
        ("adapter_config.json", {"r": None}, "adapter", "it has no LoRA"),
    ],
)
def test_settings_that_do_not_go_together_are_found(folder, file, values, name, message):
    if "audio_token_id" in values:  # which the prompt holds
        values = values | {"transcription_prompt_ids": [1, values["audio_token_id"]]}
    change_json(folder / file, **values)
    failed = by_name(check for check in check_files(folder) if check.status == "failed")
    assert failed.keys() == {name} and message in failed[name].detail


def test_lost_files_are_found(folder):
    (folder / "adapter_config.json").unlink()
    assert by_name(check_files(folder))["adapter"].status == "failed"
    assert by_name(check_files(folder, needs_adapter=False))["adapter"].status == "skipped"
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    assert by_name(check_files(folder))["placeholder"].status == "failed"
    (folder / "model.safetensors").unlink()
    assert "has no weights" in by_name(check_files(folder))["tensors"].detail


@pytest.mark.parametrize(("width", "layers", "heads", "intermediate"), [(5120, 40, 40, 13824), (4096, 32, 32, 11008)])
def test_sizes_of_the_released_models(width, layers, heads, intermediate):
    """33.33 and 30.19 million trained parameters, as the paper's 33 million say."""
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    text = {"model_type": "llama", "vocab_size": 32001, "intermediate_size": intermediate, **sizes}
    config = SalmonnConfig(text_config=text)
    with torch.device("meta"):
        weights = SalmonnForConditionalGeneration(config).state_dict()
    lora = {
        f"{layer}.{name}.lora_{matrix}": torch.empty(8, width, device="meta")
        for layer in range(layers)
        for name in ("q_proj", "v_proj")
        for matrix in "AB"
    }
    check = _compare_with_released(config, {"r": 8, "lora_alpha": 32}, lora, weights)
    name, millions = RELEASED[width]
    assert check.status == "passed"
    assert check.detail == f"those of {name}, {millions} million trained parameters"
    check = _compare_with_released(config, {"r": 8, "lora_alpha": 16}, lora, weights)
    assert check.status == "failed" and "the scale of LoRA is 2 and not 4" in check.detail
    config.num_query_tokens = 2
    lora.popitem()
    check = _compare_with_released(config, {"r": 8, "lora_alpha": 32}, lora, weights)
    assert "num_query_tokens is 2 and not 1" in check.detail


# ----------------------------------------------------------------------------------------------------------------------
# Answers


def test_answers_of_a_sound_model(loaded):
    checks = by_name(check_loaded(*loaded))
    assert {name for name, check in checks.items() if check.status != "passed"} == {"speech"}
    assert checks["speech"].status == "skipped"


def fail(model, processor, speech=None) -> set[str]:
    return {check.name for check in check_loaded(model, processor, speech) if check.status == "failed"}


def test_padding_on_the_wrong_side_is_found(loaded, monkeypatch):
    model, processor = loaded
    wrong = processor.apply_chat_template

    def pad_right(conversations, **kwargs):
        """A prompt of its own length, after which a batch has tokens that are not hidden from the answer."""
        inputs = wrong(conversations, **kwargs)
        if len(conversations) > 1:
            filler = torch.ones(len(conversations), 2, dtype=torch.long)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], filler], dim=1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], filler], dim=1)
        return inputs

    monkeypatch.setattr(processor, "apply_chat_template", pad_right)
    assert fail(model, processor) == {"batch as single"}


def test_a_deaf_model_is_found(loaded, monkeypatch):
    model, processor = loaded
    own = model.model._connect

    def connect(*args, **kwargs):
        return own(*args, **kwargs) * 0

    monkeypatch.setattr(model.model, "_connect", connect)
    assert fail(model, processor) == {"audio matters"}


def test_lora_that_is_off_is_found(loaded):
    model, processor = loaded
    model.disable_adapters()
    try:
        assert "LoRA acts" in fail(model, processor)
    finally:
        model.enable_adapters()


def test_dropout_is_found(loaded):
    model, processor = loaded
    model.generation_config.do_sample = False
    model.train()
    try:
        assert fail(model, processor) & {"same twice", "batch as single"}
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("ids", "name"), [([2], "an answer"), ([7] * answer_checks.MAX_NEW_TOKENS, "an answer"), ([7, 8, 9], None)]
)
def test_empty_and_endless_answers_are_found(loaded, monkeypatch, ids, name):
    model, processor = loaded

    def generate(input_ids=None, **kwargs):
        return torch.cat([input_ids, torch.tensor([ids])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    assert fail(model, processor) == ({name} if name else set())


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("the weather is very nice today and we'll go for a walk", "passed"),
        ("The weather is nice", "failed"),
        ("", "failed"),
    ],
)
def test_a_transcript_needs_half_of_the_words(loaded, monkeypatch, text, status):
    model, processor = loaded
    monkeypatch.setattr(processor.tokenizer.__class__, "decode", lambda *args, **kwargs: text)
    check = answer_checks._check_speech(model, processor, answer_checks.make_clips()[0])
    assert check.status == status


# ----------------------------------------------------------------------------------------------------------------------
# The command


def test_command(folder, capsys):
    assert main(["check-conversion", str(folder), "--files-only"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("passed   configuration") and lines[-1] == "9 checks, 0 failed"
    change_tensors(folder / "model.safetensors", put_nan)
    assert main(["check-conversion", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False and report["model"] == str(folder)
    assert report["checks"][-1] == {
        "name": "loading",
        "status": "skipped",
        "detail": "the model is not loaded before its files are right",
    }


def test_command_loads_the_model(converted, capsys, monkeypatch):
    monkeypatch.setattr("cli_salmonn.check_conversion._speak", lambda: answer_checks.make_clips()[0])
    assert main(["check-conversion", str(converted), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in report["checks"] if check["status"] == "failed"] == ["speech"]
    assert any(check["name"] == "loading" and "parameters as float32" in check["detail"] for check in report["checks"])


def test_what_is_no_model_is_one_line(tmp_path, capsys):
    for name in (tmp_path, tmp_path / "gone"):
        assert main(["check-conversion", str(name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
