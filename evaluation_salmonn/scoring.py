# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""From answers to scores with confidence intervals."""

from collections.abc import Sequence

import numpy as np

from evaluation_salmonn.bootstrap import confidence_interval
from evaluation_salmonn.data import Example
from evaluation_salmonn.filters import apply_filters
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.task import MetricEntry, Task


def filtered_answers(task: Task, predictions: Sequence[str]) -> list[str]:
    """Answers as they are scored."""
    return [apply_filters(task.answer_filter, prediction) for prediction in predictions]


def entry_statistics(
    task: Task, entry: MetricEntry, examples: Sequence[Example], predictions: Sequence[str]
) -> np.ndarray:
    """Statistics `(examples, k)` of one entry's metric. Raises `MissingPartsError` if it cannot be computed here."""
    references = [list(example.texts[entry.references]) for example in examples]
    return load_metric(entry.metric).statistics(filtered_answers(task, predictions), references, **entry.options)


def missing_metrics(task: Task) -> dict[str, str]:
    """Entries of a task that cannot be computed on this machine, and why."""
    reasons = {entry.name: load_metric(entry.metric).missing_parts(**entry.options) for entry in task.metrics}
    return {name: reason for name, reason in reasons.items() if reason}


def score_task(
    task: Task,
    examples: Sequence[Example],
    predictions: Sequence[str],
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """
    All scores of a task, by name of the entry: `value`, `low` and `high` (95 % confidence), `higher_is_better`, `details`
    (the metric's other numbers) and `per_example`: its `scores` for each example alone, in the order of `examples`, and
    the `statistics` that they come from.

    A metric whose parts are missing has the value `None` and a `reason`.
    """
    missing = missing_metrics(task)
    scores = {}
    for entry in task.metrics:
        common = {"metric": entry.metric, "options": entry.options, "higher_is_better": entry.higher_is_better}
        if entry.name in missing:
            scores[entry.name] = {"value": None, "reason": missing[entry.name], **common}
            continue
        statistics = entry_statistics(task, entry, examples, predictions)
        scores[entry.name] = {**_score_entry(entry, statistics, bootstrap_samples, seed), **common}
    return scores


def _score_entry(entry: MetricEntry, statistics: np.ndarray, samples: int, seed: int) -> dict:
    metric = load_metric(entry.metric)

    def main_value(totals: np.ndarray) -> float:
        return metric.from_totals(totals, **entry.options)[metric.main]

    details = metric.from_totals(statistics.sum(0), **entry.options)
    low, high = confidence_interval(statistics, main_value, samples, seed=seed) if samples else (None, None)
    score = {"value": details.pop(metric.main), "low": low, "high": high}
    if hasattr(metric, "signature"):
        score["signature"] = metric.signature(**entry.options)
    per_example = {"scores": [main_value(row) for row in statistics], "statistics": statistics.tolist()}
    return {**score, "details": details, "per_example": per_example}
