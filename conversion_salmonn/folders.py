# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Whether a name can be that of a model or an adapter, told by the files alone: nothing here needs torch."""

import os
from pathlib import Path


# What PEFT saves of an adapter.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def is_missing(name: str | os.PathLike) -> bool:
    """Whether `name` is a folder that is not there, and cannot be the id of a repository either."""
    return not os.path.exists(name) and (str(name).startswith((".", "/", "~")) or str(name).count("/") > 1)


def check_model(model: str | os.PathLike) -> None:
    """Raises `ValueError` if `model` cannot be a model or an adapter: a file, a missing folder, or one without either."""
    if is_missing(model):
        raise ValueError(f"`model` {model} does not exist.")
    if os.path.isfile(model):
        raise ValueError(f"`model` must be a folder or a Hub id, got the file {model}.")
    names = ("config.json", ADAPTER_FILES[0])
    if os.path.isdir(model) and not any(Path(model, name).is_file() for name in names):
        raise ValueError(f"`model` {model} is no folder of a model: it has neither {' nor '.join(names)}.")


def check_adapter(adapter: str | os.PathLike) -> None:
    """Raises `ValueError` if `adapter` is a folder without an adapter, or a missing one. Ids of the Hub pass."""
    missing = [name for name in ADAPTER_FILES if not Path(adapter, name).is_file()]
    if missing and (os.path.exists(adapter) or is_missing(adapter)):
        raise ValueError(f"`adapter` {adapter} is no folder of an adapter, it lacks {' and '.join(missing)}")
