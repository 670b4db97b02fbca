# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What was trained of a small SALMONN, its BEATs and its adapter, as 16-bit folders that a repository can hold."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conversion_salmonn.checkpoint_io import output_folder
from nano_salmonn.assemble import NANO_CHECKPOINT, NANO_TRAINED_PARTS


ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export_trained(
    adapter: str | Path, beats: str | Path, output: str | Path, overwrite: bool = False, card: str | Path | None = None
) -> Path:
    """
    Writes `adapter` and `beats`, both in float16, to folders of these names in `output`, which it returns, and the file
    `card`, if there is one, as README.md beside them.

    Train on a BEATs that is float16 already: the adapter belongs to the weights that it was trained on, and says so.

    Raises `ValueError` if a file is missing, if BEATs is not float16, or if a number of the adapter is beyond float16.
    """
    adapter, beats = Path(adapter), Path(beats)
    files = [adapter / ADAPTER_CONFIG, adapter / ADAPTER_WEIGHTS, beats / "config.json", beats / "model.safetensors"]
    files += [] if card is None else [Path(card)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"`adapter` and `beats` must be saved folders, and `card` a file: {' and '.join(missing)} are missing"
        )
    wrong = {str(tensor.dtype) for tensor in load_file(beats / "model.safetensors").values()} - {"torch.float16"}
    if wrong:
        raise ValueError(
            f"`beats` {beats} must be float16, as it was when the adapter was trained, got {sorted(wrong)}"
        )
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        weights = {name: _to_half(name, file.get_tensor(name)) for name in file.keys()}
        metadata = file.metadata()  # which base weights it belongs to
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = None  # a path on the machine that trained it
    with output_folder(output, overwrite) as folder:
        for name in ("adapter", "beats"):
            (Path(folder) / name).mkdir()
        save_file(weights, Path(folder, "adapter", ADAPTER_WEIGHTS), metadata=metadata)
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        Path(folder, "adapter", ADAPTER_CONFIG).write_text(text, encoding="utf-8")
        shutil.copy(beats / "model.safetensors", Path(folder, "beats"))
        for file in (beats / "config.json", beats / "preprocessor_config.json"):  # scores stay behind
            if file.is_file():
                _copy_settings(file, Path(folder, "beats", file.name))
        if card is not None:
            shutil.copyfile(card, Path(folder, "README.md"))
    return Path(output)


def copy_published(beats: str | Path, adapter: str | Path, overwrite: bool = False) -> tuple[Path, Path]:
    """
    Copies the published BEATs and adapter to these folders, which it returns.

    Raises `ValueError` if one exists already, unless it may be overwritten.
    """
    for part, output in zip(NANO_TRAINED_PARTS, (beats, adapter)):
        with output_folder(output, overwrite) as folder:
            shutil.copytree(NANO_CHECKPOINT / part, folder, dirs_exist_ok=True)
    return Path(beats), Path(adapter)


def _copy_settings(source: Path, target: Path) -> None:
    """Copies a JSON file, without the names of code files, which stay behind."""
    settings = json.loads(source.read_text(encoding="utf-8"))
    settings.pop("auto_map", None)
    target.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _to_half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name.endswith("base_fingerprint"):
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise ValueError(f"`adapter` has numbers beyond float16 in {name}")
    return half
