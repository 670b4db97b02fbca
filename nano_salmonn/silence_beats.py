# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Writes an adapter that no longer hears what BEATs gives, to measure what BEATs is worth to a trained model.

Scale and offset of BEATs' layer norm become zero, so that the connector reads zeros in the place of BEATs, and everything
else is as it was.
"""

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from data_salmonn.files import output_folder


WEIGHTS = "adapter_model.safetensors"
NORM = "beats_layer_norm"


def silence_beats(adapter: str | Path, output: str | Path, overwrite: bool = False) -> Path:
    """
    Copies the folder `adapter` to `output` with BEATs' layer norm set to zero, and returns `output`.

    Raises `ValueError` if `adapter` holds no such norm, or if there is something in `output` and `overwrite` is
    not given.
    """
    adapter, output = Path(adapter), Path(output)
    if not (adapter / WEIGHTS).is_file():
        raise ValueError(f"`adapter` must be a folder with {WEIGHTS}, got {adapter}.")
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    norms = [name for name in weights if NORM in name]
    if not norms:
        raise ValueError(f"`adapter` must be one of a model with BEATs, got {adapter} without {NORM}.")
    with output_folder(output, overwrite) as folder:
        shutil.copytree(adapter, folder, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)
        save_file(weights | {name: weights[name].zero_() for name in norms}, folder / WEIGHTS, metadata=metadata)
    return output
