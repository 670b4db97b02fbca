# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A recipe in two processes gives the losses of one process on the same global batches."""

import json
import shutil
from pathlib import Path

import pytest
from forked import run_forked
from safetensors import safe_open
from tiny_training import save_clips, save_model, shrink
from transformers import AutoModelForMultimodalLM

from base_weights_salmonn import find_base_weights


STEPS, GLOBAL_BATCH = 4, 8


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("distributed")
    # texts of different lengths: a mean of each process's mean would be another loss
    texts = [" ".join(["dog talk"] * (1 + number % 4)) for number in range(16)]
    return {
        "model": save_model(folder / "base"),
        "train": [str(save_clips(folder / "clips", texts=texts))],
        "max_steps": STEPS,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "steps",
        "save_steps": 2,
    }


def launch(processes: int, folder: Path, with_fsdp: bool = False, resume: bool = False, **fields) -> list[float]:
    """The losses of all steps of a run in so many processes."""
    fields |= {"output_dir": folder, "per_device_train_batch_size": GLOBAL_BATCH // processes}
    recipe = folder / "pretrain.yaml"
    recipe.write_text(json.dumps({"extends": "pretrain", **shrink("pretrain", **fields)}))  # JSON is YAML
    run_forked(["train", str(recipe), *(["--resume"] if resume else [])], processes, folder, with_fsdp)
    return [loss for _, loss in json.loads((folder / "curves.json").read_text())["loss"]]


@pytest.fixture(scope="module")
def single(fields, tmp_path_factory) -> list[float]:
    return launch(1, tmp_path_factory.mktemp("single"), **fields)


def test_ddp_equals_one_process(fields, single, tmp_path):
    losses = launch(2, tmp_path, **fields)

    assert len(losses) == STEPS
    assert losses == pytest.approx(single, rel=1e-4)
    # each process keeps its own random state, and the adapter is whole
    assert {"rng_state_0.pth", "rng_state_1.pth", "adapter_model.safetensors"} <= {
        path.name for path in (tmp_path / "checkpoint-2").iterdir()
    }


def test_fsdp2_equals_one_process(fields, single, tmp_path):
    sharding = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}

    losses = launch(2, tmp_path, with_fsdp=True, **fields, fsdp=True, fsdp_config=sharding)

    assert losses == pytest.approx(single, rel=1e-4)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert (tmp_path / "checkpoint-4" / "optimizer.bin").exists()  # `optimizer.pt` if nothing had been sharded
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", framework="pt") as file:
        recorded = json.loads(file.metadata()["base_weights"])
    base = AutoModelForMultimodalLM.from_pretrained(fields["model"])
    assert recorded.keys() == find_base_weights(base, base.state_dict()).keys()  # sharded ones are not left out
    base.load_adapter(tmp_path / "adapter")


@pytest.mark.slow
def test_fsdp2_resumes(fields, single, tmp_path):
    """Sharded weights and optimizer take up what a checkpoint of the trained part holds."""
    sharding = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
    fields = fields | {"fsdp": True, "fsdp_config": sharding}
    launch(2, tmp_path, with_fsdp=True, **fields)
    shutil.rmtree(tmp_path / "checkpoint-4")
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert "pytorch_model_fsdp.bin" not in names  # the frozen weights are not in it

    losses = launch(2, tmp_path, with_fsdp=True, resume=True, **fields)

    assert losses == pytest.approx(single, rel=1e-4)
