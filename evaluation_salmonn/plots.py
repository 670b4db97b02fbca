# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Plots of a report, as PNG."""

from collections.abc import Sequence
from pathlib import Path

from data_salmonn.extras import needs_extra


with needs_extra("eval"):
    import matplotlib

    matplotlib.use("Agg")  # no window
    import matplotlib.pyplot as plt


def plot_scores(results: dict, path: Path) -> str | None:
    """Scores with published values, one row each, and those of this run; the file's name, or `None` if there are none."""
    found = [
        (f"{name}\n{key}", score, next(p for p in task["published"] if p["metric"] == key))
        for name, task in results["tasks"].items()
        for key, score in task["scores"].items()
        if score["value"] is not None and any(p["metric"] == key for p in task["published"])
    ]
    if not found:
        return None
    figure, axes = plt.subplots(len(found), 1, figsize=(7, 0.9 * len(found) + 0.6), squeeze=False)
    for axis, (label, score, published) in zip(axes[:, 0], found):
        axis.barh([0], [published["value"]], color="lightgrey", height=0.5)
        axis.barh([1], [score["value"]], color="tab:blue", height=0.5)
        if score["low"] is not None:
            axis.plot([score["low"], score["high"]], [1, 1], color="black", linewidth=1)
        axis.set_yticks([0, 1], [published["model"], "this run"], fontsize=7)
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7, labelpad=90)
        axis.tick_params(axis="x", labelsize=7)
    return _save(figure, path)


def plot_distribution(values: Sequence[float], name: str, path: Path) -> str | None:
    """How the score of single examples is distributed; `None` if all are the same."""
    if len(set(values)) < 2:
        return None
    figure, axis = plt.subplots(figsize=(5, 2.2))
    axis.hist(values, bins=min(40, max(5, len(values) // 5)), color="tab:blue")
    axis.set_xlabel(f"{name} of one example")
    axis.set_ylabel("examples")
    return _save(figure, path)


def plot_curves(curves: dict[str, Sequence[tuple[float, float]]], x_label: str, path: Path) -> str | None:
    """Curves below each other, each with its own axis; `None` if none has more than one point."""
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return None
    figure, axes = plt.subplots(len(curves), 1, figsize=(7, 2.2 * len(curves)), squeeze=False)
    for axis, (name, points) in zip(axes[:, 0], curves.items()):
        axis.plot(*zip(*points), marker=".")
        axis.set_ylabel(name, fontsize=8)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel(x_label)
    return _save(figure, path)


def _save(figure, path: Path) -> str:
    figure.tight_layout()
    # no date in the file: the same scores make the same bytes
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path.name
