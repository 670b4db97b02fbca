# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The model: what is given to `forward` and `generate`, and files of weights that are damaged."""

import json
import shutil

import pytest
import torch
from refusals import refuses
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM

from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor


NAN = float("nan")


@pytest.fixture(scope="module")
def parts():
    config = tiny_config(segment_seconds=2)
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = ask(processor, question(noise(1)), question(noise(1.5), text="Who?"))
    return model, dict(inputs)


def replaced(tensor: torch.Tensor, value) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


def without_row(mask: torch.Tensor) -> torch.Tensor:
    mask = mask.clone()
    mask[1] = 0
    return mask


FORWARD = {
    "features NaN": ("input_features", lambda x: replaced(x, NAN)),
    "features inf": ("input_features", lambda x: replaced(x, float("inf"))),
    "features as a list": ("input_features", lambda x: x.tolist()),
    "features as an array": ("input_features", lambda x: x.numpy()),
    "features of two axes": ("input_features", lambda x: x[0]),
    "features of other rows": ("input_features", lambda x: x[:, 1:]),
    "features of other frames": ("input_features", lambda x: x[..., 1:]),
    "no segments": ("input_features", lambda x: x[:0]),
    "mask of features too short": ("input_features_mask", lambda x: x[:, 1:]),
    "mask of features of one": ("input_features_mask", lambda x: x[:1]),
    "segments of another number": ("segment_ids", lambda x: x[:1]),
    "ids negative": ("input_ids", lambda x: replaced(x, -1)),
    "ids beyond the vocabulary": ("input_ids", lambda x: replaced(x, 601)),
    "ids far beyond": ("input_ids", lambda x: replaced(x, 2**40)),
    "ids as floats": ("input_ids", lambda x: x.float()),
    "ids as bool": ("input_ids", lambda x: x > 0),
    "ids as a list": ("input_ids", lambda x: x.tolist()),
    "ids of one axis": ("input_ids", lambda x: x[0]),
    "ids of three axes": ("input_ids", lambda x: x[None]),
    "mask too short": ("attention_mask", lambda x: x[:, 1:]),
    "mask too long": ("attention_mask", lambda x: torch.cat([x, x], dim=1)),
    "mask of one row": ("attention_mask", lambda x: x[:1]),
    "mask of zeros": ("attention_mask", lambda x: 0 * x),
    "one row of zeros": ("attention_mask", without_row),
    "mask negative": ("attention_mask", lambda x: -x),
    "mask of twos": ("attention_mask", lambda x: 2 * x),
    "mask NaN": ("attention_mask", lambda x: replaced(x.float(), NAN)),
}


@pytest.mark.parametrize("case", FORWARD)
def test_forward_and_generate(parts, case):
    model, inputs = parts
    name, change = FORWARD[case]
    changed = {**inputs, name: change(inputs[name])}
    with refuses(f"`{name}`"):
        model(**changed)
    with refuses(f"`{name}`" if name != "input_ids" else ""):
        model.generate(**changed, max_new_tokens=1)


