# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import jiwer

from evaluation_salmonn.metrics import base
from evaluation_salmonn.normalizers import get_normalizer


class WordErrorRate(base.SummedMetric):
    """
    Word error rate in percent, over the whole corpus (not the mean over utterances), with substitutions, deletions and
    insertions apart. `normalizer`: `"english"`, `"basic"`, `"lower"` or `"none"`.
    """

    main = "wer"
    higher_is_better = False

    def statistics(self, predictions, references, normalizer: str = "english"):
        normalize = get_normalizer(normalizer)
        references = [normalize(base.only_reference(reference)) for reference in references]
        output = jiwer.process_words(references, [normalize(prediction) for prediction in predictions])
        return base.edit_statistics(output.alignments, [len(words) for words in output.references])

    def from_totals(self, totals, normalizer: str = "english"):
        return base.error_rates(self.main, totals)
