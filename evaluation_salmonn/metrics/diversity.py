# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import base


class Diversity(base.MeanMetric):
    """Number of different words in an answer, averaged over answers (arXiv 2310.13289, table 2: stories)."""

    main = "diversity"
    higher_is_better = True
    unit = "words"

    def example_scores(self, predictions, references):
        normalize = get_normalizer("basic")
        return [len(set(normalize(prediction).split())) for prediction in predictions]
