"""The trained part as a PEFT folder: saved, loaded, refused by other base models, and merged."""

import json
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

import base_weights_salmonn
from base_weights_salmonn import find_other_weights, sample_weights
from modeling_salmonn import SalmonnForConditionalGeneration, SalmonnModel
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


OLD = Path(__file__).parent / "fixtures" / "adapters" / "with_fingerprint"


@pytest.fixture(scope="module")
def inputs():
    return ask(tiny_processor(tiny_config()), question(noise(2)))


@pytest.fixture
def folders(tmp_path):
    """A base model, the same with an adapter beside it, and the adapter alone."""
    model = tiny_model(tiny_config())
    model.save_pretrained(tmp_path / "base")
    model = with_adapter(model)
    model.save_pretrained(tmp_path / "both")
    model.save_pretrained(tmp_path / "adapter", adapter_only=True)
    return tmp_path, model


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits[..., :600]


def test_an_adapter_is_an_ordinary_peft_folder(folders):
    folder, model = folders
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "LICENSE.md",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (8, 32, "LORA")
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    names = {"base_model.model." + n.replace(".default", "").replace(".modules_to_save", "") for n in trained}
    assert set(tensors) == names
    lora = {name for name in tensors if "lora_" in name}
    assert len(lora) == 2 * 2 * 2 and all(".language_model." in name for name in lora)  # layers, q and v, A and B


def test_adapters_load_every_way(folders, inputs):
    folder, model = folders
    expected = logits(model, inputs)
    base = logits(SalmonnForConditionalGeneration.from_pretrained(folder / "base"), inputs)
    assert (base - expected).abs().max() > 1e-3

    both = SalmonnForConditionalGeneration.from_pretrained(folder / "both")
    assert torch.equal(logits(both, inputs), expected)
    assert all(torch.equal(both.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    alone = SalmonnForConditionalGeneration.from_pretrained(folder / "base")
    alone.load_adapter(folder / "adapter")
    assert torch.equal(logits(alone, inputs), expected)
    peft = PeftModel.from_pretrained(
        SalmonnForConditionalGeneration.from_pretrained(folder / "base"), folder / "adapter"
    )
    assert torch.equal(logits(peft, inputs), expected)
    headless = SalmonnModel.from_pretrained(folder / "both")
    with torch.no_grad():
        states = headless.eval()(**inputs).last_hidden_state
    assert torch.equal(states, model.model(**inputs).last_hidden_state)


def test_models_with_adapters_are_saved_again(folders, inputs, tmp_path):
    folder, model = folders
    loaded = SalmonnForConditionalGeneration.from_pretrained(folder / "both")
    loaded.save_pretrained(tmp_path / "again", max_shard_size="50KB")
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    with pytest.raises(ValueError, match="`adapter_only=True` needs a model with an adapter"):
        tiny_model(tiny_config()).save_pretrained(tmp_path / "none", adapter_only=True)


def test_peft_saves_what_we_load(inputs, tmp_path, caplog):
    """`get_peft_model`, as a `Trainer` script would use it, knows nothing of SALMONN."""
    base = tiny_model(tiny_config())
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(3)
    peft = get_peft_model(base, base.lora_config())
    for name, parameter in peft.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    expected = logits(peft, inputs)
    peft.save_pretrained(tmp_path / "adapter")
    model = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "base")
    with caplog.at_level("INFO", logger="base_weights_salmonn"):
        model.load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(model, inputs), expected)
    assert "does not say which base weights it belongs to" in caplog.text


@pytest.mark.parametrize("part", ["speech_encoder", "beats", "language_model"])
def test_other_base_weights_are_refused(folders, inputs, part):
    folder, _ = folders
    other = SalmonnForConditionalGeneration.from_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in getattr(other.model, part).parameters():
            parameter.mul_(1.05)  # as far away as another fine-tuning of the same LLM
    before = logits(other, inputs)
    with pytest.raises(ValueError, match=f"trained on other base weights: .* in {part} "):
        other.load_adapter(folder / "adapter")
    assert torch.equal(logits(other, inputs), before)
    assert not other._hf_peft_config_loaded


ROUNDINGS = {
    "bfloat16": lambda weight: weight.bfloat16(),
    "float16": lambda weight: weight.half(),
    "float8": lambda weight: weight.to(torch.float8_e4m3fn),
    "scaled float8": lambda weight: (
        (weight / weight.abs().max() * 448).to(torch.float8_e4m3fn).float() * (weight.abs().max() / 448)
    ),
    "int8": lambda weight: (weight / weight.abs().max() * 127).round() * (weight.abs().max() / 127),
    "int8 by row": lambda weight: (
        (weight / weight.abs().amax(-1, True) * 127).round() * (weight.abs().amax(-1, True) / 127)
    ),
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_same_base_rounded_is_accepted(folders, rounding):
    folder, _ = folders
    model = SalmonnForConditionalGeneration.from_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(ROUNDINGS[rounding](parameter))
    model.load_adapter(folder / "adapter")


def test_long_rows_tell_rounding_from_training():
    """Where 8 bits would show, a base that was trained a little further is another one."""
    torch.manual_seed(0)
    weight = torch.randn(8, 2048)
    recorded = {"layer": sample_weights(weight).tolist()}
    assert find_other_weights(recorded, {"layer": weight * 1.02}) == ["layer"]
    assert find_other_weights(recorded, {"layer": weight.bfloat16()}) == []
    assert find_other_weights(recorded, {"layer": ROUNDINGS["int8 by row"](weight)}) == []


def test_base_check(folders, inputs):
    folder, model = folders
    other = tiny_model(tiny_config(), seed=7)
    other.save_pretrained(folder / "other")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / "adapter" / name, folder / "other")
    with pytest.raises(ValueError, match="`base_check` must be 'error', 'warn' or 'off', got 'none'"):
        other.load_adapter(folder / "adapter", base_check="none")
    for load in (other.load_adapter, SalmonnForConditionalGeneration.from_pretrained):
        place = folder / ("adapter" if load == other.load_adapter else "other")
        with pytest.raises(ValueError, match="trained on other base weights"):
            load(place)
        with CaptureLogger(base_weights_salmonn.logger) as log:
            load(place, base_check="off")
            assert log.out == ""
            if load == other.load_adapter:
                other.delete_adapter("default")
            load(place, base_check="warn")
        assert "trained on other base weights" in log.out


