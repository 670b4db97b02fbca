# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import jiwer

from evaluation_salmonn.metrics import base
from evaluation_salmonn.normalizers import get_normalizer


class FollowingRate(base.MeanMetric):
    """
    Share of answers that follow their instruction, 0 to 1, by rule: an answer of at least `min_words` words that does not
    just repeat the references (give the transcript or the captions of the clip), in that its word error rate against
    each of them is above `max_overlap` percent. SALMONN's typical failure is to transcribe or caption instead of
    answering (arXiv 2310.13289, section 4.2). The paper asks an LLM: see the judged metrics for that.
    """

    main = "following_rate"
    higher_is_better = True

    def example_scores(self, predictions, references, min_words: int = 1, max_overlap: float = 50.0):
        normalize = get_normalizer("basic")
        scores = []
        for prediction, reference in zip(predictions, references):
            answer = normalize(prediction)
            repeats = any(
                100 * jiwer.wer(text, answer) <= max_overlap
                for text in map(normalize, base.as_list(reference))
                if text and answer
            )
            scores.append(len(answer.split()) >= max(1, min_words) and not repeats)
        return scores
