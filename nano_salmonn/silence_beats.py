# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Writes an adapter that no longer hears what BEATs gives, to measure what BEATs is worth to a trained model.

    python -m nano_salmonn.silence_beats runs/instruct/adapter runs/instruct-without-beats
    salmonn evaluate runs/base --adapter runs/instruct-without-beats --tasks nano_sound --data-dir data/benchmark ...

Scale and offset of BEATs' layer norm become zero, so that the connector reads zeros in the place of BEATs, and everything
else is as it was.
"""

import argparse
import shutil
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from data_salmonn.files import output_folder


WEIGHTS = "adapter_model.safetensors"
NORM = "beats_layer_norm"


def silence_beats(adapter: str | Path, output: str | Path) -> Path:
    """
    Copies the folder `adapter` to `output` with BEATs' layer norm set to zero, and returns `output`.

    Raises `ValueError` if `adapter` holds no such norm, or if `output` exists.
    """
    adapter, output = Path(adapter), Path(output)
    if not (adapter / WEIGHTS).is_file():
        raise ValueError(f"`adapter` must be a folder with {WEIGHTS}, got {adapter}.")
    if output.exists():
        raise ValueError(f"`output` must be a new folder, got {output}, which exists.")
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    norms = [name for name in weights if NORM in name]
    if not norms:
        raise ValueError(f"`adapter` must be one of a model with BEATs, got {adapter} without {NORM}.")
    with output_folder(output) as folder:
        shutil.copytree(adapter, folder, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)
        save_file(weights | {name: weights[name].zero_() for name in norms}, folder / WEIGHTS, metadata=metadata)
    return output


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nano_salmonn.silence_beats",
        description=__doc__.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("adapter", type=Path, help="folder of a trained adapter")
    parser.add_argument("output", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        silence_beats(options.adapter, options.output)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
