# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Confidence intervals by the bootstrap: examples are drawn again with replacement, many times."""

from collections.abc import Callable, Iterator

import numpy as np


def _draws(num_examples: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each example was drawn, `(num_examples,)`, for each of `samples` draws; the same for the same seed."""
    rng = np.random.default_rng(seed)
    shares = np.full(num_examples, 1 / num_examples)
    for _ in range(samples):
        yield rng.multinomial(num_examples, shares)


def confidence_interval(
    statistics: np.ndarray,
    score: Callable[[np.ndarray], float],
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Percentile interval of `score`, a function of summed statistics.

    Args:
        statistics: `(examples, k)`, those of a [`SummedMetric`].
        score: from totals `(k,)` to the number that is reported.
        samples: number of draws.
        level: share of draws inside the interval.
    """
    scores = [score(counts @ statistics) for counts in _draws(len(statistics), samples, seed)]
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    first: np.ndarray, second: np.ndarray, score: Callable[[np.ndarray], float], samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """
    How the score of `second` differs from that of `first`, both `(examples, k)` and about the same examples: the 95 %
    interval of the difference, and the share of draws in which there is none of the sign of the whole set (a one-sided p).

    Raises `ValueError` if the two differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"`first` and `second` must be about the same examples, got shapes {first.shape}, {second.shape}."
        )
    differences = np.array(
        [score(counts @ second) - score(counts @ first) for counts in _draws(len(first), samples, seed)]
    )
    low, high = np.quantile(differences, [0.025, 0.975])
    whole = score(second.sum(0)) - score(first.sum(0))
    against = np.mean(differences * np.sign(whole) <= 0)
    return float(low), float(high), float(against)
