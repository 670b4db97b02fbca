# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import re

from data_salmonn.extras import needs_extra
from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import base


with needs_extra("eval"):
    import jiwer


class FollowingRate(base.MeanMetric):
    """
    Share of answers that follow their instruction, 0 to 1, by rule: an answer of at least `min_words` words that does not
    just repeat the references (give the transcript or the captions of the clip), in that its word error rate against
    each of them is above `max_overlap` percent. SALMONN's typical failure is to transcribe or caption instead of
    answering (arXiv 2310.13289, section 4.2). The paper asks an LLM: see the judged metrics for that.

    Where that is not enough, an answer must also have at most `max_words` words (a transcript with many errors is no
    short answer), at least `min_new_words` different words that no reference has (a caption in a loop is no story), and
    the form of the regular expression `pattern`, from its beginning to its end.
    """

    main = "following_rate"
    higher_is_better = True
    unit = "share"

    def example_scores(
        self,
        predictions,
        references,
        min_words: int = 1,
        max_overlap: float = 50.0,
        max_words: int | None = None,
        min_new_words: int = 0,
        pattern: str | None = None,
    ):
        normalize = get_normalizer("basic")
        scores = []
        for prediction, reference in zip(predictions, references):
            answer = normalize(prediction)
            words = answer.split()
            texts = [text for text in map(normalize, base.as_list(reference)) if text]
            known = {word for text in texts for word in text.split()}
            scores.append(
                max(1, min_words) <= len(words) <= (len(words) if max_words is None else max_words)
                and not any(100 * jiwer.wer(text, answer) <= max_overlap for text in texts if answer)
                and len(set(words) - known) >= min_new_words
                and (pattern is None or re.fullmatch(pattern, prediction.strip()) is not None)
            )
        return scores
