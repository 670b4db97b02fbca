# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
from data_salmonn.error_rates import count_word_edits, error_rates
from evaluation_salmonn.filters import phones
from evaluation_salmonn.metrics import base


class PhoneErrorRate(base.SummedMetric):
    """
    Phone error rate in percent, over the whole corpus: phones are separated by spaces, upper and lower case and stress
    marks do not count. Answers must use the inventory of the references (ARPAbet for LibriSpeech).
    """

    main = "per"
    higher_is_better = False
    unit = "%"

    def _statistics(self, predictions, references):
        references = [phones(base.only_reference(reference)) for reference in references]
        return count_word_edits(references, [phones(prediction) for prediction in predictions])

    def from_totals(self, totals):
        return error_rates(self.main, totals)
