# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import base


def has_loop(words: list[str], longest: int, times: int) -> bool:
    """Whether some run of at most `longest` words stands `times` times or more without a gap."""
    for length in range(1, min(longest, len(words)) + 1):
        same = 0  # how many words in a row equal the word `length` before
        for i in range(length, len(words)):
            same = same + 1 if words[i] == words[i - length] else 0
            if same >= length * (times - 1):
                return True
    return False


class RepeatRate(base.MeanMetric):
    """
    Percentage of answers that loop: the same one to `longest` words, `times` times or more in a row. The paper reports a
    repeat rate (arXiv 2310.13289, table 4) without defining it; this definition is ours.
    """

    main = "repeat_rate"
    higher_is_better = False
    unit = "%"
    scale = 100.0

    def example_scores(self, predictions, references, longest: int = 20, times: int = 3):
        for name, value, least in (("longest", longest, 1), ("times", times, 2)):
            base.check_whole_number(name, value, least)
        normalize = get_normalizer("basic")
        return [has_loop(normalize(prediction).split(), longest, times) for prediction in predictions]
