"""Adapters of every kind of PEFT: what was trained is what is saved, loaded, switched to, merged, and gone on with."""

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model

from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import tiny_model


LLM = r"(.*\.)?language_model\..*\.(q_proj|v_proj)"
WHOLE = ["connector", "speech_layer_norm", "beats_layer_norm"]
KINDS = {
    "LoRA": lambda model: model.lora_config(),
    "DoRA": lambda model: model.lora_config(use_dora=True),
    "rsLoRA": lambda model: model.lora_config(use_rslora=True),
    "LoRA alone": lambda model: LoraConfig(target_modules=LLM),
    "LoRA on embeddings": lambda model: LoraConfig(target_modules=["embed_tokens", "q_proj"]),
    "other whole modules": lambda model: LoraConfig(target_modules=LLM, modules_to_save=["language_model.norm"]),
    "whole modules alone": lambda model: LoraConfig(target_modules="dummy-target-modules", modules_to_save=WHOLE),
    "LoRA and tokens": lambda model: model.lora_config(trainable_token_indices=[1, 388]),
    "tokens alone": lambda model: TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[1, 388]),
    "IA3": lambda model: IA3Config(target_modules=LLM, feedforward_modules=[], modules_to_save=WHOLE),
    "LoHa": lambda model: LoHaConfig(target_modules=LLM, modules_to_save=WHOLE),
    "AdaLoRA": lambda model: AdaLoraConfig(target_modules=LLM, modules_to_save=WHOLE, total_step=9, tinit=1, tfinal=2),
}
NAMES = [pytest.param(kind, id=kind.replace(" ", "-")) for kind in KINDS]


