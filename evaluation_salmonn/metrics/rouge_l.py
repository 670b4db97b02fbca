# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
from data_salmonn.extras import needs_extra
from evaluation_salmonn.metrics import base


with needs_extra("eval"):
    from rouge_score.rouge_scorer import RougeScorer


class RougeL(base.MeanMetric):
    """Longest common subsequence F1, 0 to 100, by rouge-score without stemming; the best reference counts."""

    main = "rouge_l"
    higher_is_better = True
    unit = "points"
    scale = 100.0
    citation = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"

    def example_scores(self, predictions, references):
        scorer = RougeScorer(["rougeL"], use_stemmer=False)
        return [
            scorer.score_multi(base.as_list(reference), prediction)["rougeL"].fmeasure
            for prediction, reference in zip(predictions, references)
        ]
