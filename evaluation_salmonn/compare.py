# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Comparison of two runs: which scores differ by more than chance, and which answers changed."""

from pathlib import Path

import numpy as np

from data_salmonn.files import write_text
from evaluation_salmonn.bootstrap import paired_difference
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.report import environment, format_value, mark_difference
from evaluation_salmonn.run_files import read_per_example, read_results, read_rows


def compare_runs(first: str | Path, second: str | Path, samples: int = 1000, seed: int = 0) -> dict:
    """
    Compares the tasks that two finished runs have in common.

    Returns:
        `models`: names; `tasks`: task -> `scores` (name -> `first`, `second`, `difference`, its 95 % interval `low` and
        `high` by a paired bootstrap, and `against`, the share of draws in which the sign is another) and `changed`, the
        examples whose answer is another, those that became worse first.

    Raises `ValueError` if the runs have no task in common, or one on other examples.
    """
    results = [read_results(run) for run in (first, second)]
    common = [name for name in results[0]["tasks"] if name in results[1]["tasks"]]
    if not common:
        raise ValueError(f"`first` and `second` must share a task, got {[sorted(r['tasks']) for r in results]}.")
    tasks = {}
    for name in common:
        rows = [read_rows(run, name) for run in (first, second)]
        asked = [[(row["id"], row["references"]) for row in side] for side in rows]
        if asked[0] != asked[1]:
            raise ValueError(f"Task {name!r} must be on the same examples in both runs, got others in {second}.")
        values = [read_per_example(run, name) for run in (first, second)]
        described = [result["tasks"][name]["scores"] for result in results]
        scores = {
            key: _compare_score(described[0][key], *(side[key]["statistics"] for side in values), samples, seed)
            for key in values[0]
            if key in values[1] and described[0][key]["options"] == described[1][key]["options"]
        }
        tasks[name] = {"scores": scores, "changed": _changed_answers(rows, values, described[0])}
    return {"models": [result["model"]["name"] for result in results], "tasks": tasks}


def _compare_score(described: dict, first: list, second: list, samples: int, seed: int) -> dict:
    metric = load_metric(described["metric"])

    def main_value(totals: np.ndarray) -> float:
        return metric.from_totals(totals, **described["options"])[metric.main]

    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    low, high, against = paired_difference(one, other, main_value, samples, seed)
    values = main_value(one.sum(0)), main_value(other.sum(0))
    return {
        "first": values[0],
        "second": values[1],
        "difference": values[1] - values[0],
        "low": low,
        "high": high,
        "against": against,
        "higher_is_better": described["higher_is_better"],
    }


def _changed_answers(rows: list[list[dict]], values: list[dict], described: dict) -> list[dict]:
    key = next((key for key in values[0] if key in values[1]), None)
    changed = []
    for i, (one, other) in enumerate(zip(*rows)):
        if one["prediction"] == other["prediction"]:
            continue
        gain = 0.0
        if key is not None:
            gain = values[1][key]["scores"][i] - values[0][key]["scores"][i]
            gain = gain if described[key]["higher_is_better"] else -gain
        changed.append(
            {
                "id": one["id"],
                "references": one["references"],
                "first": one["prediction"],
                "second": other["prediction"],
                "gain": gain,
            }
        )
    return sorted(changed, key=lambda row: row["gain"])


def comparison_to_markdown(comparison: dict, max_examples: int = 10) -> str:
    """The comparison as Markdown, with some of the answers that changed."""
    first, second = comparison["models"]
    lines = [f"# {first} and {second}", "", "| task | score | first | second | difference | 95 % | opposite sign |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for name, task in comparison["tasks"].items():
        for key, score in task["scores"].items():
            numbers = [format_value(score[part]) for part in ("first", "second", "difference")]
            interval = f"{format_value(score['low'])} to {format_value(score['high'])}"
            lines.append(f"| {name} | {key} | {' | '.join(numbers)} | {interval} | {score['against']:.3f} |")
    for name, task in comparison["tasks"].items():
        lines += ["", f"## {name}: {len(task['changed'])} answers changed", ""]
        lines += [f"- {row['id']}: {row['first']!r} -> {row['second']!r}" for row in task["changed"][:max_examples]]
    return "\n".join(lines) + "\n"


def write_comparison(comparison: dict, output: str | Path, max_examples: int = 500) -> Path:
    """Writes `comparison.md` and `comparison.html` into the folder `output`; returns the page's path."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "comparison.md", comparison_to_markdown(comparison))
    page = environment().get_template("comparison.html")
    text = page.render(comparison=comparison, mark=mark_difference, format=format_value, max_examples=max_examples)
    write_text(folder / "comparison.html", text)
    return folder / "comparison.html"
