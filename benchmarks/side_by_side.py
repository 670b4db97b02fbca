# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What every benchmark here does: alternatives run in turns, so that a busy machine slows all of them alike; medians, spreads
and ratios of their CPU seconds are printed, and kept as JSON and a bar chart if asked for.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a clone that is not installed


@dataclass
class Row:
    """One alternative of a question: its seconds in each turn, of the CPU and by the clock."""

    question: str
    name: str
    cpu_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.cpu_seconds)

    @property
    def spread(self) -> float:
        """Half of the distance between the quartiles."""
        if len(self.cpu_seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.cpu_seconds, n=4, method="inclusive")
        return (high - low) / 2


class Benchmark:
    """Collects the rows of one command."""

    def __init__(self, description: str):
        self.parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.parser.add_argument("--repeats", type=int, default=5, help="turns that are counted (default: 5)")
        self.parser.add_argument("--output", type=Path, help="folder for NAME.json and NAME.png")
        self.rows: list[Row] = []
        self.repeats = 5

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        options = self.parser.parse_args(arguments)
        if options.repeats < 1:
            self.parser.error(f"argument --repeats: must be at least 1, got {options.repeats}")
        self.repeats = options.repeats
        print(describe_machine())
        return options

    @torch.no_grad()
    def compare(self, question: str, alternatives: dict[str, Callable[[], object]]) -> dict[str, float]:
        """
        Runs each alternative once to warm up, then all in turns. Prints and returns the medians of their CPU seconds. One that
        works in another process returns the CPU seconds that it took there, a `float`.
        """
        rows = {name: Row(question, name) for name in alternatives}
        for turn in range(self.repeats + 1):
            for name, run in alternatives.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                found = run()
                if turn > 0:
                    here = time.process_time() - cpu_start
                    rows[name].cpu_seconds.append(found if isinstance(found, float) else here)
                    rows[name].seconds.append(time.perf_counter() - start)
        self.rows += rows.values()
        first = next(iter(rows.values()))
        print(f"\n{question}\n{'':<44}{'CPU s':>10}{'spread':>9}{'clock s':>10}{'ratio':>8}")
        for row in rows.values():
            clock = statistics.median(row.seconds)
            ratio = row.median / first.median
            print(f"  {row.name:<42}{row.median:>10.4f}{row.spread:>9.4f}{clock:>10.4f}{ratio:>8.2f}", flush=True)
        return {name: row.median for name, row in rows.items()}

    def save(self, folder: Path | None, name: str) -> None:
        """`NAME.json` with every turn, and `NAME.png`; nothing without a folder."""
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        result = {"command": sys.argv, "machine": describe_machine(), "rows": [asdict(row) for row in self.rows]}
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        plot(self.rows, folder / f"{name}.png")
        print(f"\nwritten: {folder / name}.json, {folder / name}.png")


def describe_machine() -> str:
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch "
        f"{torch.__version__}"
    )


def plot(rows: list[Row], path: Path) -> None:
    """Bars of CPU seconds, a group for each question."""
    from matplotlib.figure import Figure

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question, []).append(row)
    heights = [len(group) + 1.5 for group in groups.values()]
    figure = Figure(figsize=(7, 0.3 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (question, group) in zip(panels, groups.items()):
        names, medians, spreads = zip(*((row.name, row.median, row.spread) for row in group))
        axes.barh(names, medians, xerr=spreads, color="tab:blue", height=0.7)
        axes.invert_yaxis()
        axes.set_title(question, loc="left", fontsize="medium")
        axes.set_xlabel("CPU seconds")
    figure.savefig(path, dpi=110)
