# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Model cards, on each way on which one is written: what the Hub reads of them, and that their snippets run."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from setup_file import ROOT

from conversion_salmonn.assemble import assemble
from conversion_salmonn.convert_beats import convert_beats
from conversion_salmonn.convert_salmonn import convert_salmonn
from conversion_salmonn.merge import merge
from conversion_salmonn.parts import read_llm, read_whisper
from nano_salmonn.report.goals import goals_table
from nano_salmonn.report.inputs import Runs
from nano_salmonn.wheel_parts import LLM_ID, WHISPER_ID
from tiny_salmonn import tiny_config, tiny_model, tiny_processor, with_adapter


FIXTURES = ROOT / "tests" / "fixtures"
WHISPER, LLM = FIXTURES / "salmonn" / "whisper", FIXTURES / "salmonn" / "llama"
BEATS, RELEASED = FIXTURES / "beats" / "BEATs_tiny.pt", FIXTURES / "salmonn" / "salmonn_tiny.pth"
ENCODER = FIXTURES / "beats" / "BEATs_tiny_ssl.pt"
QFORMER = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
NANO_CARD = ROOT / "checkpoints" / "salmonn-nano" / "README.md"

TASK_TYPES = {"wer": "automatic-speech-recognition"}  # the rest is audio-text-to-text
# The scores in the card's metadata, by task.
MEASURED = {
    "nano_asr": ["wer"],
    "nano_asr_dialogue": ["wer"],
    "nano_asr_natural_voice": ["wer"],
    "nano_asr_real": ["wer"],
    "nano_asr_recorded": ["wer"],
    "nano_asr_segments": ["wer"],
    "nano_asr_unseen_voice": ["wer"],
    "nano_audio_question": ["accuracy_strict"],
    "nano_caption": ["rouge_l"],
    "nano_gender": ["accuracy"],
    "nano_keywords": ["following_rate"],
    "nano_music": ["accuracy"],
    "nano_music_question": ["accuracy_strict"],
    "nano_phones": ["per"],
    "nano_question": ["accuracy_strict"],
    "nano_quiet": ["accuracy"],
    "nano_scene": ["accuracy"],
    "nano_sound": ["accuracy"],
    "nano_sound_order": ["accuracy"],
    "nano_speaker_verification": ["accuracy"],
    "nano_spoken_question": ["accuracy", "following_rate"],
    "nano_story": ["following_rate"],
}


def nano_results() -> list[EvalResult]:
    """The scores of salmonn-nano as the Hub has them, from the file that its run wrote."""
    tasks = json.loads((ROOT / "docs/nano_runs/evaluate/instruct/results.json").read_text())["tasks"]
    return [
        EvalResult(
            task_type=TASK_TYPES.get(tasks[name]["scores"][key]["metric"], "audio-text-to-text"),
            dataset_type=name,
            dataset_name=tasks[name]["description"],
            metric_type=tasks[name]["scores"][key]["metric"],
            metric_name=key,
            metric_value=round(tasks[name]["scores"][key]["value"], 4),
        )
        for name, keys in MEASURED.items()
        for key in keys
    ]


def read_card(folder: Path) -> ModelCard:
    """The card of a folder, whose metadata the Hub would take."""
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))  # invalid metadata would be an error
    assert {"pipeline_tag", "library_name", "license", "language", "tags"} <= metadata_load(
        folder / "README.md"
    ).keys()
    if card.data.license == "other":
        assert card.data.license_name == "of-its-parts"
        assert (folder / card.data.license_link).read_text().startswith("The weights carry the licences of the models")
    return card


