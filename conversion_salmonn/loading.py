# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A SALMONN and its processor, from any of the ways in which a trained one is kept:

    load_with_adapter("./salmonn-13b")                  a model, with the adapter beside its weights if it has one
    load_with_adapter("./base", "runs/one/adapter")     a base model and an adapter
    load_with_adapter("runs/one/adapter")               an adapter, whose base model is where it was in training
"""

import os
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError
from transformers import AutoModelForMultimodalLM, AutoProcessor
from transformers.utils import PROCESSOR_NAME, cached_file, find_adapter_config_file

# Importing it tells Transformers' Auto classes about SALMONN.
import salmonn_transformers  # noqa: F401
from conversion_salmonn.checkpoint_io import list_names
from conversion_salmonn.folders import check_adapter, is_missing
from data_salmonn.json_text import read_object


def load_with_adapter(
    model: str | os.PathLike, adapter: str | os.PathLike | None = None, dtype: str | torch.dtype = "auto"
):
    """
    Loads a model, in eval mode, and its processor.

    Args:
        model (`str` or `os.PathLike`): folder or Hub id of a model, with or without an adapter, or of an adapter alone.
        adapter (`str` or `os.PathLike`, *optional*): folder or Hub id of an adapter for a model without one.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`): of the weights, their own by default.

    Returns:
        The model and the processor. That of a model which is an adapter alone is the one saved beside the adapter, or
        that of the base model if there is none.

    Raises:
        ValueError: if there would be two adapters, if the base model of an adapter is not known or not there, and if the
            adapter does not fit the model.
    """
    model, base = str(model), find_base(model)
    if base is not None and adapter is not None:
        raise ValueError(
            f"`adapter` must not be given for a model that has one, but {model} has. To use {adapter}, name the base model "
            "that it was trained on as `model`."
        )
    loaded = AutoModelForMultimodalLM.from_pretrained(model, dtype=dtype)
    if adapter is not None:
        attach_adapter(loaded, adapter)
    with_processor = model
    if base is not None and cached_file(model, PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False) is None:
        with_processor = base
    return loaded.eval(), AutoProcessor.from_pretrained(with_processor)


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, or by default a GPU if there is one. Raises `ValueError` if there is no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without a kind of device asserts that it has it
        raise ValueError(
            f"`device` must be one that torch has here, got {name!r}: {str(error).splitlines()[0]}"
        ) from error
    return device


def start_processes() -> PartialState:
    """This process among those that were launched. Raises `ValueError` if Accelerate does not see the others."""
    # without a GPU, processes find each other only if told that they are on CPUs
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != state.num_processes:
        raise ValueError(
            f"`WORLD_SIZE` says that {launched} processes were launched, but Accelerate works with {state.num_processes}: "
            "each would do all of the work."
        )
    return state


def find_base(model: str | os.PathLike) -> str | None:
    """
    The base model of a `model` that has an adapter, or is one; `None` for a model without.

    Raises `ValueError` if `model` is an adapter alone whose base is not known, or a folder that is not there.
    """
    if is_missing(model):
        raise ValueError(f"`model` {model} does not exist.")
    file = find_adapter_config_file(str(model))
    if file is None:
        return None
    if Path(file).with_name("config.json").is_file():
        return str(model)
    base = read_object(file).get("base_model_name_or_path")
    if base is None or is_missing(base):
        where = "does not say what its base model is" if base is None else f"was trained on {base}, which is not there"
        raise ValueError(
            f"`model` {model} is an adapter that {where}: name the base model as `model`, and it as `adapter`."
        )
    return base


def attach_adapter(model, adapter: str | os.PathLike) -> None:
    """Gives `model` a trained adapter. Raises `ValueError` if it was trained on other weights, or does not fit."""
    check_adapter(adapter)
    try:
        loading = model.load_adapter(str(adapter))
    except RuntimeError as error:  # Transformers has logged which ones
        raise ValueError(f"`adapter` {adapter} does not fit this model: its tensors have other sizes") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(f"`adapter` {adapter} cannot be read, it may be truncated ({error})") from error
    different = loading.missing_keys | loading.unexpected_keys
    if different:
        raise ValueError(f"`adapter` {adapter} does not fit this model, which differs in {list_names(different)}")
