# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Metrics as `evaluate` modules that are loaded from this package, without any download.

    from evaluation_salmonn.metrics import load_metric
    load_metric("wer").compute(predictions=["a b"], references=["a c"])

Each file is a whole module: `evaluate.load("…/evaluation_salmonn/metrics/wer.py")` works too.
"""

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path

from evaluation_salmonn.metrics import base


def list_metrics() -> list[str]:
    """Names of all metrics."""
    helpers = {"__init__", "base", "java"}
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in helpers)


def load_metric(name: str) -> "base.SummedMetric":
    """The metric called `name`. Raises `ValueError` for an unknown name."""
    if name not in list_metrics():
        raise ValueError(f"`metric` must be one of {list_metrics()}, got {name!r}.")
    return _load_module(name)


@cache
def _load_module(name: str) -> "base.SummedMetric":
    module = import_module(f"evaluation_salmonn.metrics.{name}")
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, base.SummedMetric) and value.__module__ == module.__name__:
            return value()
    raise ValueError(f"{module.__file__} defines no metric.")
