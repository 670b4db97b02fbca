# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What all metrics have in common: a score is a function of statistics that are summed over examples.

This holds for error rates and BLEU as for plain means, and it gives three things at once: the corpus score, the score
of one example for the report, and bootstrap confidence intervals that cost a matrix product.

A module that defines a metric imports this one as a whole, not the class: `evaluate.load` takes the first metric class
that it finds in a file.
"""

from collections.abc import Sequence

import numpy as np

from data_salmonn.extras import needs_extra


with needs_extra("eval"):
    import datasets
    import evaluate


class MissingPartsError(ValueError):
    """A metric cannot be computed here, and the message says what to install."""


class SummedMetric(evaluate.Metric):
    """
    A metric whose score is a function of summed statistics.

    Subclasses set `main`, the key of the value that is compared and plotted, its `unit` and direction, and define `_statistics` and
    `from_totals`. References are strings, or lists of strings where an example has several.
    """

    main: str
    higher_is_better: bool
    unit: str  # of `main`: "%", "share" (0 to 1), "points" (0 to 100 or as the papers scale it) or "words"
    citation: str = ""

    def _info(self) -> evaluate.MetricInfo:
        text, texts = datasets.Value("string"), datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=self.citation,
            inputs_description="predictions: list of str; references: list of str, or of lists of str",
            # the first that fits is taken, so lists come first
            features=[
                datasets.Features({"predictions": text, "references": texts}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def missing_parts(self, **options) -> str | None:
        """Why the metric cannot be computed on this machine, or `None` if it can."""
        return None

    def _statistics(self, predictions: list[str], references: list, **options) -> np.ndarray:
        raise NotImplementedError

    def from_totals(self, totals: np.ndarray, **options) -> dict[str, float]:
        """The scores of a set of examples whose statistics sum up to `totals` of shape `(k,)`."""
        raise NotImplementedError

    def compute(self, *, predictions=None, references=None, **options) -> dict[str, float] | None:
        """
        The scores of all examples together, as those of [`statistics`] say, or of what `add_batch` was given before.

        Raises what [`statistics`] raises.
        """
        if predictions is None and references is None:
            return super().compute(**options)
        return self._compute(predictions, references, **options)

    def _compute(self, predictions, references, **options) -> dict[str, float]:
        return self.from_totals(self.statistics(predictions, references, **options).sum(0), **options)

    def statistics(self, predictions: Sequence[str], references: Sequence, **options) -> np.ndarray:
        """
        Statistics of each example: `(examples, k)`, float64.

        Raises `TypeError` on what is no text, `ValueError` on lists of different lengths or none, and [`MissingPartsError`]
        if the metric cannot be computed on this machine.
        """
        for name, texts in (("predictions", predictions), ("references", references)):
            if isinstance(texts, (str, dict)) or not hasattr(texts, "__len__"):
                raise TypeError(f"`{name}` must be a list with an item for each example, got {type(texts).__name__}.")
        if len(predictions) != len(references) or not len(predictions):
            raise ValueError(
                f"`predictions` and `references` must be equally many and at least one, got {len(predictions)} and "
                f"{len(references)}."
            )
        for number, (prediction, reference) in enumerate(zip(predictions, references)):
            if not isinstance(prediction, str):
                raise TypeError(f"`predictions[{number}]` must be a string, got {prediction!r}.")
            texts = [reference] if isinstance(reference, str) else reference
            if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"`references[{number}]` must be a string or a list of strings, got {reference!r}.")
            if not len(texts):
                raise ValueError(f"`references[{number}]` must hold at least one text, got none.")
        reason = self.missing_parts(**options)
        if reason:
            raise MissingPartsError(reason)
        return self._statistics(list(predictions), list(references), **options)


class MeanMetric(SummedMetric):
    """A metric that is the mean of one number an example, times `scale`."""

    scale: float = 1.0

    def example_scores(self, predictions: Sequence[str], references: Sequence, **options) -> Sequence[float]:
        """One number for each example."""
        raise NotImplementedError

    def _statistics(self, predictions, references, **options):
        scores = np.asarray(self.example_scores(predictions, references, **options), dtype=np.float64)
        return np.stack([scores, np.ones_like(scores)], axis=-1)

    def from_totals(self, totals, **options):
        return {self.main: float(self.scale * totals[0] / totals[1])}


def check_whole_number(name: str, value, least: int) -> None:
    """Raises a `ValueError` unless `value`, of the option `name`, is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")


def as_list(reference: str | Sequence[str]) -> list[str]:
    """The references of one example, as a list."""
    return [reference] if isinstance(reference, str) else list(reference)


def only_reference(reference: str | Sequence[str]) -> str:
    """The reference of an example that may have one only. Raises `ValueError` if it has more."""
    references = as_list(reference)
    if len(references) != 1:
        raise ValueError(
            f"`references` must hold one text for each example here, got {len(references)}: {references}."
        )
    return references[0]
