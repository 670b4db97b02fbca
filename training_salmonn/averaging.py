# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Means of adapters: the weighted one of two adapters of one model, and that of the last checkpoints of a run.

A model that went on training on something else has learnt that and forgotten some of the rest; somewhere between the two
lies one that is better than both (arXiv 2109.01903). How far to go is chosen on validation data. The last checkpoints of
one run lie around a point that is better than each of them, as long as the learning rate is not small (arXiv 1803.05407).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.trainer import TRAINER_STATE_NAME

from base_weights_salmonn import find_other_weights, read_adapter
from data_salmonn.files import check_output, output_folder


OLD_RECORD = "base_fingerprint"  # a tensor that once said which base weights an adapter belongs to


# Of an adapter and of the processor that training saves beside it.
SETTINGS = (".json", ".jinja", ".model", ".py")


def average_adapters(first: str | Path, second: str | Path, output: str | Path, weight: float = 0.5) -> Path:
    """
    Writes the adapter `(1 - weight) * first + weight * second`, tensor by tensor; settings and dtypes are those of `first`.

    Args:
        first (`str` or `Path`): folder of an adapter.
        second (`str` or `Path`): folder of another one of the same model, as a rule one that was trained on from `first`.
        output (`str` or `Path`): folder to write.
        weight (`float`, *optional*, defaults to 0.5): share of `second`, from 0 to 1.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: if `weight` is outside of [0, 1], if there is something in `output`, and if the adapters belong to
            different models or have other tensors.
    """
    check_average(output, weight)
    for name, folder in (("first", first), ("second", second)):
        if not Path(folder, CONFIG_NAME).is_file():
            raise ValueError(f"`{name}` must be the folder of an adapter, got {folder}.")
    settings = PeftConfig.from_pretrained(str(first))
    others = PeftConfig.from_pretrained(str(second))
    for name in ("r", "lora_alpha", "target_modules", "modules_to_save"):
        if getattr(settings, name) != getattr(others, name):
            raise ValueError(
                f"`second` must have the {name} of `first`, {getattr(settings, name)}, got {getattr(others, name)}."
            )
    files = [Path(folder, SAFETENSORS_WEIGHTS_NAME) for folder in (first, second)]
    tensors, added = map(load_file, files)
    shapes, other_shapes = (
        {name: tensor.shape for name, tensor in part.items() if not name.endswith(OLD_RECORD)}
        for part in (tensors, added)
    )
    if shapes != other_shapes:
        different = sorted(set(shapes.items()) ^ set(other_shapes.items()))
        raise ValueError(f"`second` must have the tensors of `first`, but they differ in {different[0][0]}.")
    check_same_base(first, second)
    for name in shapes:
        tensors[name] = tensors[name].float().lerp(added[name].float(), weight).to(tensors[name].dtype)
    with safe_open(files[0], framework="pt") as file:
        metadata = file.metadata()
    with output_folder(output) as folder:
        for file in Path(first).iterdir():
            if file.suffix in SETTINGS and file.name != TRAINER_STATE_NAME:
                shutil.copy(file, folder)
        save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata=metadata)
    return Path(output)


def mean_weights(folders: Sequence[str | Path]) -> dict[str, torch.Tensor]:
    """
    The mean of the saved weights of adapters of one run, tensor by tensor, computed in float32, in the dtypes of the last.

    Raises `ValueError` without folders, if one is no adapter, and if they have other tensors.
    """
    if not folders:
        raise ValueError("`folders` must hold at least one adapter, got none.")
    sums: dict[str, torch.Tensor] = {}
    for folder in folders:
        file = Path(folder, SAFETENSORS_WEIGHTS_NAME)
        if not file.is_file():
            raise ValueError(f"`folders` must hold adapters, got {folder}.")
        tensors = load_file(file)
        if sums and {name: sums[name].shape for name in sums} != {name: tensors[name].shape for name in tensors}:
            raise ValueError(f"`folders` must hold adapters with the same tensors, but those of {folder} are others.")
        sums = {name: tensor.float() + sums.get(name, 0.0) for name, tensor in tensors.items()}
    return {name: (total / len(folders)).to(tensors[name].dtype) for name, total in sums.items()}


def check_same_base(first: str | Path, second: str | Path) -> None:
    """Raises `ValueError` if two adapters say that they belong to different base weights."""
    records = [read_adapter(str(folder))[1] for folder in (first, second)]
    if isinstance(records[0], torch.Tensor) and isinstance(records[1], torch.Tensor):
        records = [{str(number): row for number, row in enumerate(record.tolist())} for record in records]
    elif any(isinstance(record, torch.Tensor) for record in records):
        return  # an old one knows no names
    other = find_other_weights(records[0], {name: torch.tensor(values) for name, values in records[1].items()})
    if other:
        raise ValueError(
            f"`second` must be of the model of `first`, but {len(other)} base weights differ: {other[0]}."
        )


def check_average(output: str | Path, weight: float) -> None:
    """Raises `ValueError` if `weight` is no share of a mean, or if there is something in `output`."""
    if not 0 <= weight <= 1:
        raise ValueError(f"`weight` must be in [0, 1], got {weight}.")
    check_output(output)
