# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
from data_salmonn.extras import needs_extra
from evaluation_salmonn.metrics import base, java


class CiderD(base.MeanMetric):
    """
    CIDEr-D, times 10 as is usual and times 100 as the papers print it, by pycocoevalcap: its scorer clips counts and
    penalises differences in length, which is CIDEr-D though it is called CIDEr there. Document frequencies are those of
    the references given, so it is a score of a whole test set: a bootstrap keeps them. Needs Java for tokenisation.
    """

    main = "cider_d"
    higher_is_better = True
    unit = "points"
    scale = 100.0
    citation = "Vedantam et al. 2015, CIDEr: Consensus-based Image Description Evaluation"

    def missing_parts(self):
        return java.missing_java()

    def example_scores(self, predictions, references):
        with needs_extra("eval"):
            from pycocoevalcap.cider.cider import Cider

        predicted, expected = java.tokenize_captions(predictions, references)
        return Cider().compute_score(expected, predicted)[1]