@pytest.fixture(scope="module")
def base(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds") / "base"
    tiny_model(config).save_pretrained(folder)
    return folder


def load(folder, **kwargs) -> SalmonnForConditionalGeneration:
    return SalmonnForConditionalGeneration.from_pretrained(folder, **kwargs)


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits[..., :600]


def train(model, inputs, seed: int = 0) -> torch.Tensor:
    """One step with a real gradient, from a random place; returns the logits after it."""
    torch.manual_seed(seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    torch.optim.SGD(trained, lr=0.05).step()
    return logits(model, inputs)


@pytest.mark.parametrize("kind", NAMES)
def test_what_was_trained_is_what_is_loaded(base, inputs, tmp_path, kind):
    model = load(base)
    untrained = logits(model, inputs)
    model.add_adapter(KINDS[kind](model))
    expected = train(model, inputs)
    assert (expected - untrained).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "both")
    model.save_pretrained(tmp_path / "one", adapter_only=True)
    torch.testing.assert_close(logits(model, inputs), expected)

    both, alone = load(tmp_path / "both"), load(base)
    alone.load_adapter(tmp_path / "one")
    for loaded in (both, alone, PeftModel.from_pretrained(load(base), tmp_path / "one")):
        torch.testing.assert_close(logits(loaded, inputs), expected)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())

    both.disable_adapters()
    torch.testing.assert_close(logits(both, inputs), untrained)
    both.enable_adapters()
    torch.testing.assert_close(logits(both, inputs), expected)
    assert not any(parameter.requires_grad for parameter in both.parameters())

    both.train_adapter()
    assert {name for name, parameter in both.named_parameters() if parameter.requires_grad} == {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    further = train(both, inputs, seed=1)
    both.save_pretrained(tmp_path / "further")
    torch.testing.assert_close(logits(load(tmp_path / "further"), inputs), further)

    names = load(base).state_dict().keys()
    alone.merge_and_unload()
    assert alone.state_dict().keys() == names
    torch.testing.assert_close(logits(alone, inputs), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", NAMES)
def test_two_adapters(base, inputs, tmp_path, kind):
    model = load(base)
    expected = {None: logits(model, inputs)}
    for number, name in enumerate(("default", "two")):
        model.add_adapter(KINDS[kind](model), name)
        expected[name] = train(model, inputs, seed=number)
        model.save_pretrained(tmp_path / name, adapter_only=True)
        model.delete_adapter(name)
    model.load_adapter(tmp_path / "default")
    model.load_adapter(tmp_path / "two", "two")
    torch.testing.assert_close(logits(model, inputs), expected["two"])
    for name in ("default", "two"):
        model.set_adapter(name)
        assert model.active_adapters() == [name]
        torch.testing.assert_close(logits(model, inputs), expected[name])
    model.delete_adapter("two")
    torch.testing.assert_close(logits(model, inputs), expected["default"])
    model.save_pretrained(tmp_path / "both")
    torch.testing.assert_close(logits(load(tmp_path / "both"), inputs), expected["default"])
    model.delete_adapter("default")
    assert model.state_dict().keys() == load(base).state_dict().keys() and not model._hf_peft_config_loaded
    torch.testing.assert_close(logits(model, inputs), expected[None])


# ----------------------------------------------------------------------------------------------------------------------
# Models that have an adapter already


@pytest.fixture
def adapted(base, inputs, tmp_path):
    model = load(base)
    model.add_adapter(model.lora_config(r=4))
    train(model, inputs)
    model.save_pretrained(tmp_path / "adapted")
    return tmp_path / "adapted"


def test_going_on_keeps_its_settings_and_trains_in_float32(adapted, inputs, tmp_path):
    model = load(adapted, dtype=torch.float16).train_adapter()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.lm_head.weight.dtype == torch.float16 and not model.lm_head.weight.requires_grad
    model = load(adapted).train_adapter()
    before = logits(model, inputs)
    expected = train(model, inputs, seed=3)
    assert (expected - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "further")
    again = load(tmp_path / "further")
    assert again.peft_config["default"].r == 4
    torch.testing.assert_close(logits(again, inputs), expected)
    trainable = load(tmp_path / "further", dtype=torch.bfloat16)
    trainable.load_adapter(tmp_path / "further", "two", is_trainable=True)
    assert {p.dtype for p in trainable.parameters() if p.requires_grad} == {torch.float32}


def test_stacking_is_refused(adapted, base, inputs):
    model = load(adapted)
    expected, names = logits(model, inputs), set(model.state_dict())
    for name in ("default", "other"):
        with pytest.raises(ValueError, match=r"has the adapter 'default': .* `model.train_adapter\(\)`"):
            get_peft_model(model, model.lora_config(), name)
    with pytest.raises(ValueError, match="would stack"):
        PeftModel.from_pretrained(model, adapted)
    with pytest.raises(ValueError, match="already exists.*`train_adapter`"):
        model.add_adapter(model.lora_config())
    assert set(model.state_dict()) == names and model.peft_config["default"].r == 4
    torch.testing.assert_close(logits(model, inputs), expected)
    wrapped = get_peft_model(load(base), model.lora_config())
    with pytest.raises(ValueError, match="would stack"):
        get_peft_model(wrapped.get_base_model(), model.lora_config())


def test_replacing_it(adapted, inputs):
    model = load(adapted)
    model.delete_adapter("default")
    peft = get_peft_model(model, model.lora_config(r=2))  # is an ordinary model again
    assert peft.peft_config["default"].r == 2


def test_an_adapter_that_cannot_be_added_changes_nothing(adapted, base, inputs):
    for folder in (base, adapted):
        model = load(folder)
        names, has_adapter = set(model.state_dict()), model._hf_peft_config_loaded
        with pytest.raises(ValueError, match="not found in the base model"):
            model.add_adapter(LoraConfig(target_modules=["no_such_module"]), "new")
        assert (set(model.state_dict()), model._hf_peft_config_loaded) == (names, has_adapter)
        assert "new" not in getattr(model, "peft_config", {})
    with pytest.raises(TypeError, match="`adapter_config` must be a `PeftConfig`, got dict"):
        load(base).add_adapter({})


def test_tensors_that_do_not_fit_are_refused(adapted, base, inputs, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapted / "adapter_model.safetensors")
    first = next(name for name in tensors if "lora_A" in name)
    damages = {
        "differs in .*lora_A": {name: tensor for name, tensor in tensors.items() if name != first},
        "differs in model.more": tensors | {"base_model.model.model.more": torch.ones(1)},
        "its tensors have other sizes": tensors | {first: torch.ones(2, 2)},
    }
    model = load(base)
    expected = logits(model, inputs)
    for message, damaged in damages.items():
        save_file(damaged, adapted / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=f"does not fit this model.*{message}"):
            model.load_adapter(adapted)
        assert not model._hf_peft_config_loaded
        torch.testing.assert_close(logits(model, inputs), expected)


def test_which_adapter_is_saved(adapted, tmp_path):
    model = load(adapted)
    model.add_adapter(LoraConfig(target_modules=LLM, r=3), "plain")
    model.add_adapter(LoraConfig(target_modules=LLM, r=5), "other")
    model.save_pretrained(tmp_path / "one", adapter_only=True)
    assert '"r": 5' in (tmp_path / "one" / "adapter_config.json").read_text()
    model.set_adapter(["plain", "other"])
    for name in ("plain", "other"):
        with pytest.raises(ValueError, match=r"One adapter must be active, got \['plain', 'other'\]"):
            model.save_pretrained(tmp_path / name, adapter_only=True)
    with pytest.raises(ValueError, match="must be of .*got absent"):
        model.set_adapter("absent")


def test_a_merged_model_is_not_saved_over_its_adapter(adapted):
    model = load(adapted).merge_and_unload()
    with pytest.raises(ValueError, match="holds an adapter, which would be loaded with the model"):
        model.save_pretrained(adapted)


def test_scaling_merged_lora_is_refused(adapted, inputs):
    model = load(adapted)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.merge()
    with pytest.raises(ValueError, match="`lora_scale` needs LoRA that is not merged"):
        model.generate(**inputs, lora_scale=0.5, max_new_tokens=1)


# ----------------------------------------------------------------------------------------------------------------------
# Offloading


def places(offloaded: str) -> dict[str, str]:
    parts = ["speech_encoder", "speech_layer_norm", "beats", "beats_layer_norm", "connector"]
    llm = ["embed_tokens", "norm", "rotary_emb", "layers.0", "layers.1"]
    names = ["lm_head", *(f"model.{part}" for part in parts), *(f"model.language_model.{part}" for part in llm)]
    return {name: "disk" if name == f"model.{offloaded}" else "cpu" for name in names}


def test_lora_on_offloaded_layers_is_used(adapted, inputs, tmp_path):
    expected = logits(load(adapted), inputs)
    model = load(adapted, device_map=places("language_model.layers.1"), offload_folder=tmp_path / "offload")
    assert any(parameter.is_meta for parameter in model.parameters())
    torch.testing.assert_close(logits(model, inputs), expected)
    with pytest.raises(ValueError, match="needs all weights in memory"):
        model.merge_and_unload()
    with pytest.raises(ValueError, match="use `adapter_only=True`"):
        model.save_pretrained(tmp_path / "again")
    model.save_pretrained(tmp_path / "again", adapter_only=True)
    model = load(adapted)
    model.load_adapter(tmp_path / "again", "again")
    torch.testing.assert_close(logits(model, inputs), expected)


@pytest.mark.parametrize("part", ["connector", "speech_layer_norm"])
def test_offloaded_whole_modules_are_used(adapted, base, inputs, tmp_path, part):
    expected, without = logits(load(adapted), inputs), logits(load(base), inputs)
    model = load(adapted, device_map=places(part), offload_folder=tmp_path / "offload")
    torch.testing.assert_close(logits(model, inputs), expected)
    model.disable_adapters()
    torch.testing.assert_close(logits(model, inputs), without)
    model.enable_adapters()
    torch.testing.assert_close(logits(model, inputs), expected)


@pytest.mark.parametrize("part", ["connector", "speech_layer_norm"])
def test_a_new_adapter_of_offloaded_whole_modules_is_refused(base, tmp_path, part):
    model = load(base, device_map=places(part), offload_folder=tmp_path / "offload")
    with pytest.raises(ValueError, match=f"model.{part} is offloaded.*`device_map`"):
        model.add_adapter(model.lora_config())


def test_offloaded_dora_is_refused(base, inputs, tmp_path):
    model = load(base)
    model.add_adapter(model.lora_config(use_dora=True))
    model.save_pretrained(tmp_path / "dora")
    with pytest.raises(ValueError, match="DoRA reads the weights that it adapts"):
        load(
            tmp_path / "dora",
            device_map=places("language_model.layers.1"),
            offload_folder=tmp_path / "offload",
        )
