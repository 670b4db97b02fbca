# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The results folder of a run: what was run, with which versions, and how it went.

    recipe.json   the recipe with all overrides      run.json      versions, seed, sizes, command
    curves.json   every logged value by step         curves.png    the same as a picture
"""

import importlib.metadata
import logging
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from data_salmonn.extras import MissingPackageError, needs_extra
from data_salmonn.files import write_json


logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "salmonn-transformers")
# Logged values that say nothing about learning.
NO_CURVE = ("step", "epoch", "total_flos")


def find_versions() -> dict[str, str | None]:
    """Versions of Python, of the packages that matter, and of this project's code where it is a git checkout."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        versions["commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        versions["commit"] = None
    return versions


def find_curves(log_history: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """The Trainer's log as curves: for each value that was logged, its steps and values."""
    curves = {}
    for entry in log_history:
        for name, value in entry.items():
            if name not in NO_CURVE and isinstance(value, (int, float)) and "step" in entry:
                curves.setdefault(name, []).append((entry["step"], value))
    return curves


def plot_curves(
    path: str | Path, curves: dict[str, list[tuple[float, float]]], x_label: str, y_label: str = ""
) -> bool:
    """Draws curves, one above the other, to a PNG. Returns whether it did: without matplotlib it only warns."""
    try:
        with needs_extra("train"):
            from matplotlib.figure import Figure
    except MissingPackageError as error:
        logger.warning("%s is not drawn: %s", path, error)
        return False
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return False
    height = 2.2 * len(curves)  # inches
    figure = Figure(figsize=(7, height))
    # margins as they are needed: a layout engine takes as long again as drawing
    figure.subplots_adjust(left=0.15, right=0.97, top=1 - 0.15 / height, bottom=0.5 / height)
    for axes, (name, points) in zip(figure.subplots(len(curves), squeeze=False)[:, 0], curves.items()):
        axes.plot(*zip(*points), marker="." if len(points) < 50 else None)
        axes.set_ylabel(name if not y_label else f"{name}\n{y_label}")
        axes.grid(alpha=0.3)
    axes.set_xlabel(x_label)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return True


class ResultsCallback(TrainerCallback):
    """Keeps the results folder, `output_dir`, up to date."""

    def __init__(self, fields: dict[str, Any]):
        self.fields = fields

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        write_json(folder / "recipe.json", self.fields)
        run = {
            "command": sys.argv,
            "versions": find_versions(),
            "seed": args.seed,
            "processes": args.world_size,
            "trained_parameters": trained,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "max_steps": state.max_steps,
            "first_step": state.global_step,
        }
        write_json(folder / "run.json", run)

    def on_evaluate(self, args, state, control, **kwargs):
        self._write_curves(args, state)

    def on_save(self, args, state, control, **kwargs):
        self._write_curves(args, state)

    def on_train_end(self, args, state, control, **kwargs):
        self._write_curves(args, state)
        if state.is_world_process_zero:
            plot_curves(Path(args.output_dir, "curves.png"), find_curves(state.log_history), x_label="step")

    @staticmethod
    def _write_curves(args, state) -> None:
        if state.is_world_process_zero:
            write_json(Path(args.output_dir, "curves.json"), find_curves(state.log_history))
