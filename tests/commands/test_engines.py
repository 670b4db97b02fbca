# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What engines are given: clips of any number of segments, a row each, and the plugin of vLLM as far as it needs no vLLM."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from setup_file import ROOT, read_setup
from torch.nn.utils.rnn import pad_sequence

from cli_salmonn.main import build_parser
from serving_salmonn import vllm_plugin
from serving_salmonn.answerers import Settings
from serving_salmonn.engines import TransformersEngine
from serving_salmonn.requests import check_placeholders, longest_piece, profiled_segments
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor


EXAMPLES = ROOT / "examples" / "serving"
CLIPS = [noise(1.0, 1), noise(9.5, 2), noise(4.0, 3)]  # of one segment of 4 s, of three, of one that is whole
VARIANTS = {
    "fixed length": {},
    "real length": {"fixed_length": False, "num_query_tokens": 2, "pad_last_window": True},
    "speech only": {"fixed_length": False, "beats_config": None},
    "sounds only": {"fixed_length": False, "speech_config": None},
    "segment positions": {"segment_position_embeddings": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_clips_go_through_engines_a_row_each(variant):
    config = tiny_config(segment_seconds=4, **VARIANTS[variant])
    model, processor = tiny_model(config).model, tiny_processor(config)
    text = ["<|audio|> and <|audio|> and <|audio|>"]
    segments = processor(text=text, audio=CLIPS)
    joined = processor(text=text, audio=CLIPS, return_text_replacement_offsets=True)
    rows = config.num_mel_bins + config.num_fbank_bins
    assert [tuple(clip.shape) for clip in joined["input_features"]] == [(400 * n, rows) for n in (1, 3, 1)]
    assert [tuple(mask.shape) for mask in joined["input_features_mask"]] == [(400,), (1200,), (400,)]
    assert "segment_ids" not in joined
    torch.testing.assert_close(joined["input_ids"], segments["input_ids"])

    features = {name: segments[name] for name in processor.feature_extractor.model_input_names}
    with torch.no_grad():
        expected = model.get_audio_features(**features, return_dict=True).pooler_output
        # as the plugin does: all clips of a step together
        clips = zip(joined["input_features"], joined["input_features_mask"])
        apart = zip(*(model.split_clips(clip[None], mask[None]) for clip, mask in clips))
        together = model.get_audio_features(*map(torch.cat, apart), return_dict=True).pooler_output
        # as pipelines do: padded to the longest
        rows_of_clips = (
            pad_sequence(joined[name], batch_first=True) for name in ("input_features", "input_features_mask")
        )
        padded = model.get_audio_features(*rows_of_clips, return_dict=True).pooler_output
        # as vLLM does by itself: clip by clip, the mask in a list of one
        alone = [
            model.get_audio_features(clip[None], input_features_mask=[mask], return_dict=True).pooler_output
            for clip, mask in zip(joined["input_features"], joined["input_features_mask"])
        ]
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(padded, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(alone), expected, atol=1e-4, rtol=1e-4)
    counts = [len(offset["replacement"]) // len("<|audio|>") for offset in joined["text_replacement_offsets"][0]]
    assert counts == list(map(len, alone))


def test_chats_keep_their_segments_where_labels_are_looked_for():
    """Which Transformers finds by the same offsets."""
    processor = tiny_processor(tiny_config(segment_seconds=4))
    inputs = ask(processor, question(CLIPS[1], answer="A dog."), processor_kwargs={"output_labels": True})
    assert inputs["input_features"].shape[0] == 3 and inputs["segment_ids"].tolist() == [0, 1, 2]
    assert (inputs["labels"] != -100).any()


def test_the_plugin_is_registered_and_names_what_is_there(monkeypatch):
    entry = read_setup()[1]["entry_points"]["vllm.general_plugins"]
    assert entry == ["salmonn = serving_salmonn.vllm_plugin:register"]
    registered = {}
    registry = SimpleNamespace(register_model=lambda name, path: registered.update({name: path}))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    vllm_plugin.register()
    ((architecture, path),) = registered.items()
    assert architecture == type(tiny_model(tiny_config())).__name__
    module, name = path.split(":")
    source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    assert name in {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def test_placeholders_are_as_many_as_clips():
    check_placeholders(2, 2)
    with pytest.raises(ValueError, match="one audio placeholder for each clip, got 2 for 1 clips"):
        check_placeholders(2, 1)


@pytest.mark.parametrize(("longest", "expected"), [(30, 4), (2.5, 2.5), (None, None)])
def test_pieces_of_recordings(longest, expected):
    config = tiny_config(segment_seconds=4, max_audio_seconds=longest)
    assert longest_piece(tiny_processor(config).feature_extractor) == expected


@pytest.mark.parametrize(("longest", "expected"), [(30, 4), (2.5, 2.5), (None, 4)])
def test_pieces_that_fill_batches(longest, expected, tmp_path):
    config = tiny_config(segment_seconds=4, max_audio_seconds=longest)
    tiny_processor(config).save_pretrained(tmp_path)
    assert TransformersEngine(Settings(str(tmp_path))).piece_seconds == expected


def test_memory_is_measured_by_what_encoders_read_at_once():
    config = tiny_config(segment_seconds=30, max_segments_at_once=16)  # 88 tokens for a segment
    assert profiled_segments(config, 4096, 1) == 16
    assert profiled_segments(config, 4096, 4) == 4
    assert profiled_segments(config, 300, 1) == 3
    assert profiled_segments(config, 50, 9) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Examples


def read_documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8")))


def test_examples_give_commands_that_exist():
    commands = [
        line.strip().removeprefix("-m cli_salmonn ").removeprefix("salmonn ")
        for path in EXAMPLES.glob("*.sbatch")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(("-m cli_salmonn", "salmonn "))
    ]
    commands.append(read_documents("kubernetes/transcribe.yaml")[0]["spec"]["entrypoint"].removeprefix("salmonn "))
    assert len(commands) == 3
    for command in commands:
        words = command.replace("$((${#nodes[@]} * gpus))", "8").replace('"', "").split()
        assert build_parser().parse_args(words).output
    for path in EXAMPLES.glob("*.sbatch"):
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_examples_ask_for_the_same_server():
    service = read_documents("compose.yaml")[0]["services"]["salmonn"]
    deployment, front = read_documents("kubernetes/vllm.yaml")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    for arguments in (service["command"], container["args"]):
        assert not arguments[0].startswith("-") and all(word.startswith("--") for word in arguments[1:])
        assert {"--served-model-name=salmonn", "--dtype=bfloat16", "--max-model-len=4096"} <= set(arguments)
        (middleware,) = (word.partition("=")[2] for word in arguments if word.startswith("--middleware="))
        assert hasattr(importlib.import_module(middleware.rpartition(".")[0]), middleware.rpartition(".")[2])
    assert json.loads(service["command"][-1].partition("=")[2]) == {"audio": 4}
    assert front["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    ray = read_documents("kubernetes/transcribe.yaml")[0]["spec"]["rayClusterSpec"]
    groups = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
    assert all(group["template"]["spec"]["volumes"] for group in groups)
