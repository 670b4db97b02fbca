# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Metrics and normalisers: what is no text, lists that do not fit, options that nobody can mean."""

import pytest
from refusals import refuses
from tiny_evaluation import make_task

from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.metrics.repeat_rate import has_loop


METRICS = ("accuracy", "bleu", "cer", "diversity", "following_rate", "per", "repeat_rate", "rouge_l", "wer")
TEXTS = {
    "nothing": ([], [], "predictions"),
    "a number": ([5], ["a"], "predictions[0]"),
    "no prediction": ([None], ["a"], "predictions[0]"),
    "bytes": (["a", b"a"], ["a", "a"], "predictions[1]"),
    "no reference": (["a"], [None], "references[0]"),
    "no references": (["a"], [[]], "references[0]"),
    "a number among references": (["a"], [["a", 1]], "references[0]"),
    "one string of predictions": ("ab", ["a", "b"], "predictions"),
    "one string of references": (["a"], "a", "references"),
    "other lengths": (["a"], ["a", "b"], "references"),
    "None": (None, ["a"], "predictions"),
    "a dict": ({0: "a"}, ["a"], "predictions"),
    "a generator": ((text for text in "ab"), ["a", "b"], "predictions"),
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("name", METRICS)
def test_texts(name, case):
    predictions, references, argument = TEXTS[case]
    for function in (load_metric(name).statistics, load_metric(name).compute):
        with refuses(argument):
            function(predictions=predictions, references=references)


@pytest.mark.parametrize("name", METRICS)
def test_any_text_is_scored(name):
    texts = ["", "half a pair \ud800", "\u2028 \u0085 \0", "\U0001f600", "a|b", "<a> [b]"]
    assert load_metric(name).statistics(texts, [["x"], *texts[1:]]).shape[0] == len(texts)
    assert load_metric(name).compute(predictions=texts, references=["x", *texts[1:]])


OPTIONS = [
    ("accuracy", {"extract": "nonsense"}, "extract"),
    ("accuracy", {"extract": ["strict"]}, "extract"),
    ("accuracy", {"labels": 5}, "labels"),
    ("accuracy", {"labels": "abc"}, "labels"),
    ("accuracy", {"labels": [5]}, "labels"),
    ("accuracy", {"labels": {"a": 5}}, "labels"),
    ("accuracy", {"labels": {"a": "b"}}, "labels"),
    ("accuracy", {"labels": {"a": [None]}}, "labels"),
    ("wer", {"normalizer": "nonsense"}, "normalizer"),
    ("wer", {"normalizer": ["basic"]}, "normalizer"),
    ("wer", {"normalizer": None}, "normalizer"),
    ("cer", {"normalizer": {}}, "normalizer"),
    ("wer", {"nonsense": 1}, "nonsense"),
    ("bleu", {"tokenize": "zz"}, "tokenize"),
    ("bleu", {"tokenize": ["13a"]}, "tokenize"),
    ("bleu", {"tokenize": 5}, "tokenize"),
    ("following_rate", {"min_words": "a"}, "min_words"),
    ("following_rate", {"min_words": -1}, "min_words"),
    ("following_rate", {"min_words": 1.5}, "min_words"),
    ("following_rate", {"max_words": -1}, "max_words"),
    ("following_rate", {"max_words": "9"}, "max_words"),
    ("following_rate", {"min_new_words": "3"}, "min_new_words"),
    ("following_rate", {"max_overlap": float("nan")}, "max_overlap"),
    ("following_rate", {"max_overlap": "5"}, "max_overlap"),
    ("following_rate", {"max_overlap": None}, "max_overlap"),
    ("following_rate", {"max_alike": float("nan")}, "max_alike"),
    ("following_rate", {"max_alike": "5"}, "max_alike"),
    ("following_rate", {"pattern": "("}, "pattern"),
    ("following_rate", {"pattern": "[z-a]"}, "pattern"),
    ("following_rate", {"pattern": 5}, "pattern"),
    ("repeat_rate", {"longest": 0}, "longest"),
    ("repeat_rate", {"longest": True}, "longest"),
    ("repeat_rate", {"longest": 1.5}, "longest"),
    ("repeat_rate", {"times": 1}, "times"),
    ("repeat_rate", {"times": "3"}, "times"),
]


@pytest.mark.parametrize(("name", "options", "argument"), OPTIONS)
def test_options(name, options, argument):
    with refuses(argument):
        load_metric(name).compute(predictions=["a b c"], references=["a b"], **options)


@pytest.mark.parametrize("name", ["nonsense", "../wer", "", "base", None, 5, ["wer"]])
def test_names_of_metrics(name):
    with refuses("metric"):
        load_metric(name)


@pytest.mark.parametrize("name", ["nonsense", None, 5, ["basic"]])
def test_names_of_normalizers(name):
    with refuses("normalizer"):
        get_normalizer(name)


@pytest.mark.parametrize(
    ("pattern", "answer"), [("(a|aa)+b", "a" * 60), ("(a|aa)+[bc]", "a" * 60), ("(a|b|ab)*c", "ab" * 30 + "xc")]
)
def test_patterns_that_never_end(pattern, answer, monkeypatch):
    monkeypatch.setattr("evaluation_salmonn.metrics.following_rate.PATTERN_SECONDS", 0.05)
    with refuses("pattern", "(a+)+, do that"):
        load_metric("following_rate").compute(predictions=[answer], references=["x"], pattern=pattern)


@pytest.mark.parametrize(("name", "options", "argument"), OPTIONS)
def test_options_in_a_task(name, options, argument):
    """They are found before a model is loaded."""
    entry = {"name": "score", "metric": name, "options": options}
    with refuses(argument, "'tiny'"):
        make_task(metrics=[entry | {"higher_is_better": load_metric(name).higher_is_better}])


def test_the_longest_loop_is_that_of_the_answer():
    assert not has_loop(["a", "b"], longest=10**12, times=3)