def test_models_with_a_parameter_more_are_saved_and_loaded(folders, inputs):
    folder, model = folders
    model.model.extra = torch.nn.Parameter(torch.ones(3))
    model.save_pretrained(folder / "extra", adapter_only=True)
    loaded = SalmonnForConditionalGeneration.from_pretrained(folder / "base")
    loaded.load_adapter(folder / "extra")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


# ----------------------------------------------------------------------------------------------------------------------
# Files from before the record of the base was metadata: a tensor, `base_fingerprint`


def place_values(model, scale: float, trained: bool):
    """The weights with which the adapter in `fixtures/adapters/with_fingerprint` was saved."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or not trained:
                steps = torch.arange(parameter.numel(), dtype=torch.float64) * (1.3 if trained else 1.7)
                steps += zlib.crc32(name.encode()) % 1000
                parameter.copy_((scale * (steps.sin() if trained else steps.cos())).view(parameter.shape))
    return model.eval()


@pytest.fixture
def old_base():
    config = tiny_config(segment_seconds=30, connector_type="linear", connector_hidden_size=2)
    return place_values(SalmonnForConditionalGeneration(config), 0.3, trained=False)


def test_old_adapters_load(old_base, tmp_path):
    inputs = ask(tiny_processor(old_base.config), question(noise(2)))
    old_base.save_pretrained(tmp_path / "base")
    old_base.add_adapter(old_base.lora_config(r=2, lora_alpha=4))
    expected = logits(place_values(old_base, 0.2, trained=True), inputs)
    model = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "base")
    with CaptureLogger(logging.get_logger("transformers")) as log:
        model.load_adapter(OLD)
        peft = PeftModel.from_pretrained(SalmonnForConditionalGeneration.from_pretrained(tmp_path / "base"), OLD)
    assert log.out == ""
    assert torch.equal(logits(model, inputs), expected) and torch.equal(logits(peft, inputs), expected)
    other = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if name.startswith("beats.") and parameter.ndim == 2:
                parameter.add_(1)
    with pytest.raises(ValueError, match="trained on other base weights: .* in beats "):
        other.load_adapter(OLD)


def test_old_checkpoints_load_without_complaint(folders, inputs):
    folder, model = folders
    file = folder / "both" / "model.safetensors"
    tensors = load_file(file) | {"model.connector.base_fingerprint": torch.ones(105, 16)}
    save_file(tensors, file, metadata={"format": "pt"})
    with CaptureLogger(logging.get_logger("transformers")) as log:
        loaded = SalmonnForConditionalGeneration.from_pretrained(folder / "both")
    assert log.out == ""
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_base_in_another_dtype_is_accepted(folders, inputs, dtype):
    folder, model = folders
    loaded = SalmonnForConditionalGeneration.from_pretrained(folder / "base", dtype=dtype)
    loaded.load_adapter(folder / "adapter")
    expected = logits(model, inputs)
    cosine = torch.nn.functional.cosine_similarity(logits(loaded, inputs).float(), expected, dim=-1)
    assert cosine.min() > 0.98
    loaded.resize_token_embeddings(605)  # a longer vocabulary is no other base either
    loaded.load_adapter(folder / "adapter", "second")


def test_a_second_adapter_that_does_not_belong_leaves_the_first(folders, inputs):
    folder, model = folders
    other = with_adapter(tiny_model(tiny_config(), seed=7))
    other.save_pretrained(folder / "other", adapter_only=True)
    expected = logits(model, inputs)
    with pytest.raises(ValueError, match="trained on other base weights"):
        model.load_adapter(folder / "other", "second")
    model.set_adapter("default")
    assert torch.equal(logits(model, inputs), expected)


def test_merging(folders, inputs, tmp_path):
    folder, model = folders
    expected = logits(model, inputs)
    merged = model.merge_and_unload()
    assert merged is model and not [name for name in model.state_dict() if "lora" in name or "modules_to" in name]
    torch.testing.assert_close(logits(merged, inputs), expected, atol=1e-4, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter_[cm]*"))
    loaded = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(loaded, inputs), logits(merged, inputs))
    with pytest.raises(ValueError, match="needs a model with an adapter"):
        loaded.merge_and_unload()


def test_adapters_are_trained_in_float32(inputs):
    model = tiny_model(tiny_config()).to(torch.bfloat16)
    model.add_adapter(model.lora_config())
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32} and model.lm_head.weight.dtype == torch.bfloat16
    assert logits(model, inputs).dtype == torch.bfloat16


def test_speech_only_models_have_adapters_too(tmp_path):
    config = tiny_config(beats_config=None)
    model = with_adapter(tiny_model(config))
    model.save_pretrained(tmp_path)
    inputs = ask(tiny_processor(config), question(noise(2)))
    assert torch.equal(
        logits(SalmonnForConditionalGeneration.from_pretrained(tmp_path), inputs), logits(model, inputs)
    )