LABELS = {
    "beyond the vocabulary": lambda ids: replaced(ids, 9999),
    "negative": lambda ids: replaced(ids, -1),
    "all -100": lambda ids: ids * 0 - 100,
    "the first only": lambda ids: torch.cat([ids[:, :1], 0 * ids[:, 1:] - 100], dim=1),
    "floats": lambda ids: ids.float(),
    "a list": lambda ids: ids.tolist(),
    "too short": lambda ids: ids[:, 1:],
    "one row": lambda ids: ids[:1],
    "one axis": lambda ids: ids[0],
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(parts, case):
    model, inputs = parts
    with refuses("`labels`"):
        model(**inputs, labels=LABELS[case](inputs["input_ids"]))


def test_a_share_of_a_batch_may_have_no_label(parts):
    """As where gradients are accumulated: the loss of the rows that have none is zero."""
    model, inputs = parts
    labels = torch.full_like(inputs["input_ids"], -100)
    assert model(**inputs, labels=labels, num_items_in_batch=torch.tensor(5)).loss == 0


EMBEDS = {
    "another width": lambda x: x[:, 1:],
    "another number": lambda x: x[1:],
    "one axis": lambda x: x[0],
    "integers": lambda x: x.long(),
    "a list": lambda x: x.tolist(),
    "NaN": lambda x: replaced(x, NAN),
}


@pytest.mark.parametrize("case", EMBEDS)
def test_audio_embeds(parts, case):
    model, inputs = parts
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    audio = {name: inputs[name] for name in ("input_features", "input_features_mask", "segment_ids")}
    embeds = EMBEDS[case](model.get_audio_features(**audio).pooler_output.detach())
    word = "audio tokens" if case == "another number" else "`audio_embeds`"
    with refuses(word):
        model(**prompt, audio_embeds=embeds)
    with refuses(word):
        model.generate(**prompt, audio_embeds=embeds, max_new_tokens=1)


def test_prompts_without_their_audio(parts):
    model, inputs = parts
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    for function in (model, lambda **prompt: model.generate(**prompt, max_new_tokens=1)):
        with refuses("audio tokens"):
            function(**prompt)


GENERATION = [
    *[("num_beams", value) for value in (0, -1, 1.5, "2", 100_000, True)],
    *[("num_return_sequences", value) for value in (0, -1, 10**6)],
    *[("max_new_tokens", value) for value in (0, -5, 1.5, "9")],
    *[("lora_scale", value) for value in (-1, NAN, "1")],
    *[("inputs_embeds", value) for value in ([1], "a")],
    ("attention_mask", [1, 1]),
]


@pytest.mark.parametrize(("name", "value"), GENERATION)
def test_arguments_of_generate(parts, name, value):
    model, inputs = parts
    with refuses(f"`{name}`"):
        model.generate(**{**inputs, "max_new_tokens": 1, name: value})


def test_a_cache_and_its_longer_mask_pass(parts):
    """Decoding steps come with one id, a mask of all that was before, and are not looked at."""
    model, inputs = parts
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
        ids = output.logits[:, -1:].argmax(-1)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(ids)], dim=1)
        step = model(input_ids=ids, attention_mask=mask, past_key_values=output.past_key_values)
    assert step.logits.shape[:2] == ids.shape


# ----------------------------------------------------------------------------------------------------------------------
# Files


@pytest.fixture(scope="module")
def saved(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("saved")
    parts[0].save_pretrained(folder)
    return folder


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_weights(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


WEIGHTS = {
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "saved"),
    "text": (lambda f: (f / "model.safetensors").write_text("no weights, but more than eight bytes"), "saved"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-999]), "saved"),
    "a header of 2**60": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"), "saved"),
    "other sizes": (lambda f: change_config(f, num_query_tokens=2), "saved"),
    "no connector": (
        lambda f: change_weights(f, lambda w: {n: t for n, t in w.items() if "connector" not in n}),
        "connector",
    ),
    "no projection": (
        lambda f: change_weights(f, lambda w: {n: t for n, t in w.items() if "connector.projection" not in n}),
        "connector.projection",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ""),
    "no configuration": (lambda f: (f / "config.json").unlink(), "config.json"),
    "damaged configuration": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "a configuration misspelt": (lambda f: change_config(f, num_query_token=3), "num_query_tokens"),
    "a configuration of another type": (lambda f: change_config(f, num_query_tokens="1"), "num_query_tokens"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_files(saved, tmp_path, case):
    folder = tmp_path / "saved"
    shutil.copytree(saved, folder)
    damage, word = WEIGHTS[case]
    damage(folder)
    with refuses(word):
        SalmonnForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("dtype", ["float99", "nonsense", "Tensor"])
def test_dtypes(saved, dtype):
    for loader in (SalmonnForConditionalGeneration, AutoModelForMultimodalLM):
        with refuses("`dtype`", repr(dtype)):
            loader.from_pretrained(saved, dtype=dtype)


def test_saving_onto_a_file(parts, tmp_path):
    (tmp_path / "file").write_text("mine")
    with refuses("`save_directory`"):
        parts[0].save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
