# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import re
from collections.abc import Mapping, Sequence

from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import base


def _find(needle: str, text: str) -> int:
    """Where the words of `needle` stand in `text`, or -1."""
    found = re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", text) if needle else None
    return -1 if found is None else found.start()


def _first_label(text: str, labels: Mapping[str, Sequence[str]]) -> str | None:
    """The label of which the first name, or any other, stands first in `text`; the longest where several start there."""
    found = [
        (position, -len(name), label)
        for label, names in labels.items()
        for name in [label, *names]
        if (position := _find(name, text)) >= 0
    ]
    return min(found)[2] if found else None


def _share_named(answer: str, expected: Sequence[Sequence[str]], extract: str) -> float:
    """How much of what was expected, each under one of its names, occurs in `answer`."""
    places = [min((p for name in names if (p := _find(name, answer)) >= 0), default=-1) for names in expected]
    named = [place >= 0 for place in places]
    if extract == "each":
        return sum(named) / len(named)
    if extract == "all":
        return float(all(named))
    if extract == "ordered":
        return float(all(named) and places == sorted(set(places)))
    return float(any(named))


def _check_labels(labels) -> None:
    if not isinstance(labels, Mapping):
        raise TypeError(f"`labels` must be a list of names, or a dict of lists of names, got {labels!r}.")
    for label, others in labels.items():
        is_list = isinstance(others, Sequence) and not isinstance(others, str)
        if not is_list or not all(isinstance(name, str) for name in (label, *others)):
            raise TypeError(f"`labels` must hold names, and lists of other names, got {label!r}: {others!r}.")


class Accuracy(base.MeanMetric):
    """
    Share of right answers, 0 to 1; texts are compared after Whisper's basic normaliser.

    `extract="strict"`: the answer must be the reference, or one of them, and nothing else. `"flexible"`: with
    `labels` (a list, or label -> other names for it), the label named first counts; without, a reference must occur in
    the answer as whole words. `"each"`: the share of an example's references that occur in the answer, for keywords.
    `"all"`: all references must occur in the answer, and with `"ordered"` in their order, for events. In the last four a
    reference may list other names after `|`.
    """

    main = "accuracy"
    higher_is_better = True
    unit = "share"

    def example_scores(self, predictions, references, extract: str = "strict", labels=None):
        if extract not in ("strict", "flexible", "each", "all", "ordered"):
            raise ValueError(f"`extract` must be 'strict', 'flexible', 'each', 'all' or 'ordered', got {extract!r}.")
        normalize = get_normalizer("basic")
        names = {label: [] for label in labels} if isinstance(labels, (list, tuple)) else labels or {}
        _check_labels(names)
        names = {normalize(label): [normalize(name) for name in others] for label, others in names.items()}

        scores = []
        for prediction, reference in zip(predictions, references):
            answer = normalize(prediction)
            expected = [[normalize(name) for name in text.split("|")] for text in base.as_list(reference)]
            if extract == "strict":
                scores.append(any(answer in alternatives for alternatives in expected))
            elif extract == "flexible" and names:
                scores.append(any(_first_label(answer, names) in alternatives for alternatives in expected))
            else:
                scores.append(_share_named(answer, expected, extract))
        return scores
