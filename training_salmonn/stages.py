# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The model of a stage: loaded, checked against what the recipe requires, with its adapter, and frozen where the recipe
does not train it.

Every stage of the papers trains the same kind of parts, always beside frozen encoders and a frozen LLM:

| stage | connector and norms | LoRA |
| --- | --- | --- |
| alignment, asr, longform (2309.13963) | trained | zero, frozen |
| pretrain, instruct, activate (2310.13289, section 3.2) | trained | trained |

All of them write the same adapter, so each can go on from each other one.
"""

import logging

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForMultimodalLM, AutoProcessor
from transformers.modeling_layers import GradientCheckpointingLayer

from base_weights_salmonn import load_adapter_weights

# Importing it tells Transformers' Auto classes about SALMONN.
from conversion_salmonn.loading import load_with_adapter
from training_salmonn.frozen_encoders import find_salmonn
from training_salmonn.recipes import StageArguments


logger = logging.getLogger(__name__)

# What the names of a part's parameters hold, in a model with an adapter.
PART_PATTERNS = {
    "connector": (".connector.modules_to_save.",),
    "norms": (".speech_layer_norm.modules_to_save.", ".beats_layer_norm.modules_to_save."),
    "lora": (".lora_",),
}


def load_stage(stage: StageArguments, trainable: bool = True):
    """
    The model of a recipe with its adapter, ready to be trained, and its processor.

    Raises `ValueError` if no model is named, if it is not of the kind that the recipe requires, and if the adapter
    belongs to another one.
    """
    if stage.model is None:
        raise ValueError("`model` must name the folder or Hub id of a base model, got None.")
    kwargs = {} if stage.attn_implementation is None else {"attn_implementation": stage.attn_implementation}
    model = AutoModelForMultimodalLM.from_pretrained(stage.model, dtype=stage.model_dtype, **kwargs)
    check_requirements(model.config, stage.requires)
    set_up_adapter(model, stage)
    if trainable:
        freeze(model, stage.trained)
    return model, AutoProcessor.from_pretrained(stage.model)


def check_requirements(config, requires: dict) -> None:
    """Raises a `ValueError` that names every setting of the model that is not what a recipe `requires`."""
    unknown = [name for name in requires if not hasattr(config, name)]
    if unknown:
        raise ValueError(f"`requires` must name settings of the model's configuration, got {', '.join(unknown)}.")
    wrong = {name: getattr(config, name) for name, value in requires.items() if getattr(config, name) != value}
    if wrong:
        wanted = ", ".join(f"{name}={requires[name]}" for name in wrong)
        found = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise ValueError(f"`model` must have {wanted} for this recipe, got {found}. See `salmonn assemble --help`.")


def set_up_adapter(model, stage: StageArguments) -> None:
    """Gives `model` a new adapter, or goes on from `stage.adapter`, or from the one that came with the model."""
    has_adapter = getattr(model, "_hf_peft_config_loaded", False)
    if stage.adapter is None and not has_adapter:
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        unknown = [name for name in stage.lora_target_modules if name.rpartition(".")[2] not in names]
        if unknown:
            raise ValueError(f"`lora_target_modules` must name layers of the LLM, got {', '.join(unknown)}.")
        model.add_adapter(
            model.lora_config(
                r=stage.lora_r,
                lora_alpha=stage.lora_alpha,
                lora_dropout=stage.lora_dropout,
                target_modules=tuple(stage.lora_target_modules),
            )
        )
        return
    if stage.adapter is not None and has_adapter:
        raise ValueError(f"`adapter` must not be given for a model that has one, got {stage.adapter}.")
    if not has_adapter:
        config = PeftConfig.from_pretrained(stage.adapter)
        # dropout is a matter of training: it is the recipe's, not the adapter's
        config.lora_dropout = stage.lora_dropout
        config.inference_mode = False
        model.add_adapter(config)
        load_adapter_weights(model, stage.adapter)
    rank, alpha = model.peft_config["default"].r, model.peft_config["default"].lora_alpha
    if (rank, alpha) != (stage.lora_r, stage.lora_alpha):
        raise ValueError(
            f"`lora_r` and `lora_alpha` must be those of the adapter, {rank} and {alpha}, got {stage.lora_r} and "
            f"{stage.lora_alpha}."
        )


def freeze(model: nn.Module, trained: list[str]) -> int:
    """
    Leaves gradients to the parts in `trained` only, and makes these float32. Returns the number of trained parameters.

    The optimizer's steps are smaller than what 16 bits resolve, so the trained part has all 32 whatever the rest has.
    """
    patterns = [pattern for part in trained for pattern in PART_PATTERNS[part]]
    count = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(pattern in name for pattern in patterns))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            count += parameter.numel()
    if not count:
        raise ValueError(f"`trained` must name parts that the model has, got {trained}: nothing would be trained.")
    logger.info("training %s: %s parameters", ", ".join(trained), f"{count:,}")
    return count


def find_trained_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that belong in train mode: those whose parameters are all trained, and LoRA's with their dropout."""

    def is_trained(module: nn.Module) -> bool:
        gradients = [parameter.requires_grad for parameter in module.parameters()]
        return any(gradients) if isinstance(module, BaseTunerLayer) else bool(gradients) and all(gradients)

    return [module for module in model.modules() if is_trained(module)]


def keep_frozen_in_eval(model: nn.Module, trained_modules: list[nn.Module]) -> None:
    """
    Train mode for `trained_modules` and eval mode for the rest, where dropout and layer drop would only add noise to
    what cannot learn to live with it (the released code drops BEATs' layers at random while it trains).
    """
    model.eval()
    for module in trained_modules:
        module.train()
    # Gradients pass through the LLM, whose layers are checkpointed in train mode only: each by itself, not what is in it.
    for module in find_salmonn(model).language_model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True


def load_for_inference(model: str, adapter: str | None = None, dtype: str = "auto"):
    """
    A model with its adapter, which may come with it, and its processor, see [`load_with_adapter`]. Raises `ValueError` if
    it has none.
    """
    loaded, processor = load_with_adapter(model, adapter, dtype)
    if not loaded._hf_peft_config_loaded:
        raise ValueError(f"`model` must have an adapter, or `adapter` must name one, got {model} and None.")
    return loaded, processor
