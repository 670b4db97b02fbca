# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The plots of the report: small PNG files, equal bit by bit for equal data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from data_salmonn.extras import needs_extra
from nano_salmonn.report.inputs import Curve, Score


with needs_extra("train"):
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL import Image


DPI = 100
COLOURS = 64
MARKERS = "osD^vPX"
# Points up to which each gets a marker.
FEW = 40


@dataclass
class Panel:
    """Lines in one pair of axes. Those in `dashed` are for comparison, grey."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Curve]
    dashed: Mapping[str, Curve] = field(default_factory=dict)


def plot_panels(path: Path, panels: Sequence[Panel], columns: int = 2) -> None:
    """Panels in rows of `columns`; places without a panel stay empty."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.1 * columns, 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, grid):  # in this order: zip takes no place for a panel that is not there
        for number, (label, curve) in enumerate(panel.lines.items()):
            marker = MARKERS[number % len(MARKERS)] if len(curve) <= FEW else None
            axes.plot(*zip(*curve), marker=marker, markersize=4, linewidth=1.4, label=label)
        for label, curve in panel.dashed.items():
            axes.plot(*zip(*curve), color="grey", linestyle="--", marker=".", linewidth=1, label=label)
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel(panel.x_label, fontsize=8)
        axes.set_ylabel(panel.y_label, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if len(panel.lines) + len(panel.dashed) > 1:
            axes.legend(fontsize=7)
    for axes in list(grid):  # those that zip left over
        axes.set_axis_off()
    _save(figure, path)


def plot_scores(path: Path, groups: Mapping[str, Mapping[str, Mapping[str, Score]]]) -> None:
    """
    Scores as dots with their intervals.

    Args:
        groups: x label -> row -> run -> score. Each label is a pair of axes.
    """
    heights = [0.42 * len(rows) + 0.9 for rows in groups.values()]
    figure = Figure(figsize=(7, sum(heights)), layout="constrained")
    grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    runs = list(dict.fromkeys(run for rows in groups.values() for scores in rows.values() for run in scores))
    for axes, (x_label, rows) in zip(grid, groups.items()):
        for number, run in enumerate(runs):
            shift = 0.5 * ((number + 0.5) / len(runs) - 0.5)
            found = [(row + shift, scores[run]) for row, scores in enumerate(rows.values()) if run in scores]
            if not found:
                continue
            for height, score in found:
                if score.low is not None:
                    axes.plot([score.low, score.high], [height, height], color=f"C{number}", linewidth=1.2)
            heights_of_run = [height for height, _ in found]
            axes.plot([score.value for _, score in found], heights_of_run, **_dots(number))
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # dots at 0 are seen as a whole
        axes.set_xlabel(x_label, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(alpha=0.3, axis="x")
    handles = [Line2D([], [], label=run, **_dots(number)) for number, run in enumerate(runs)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(runs), fontsize=8)
    _save(figure, path)


def _dots(number: int) -> dict:
    """How the scores of a run are drawn, by its number."""
    marker = MARKERS[number % len(MARKERS)]
    return {"marker": marker, "color": f"C{number}", "markersize": 5, "linestyle": "none"}


def plot_bars(path: Path, values: Mapping[str, float], x_label: str) -> None:
    """Horizontal bars from the top in the order of `values`."""
    figure = Figure(figsize=(6, 0.17 * len(values) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(values)), list(values.values()), height=0.7)
    axes.set_yticks(range(len(values)), list(values), fontsize=7)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(x_label, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3, axis="x")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=DPI)
    # a palette makes files a third as large, and nothing of the version of matplotlib is kept
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)