def run_snippets(*folders: Path) -> None:
    """Runs the snippets of cards, each in its folder, where nothing of this project can be imported."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    code = f"import os, sys; sys.path += {packages!r}"
    for folder in folders:
        snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        code += f"\nos.chdir({str(folder)!r}); exec({snippet!r}, {{}}); print('ran')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folders[0].parent / "modules")}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=folders[0], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    outputs = done.stdout.split("ran\n")
    assert len(outputs) == len(folders) + 1 and all(output.strip() for output in outputs[:-1])


@pytest.fixture(scope="module")
def assembled(tmp_path_factory):
    """A new model of parts with names on the Hub."""
    whisper, llm = read_whisper(WHISPER), read_llm(LLM)
    whisper.source, llm.source = WHISPER_ID, LLM_ID
    return assemble(whisper, llm, BEATS, tmp_path_factory.mktemp("cards") / "new", qformer=QFORMER, fixed_length=False)


def test_a_model_of_parts(assembled):
    card = read_card(assembled)
    assert card.data.base_model == [WHISPER_ID, LLM_ID] and card.data.base_model_relation == "finetune"
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "audio-text-to-text"
    assert "its connector is random: train it" in card.text
    assert WHISPER_ID in (assembled / "LICENSE.md").read_text()


def test_a_released_model(tmp_path):
    folder = convert_salmonn(RELEASED, WHISPER, LLM, BEATS, tmp_path / "released", qformer_heads=4)
    card = read_card(folder)
    assert card.data.base_model is None  # its parts are folders, whose names mean nothing elsewhere
    assert "This is the whole model." in card.text
    merged = read_card(merge(folder, tmp_path / "merged", dtype="float32"))
    assert merged.data.library_name == "transformers" and "This is the whole model." in merged.text


def test_the_card_has_the_hashes_of_the_code(assembled):
    """Of every file that `trust_remote_code` would run, and these are the project's own."""
    sums = read_card(assembled).text.split("by sha256:")[1].strip().strip("`").strip().splitlines()
    named = {name: digest for digest, name in map(str.split, sums)}
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in assembled.glob("*.py")}
    assert files.items() <= named.items() and {"modeling_salmonn.py", "processing_salmonn.py"} <= files.keys()
    assert all(hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == digest for name, digest in named.items())


def test_models_remember_what_they_are_made_of(assembled, tmp_path):
    """From an assembled model to its adapter and on to a copy of both."""
    from salmonn_transformers import SalmonnForConditionalGeneration

    model = with_adapter(SalmonnForConditionalGeneration.from_pretrained(assembled))
    model.save_pretrained(tmp_path / "adapter", adapter_only=True)
    model.save_pretrained(tmp_path / "whole", repo_id="me/whole")
    adapter, whole = read_card(tmp_path / "adapter"), read_card(tmp_path / "whole")
    assert whole.data.base_model == [WHISPER_ID, LLM_ID]
    assert adapter.data.library_name == "peft" and adapter.data.base_model is None  # its base is a folder
    assert "# me/whole" in whole.text and "'me/whole'" in whole.text
    model.name_or_path = "me/base"
    model.save_pretrained(tmp_path / "named", adapter_only=True)
    named = read_card(tmp_path / "named")
    assert (named.data.base_model, named.data.base_model_relation) == (["me/base"], "adapter")


@pytest.mark.ecosystem
def test_snippets_run(tmp_path):
    """Of a whole model, of an adapter on a base model in a folder, and of both kinds of BEATs."""
    config = tiny_config(fixed_length=False)
    base = tiny_model(config)
    base.save_pretrained(tmp_path / "base")
    tiny_processor(config).save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    with_adapter(base).save_pretrained(tmp_path / "adapter", adapter_only=True)
    tagger = convert_beats(BEATS, tmp_path / "tagger")
    encoder = convert_beats(ENCODER, tmp_path / "encoder")
    run_snippets(tmp_path / "base", tmp_path / "adapter", tagger, encoder)
    for folder, task in ((tagger, "audio-classification"), (encoder, "feature-extraction")):
        data = metadata_load(folder / "README.md")
        assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("mit", "transformers", task)


def test_the_card_of_nano():
    """Its scores are those of its run, in the form in which the Hub shows them."""
    card = ModelCard(NANO_CARD.read_text(encoding="utf-8"))
    data = metadata_load(NANO_CARD)
    assert data["base_model"] == [WHISPER_ID, LLM_ID]
    assert (data["license"], data["language"], data["library_name"]) == ("apache-2.0", "en", "transformers")
    assert "salmonn" in data["tags"]
    assert data["model-index"] == eval_results_to_model_index("salmonn-nano", nano_results())
    assert len(model_index_to_eval_results(data["model-index"])[1]) == len(card.data.eval_results) == 23
    assert goals_table(Runs(ROOT / "docs/nano_runs")) in card.text
