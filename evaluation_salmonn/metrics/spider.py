# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import numpy as np

from data_salmonn.extras import needs_extra
from evaluation_salmonn.metrics import base, cider_d, java


class Spider(base.MeanMetric):
    """SPIDEr, times 100: the mean of CIDEr-D and SPICE. Needs Java and Stanford CoreNLP, see docs/evaluation.md."""

    main = "spider"
    higher_is_better = True
    unit = "points"
    scale = 100.0
    citation = "Liu et al. 2017, Improved Image Captioning via Policy Gradient Optimization of SPIDEr"

    def missing_parts(self):
        return java.missing_spice()

    def example_scores(self, predictions, references):
        with needs_extra("eval"):
            from pycocoevalcap.spice.spice import Spice

        predicted, expected = java.tokenize_captions(predictions, references)
        spice = [scores["All"]["f"] for scores in Spice().compute_score(expected, predicted)[1]]
        return (np.asarray(cider_d.CiderD().example_scores(predictions, references)) + np.asarray(spice)) / 2
