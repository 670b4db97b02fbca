# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
from data_salmonn.error_rates import count_word_edits, error_rates
from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import base


class WordErrorRate(base.SummedMetric):
    """
    Word error rate in percent, over the whole corpus (not the mean over utterances), with substitutions, deletions and
    insertions apart. `normalizer`: `"english"`, `"basic"`, `"lower"` or `"none"`.
    """

    main = "wer"
    higher_is_better = False
    unit = "%"

    def _statistics(self, predictions, references, normalizer: str = "english"):
        normalize = get_normalizer(normalizer)
        references = [normalize(base.only_reference(reference)) for reference in references]
        return count_word_edits(references, [normalize(prediction) for prediction in predictions])

    def from_totals(self, totals, normalizer: str = "english"):
        return error_rates(self.main, totals)
