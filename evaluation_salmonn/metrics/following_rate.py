# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import math

import regex

from data_salmonn.extras import needs_extra
from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import base


with needs_extra("eval"):
    import jiwer


# A pattern that goes back over an answer again and again could keep a run for years.
PATTERN_SECONDS = 2.0


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
        for name, value in (("min_words", min_words), ("min_new_words", min_new_words)):
            base.check_whole_number(name, value, 0)
        if max_words is not None:
            base.check_whole_number("max_words", max_words, 0)
        if isinstance(max_overlap, bool) or not isinstance(max_overlap, (int, float)) or math.isnan(max_overlap):
            raise ValueError(f"`max_overlap` must be a number of percent, got {max_overlap!r}.")
        form = None if pattern is None else _compile(pattern)
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
                and (form is None or _has_form(form, prediction.strip()))
            )
        return scores


def _compile(pattern: str) -> regex.Pattern:
    if not isinstance(pattern, str):
        raise TypeError(f"`pattern` must be a regular expression as a string, got {pattern!r}.")
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"`pattern` must be a regular expression, got {pattern!r}: {error}.") from error


def _has_form(form: regex.Pattern, answer: str) -> bool:
    try:
        return form.fullmatch(answer, timeout=PATTERN_SECONDS) is not None
    except TimeoutError as error:
        raise ValueError(
            f"`pattern` must be one that is quick to match, got {form.pattern!r}, which took over {PATTERN_SECONDS:g} s "
            f"for an answer of {len(answer)} characters: repetitions within repetitions, such as (a+)+, do that."
        ) from error
