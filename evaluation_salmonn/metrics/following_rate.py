# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
import math

import regex

from data_salmonn.extras import needs_extra
from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import base


with needs_extra("eval"):
    import jiwer
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein


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
    the form of the regular expression `pattern`, from its beginning to its end. With `max_alike` it must be about its
    clip: at most so many percent of the answers to clips with other references may be nearly the same, in that
    `max_overlap` percent of the words, or fewer, have to be changed. A small LLM tells a text that it knows by heart.
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
        max_alike: float | None = None,
    ):
        for name, value in (("min_words", min_words), ("min_new_words", min_new_words)):
            base.check_whole_number(name, value, 0)
        if max_words is not None:
            base.check_whole_number("max_words", max_words, 0)
        _check_percent("max_overlap", max_overlap)
        if max_alike is not None:
            _check_percent("max_alike", max_alike)
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
        if max_alike is not None:
            alike = _share_alike([normalize(text).split() for text in predictions], references, max_overlap)
            scores = [score and share <= max_alike for score, share in zip(scores, alike)]
        return scores


def _check_percent(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"`{name}` must be a number of percent, got {value!r}.")


def _share_alike(answers: list[list[str]], references: list, max_overlap: float) -> list[float]:
    """For each answer, how many percent of those to clips with other references are nearly the same."""
    sources = [tuple(base.as_list(reference)) for reference in references]
    shares = []
    for answer, source in zip(answers, sources):
        others = [text for text, other in zip(answers, sources) if other != source]
        distances = process.cdist([answer], others, scorer=Levenshtein.normalized_distance)
        shares.append(100 * float((distances <= max_overlap / 100).mean()) if others else 0.0)
    return shares


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
