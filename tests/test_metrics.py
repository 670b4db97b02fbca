# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Metrics against other implementations: libraries called by hand, or the definition written out."""

import math
import random
from collections import Counter
from pathlib import Path

import evaluate
import jiwer
import numpy as np
import pytest
import sacrebleu
from nltk.translate.bleu_score import corpus_bleu
from tiny_evaluation import make_task
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

import evaluation_salmonn.metrics
from data_salmonn.normalizers import get_normalizer
from evaluation_salmonn.bootstrap import confidence_interval, paired_difference
from evaluation_salmonn.data import Example
from evaluation_salmonn.filters import apply_filters
from evaluation_salmonn.metrics import base, java, list_metrics, load_metric
from evaluation_salmonn.scoring import score_task


CAPTIONS = [
    "a dog barks loudly",
    "rain falls on a roof while wind blows",
    "music plays",
    "a man speaks and a car passes",
]
REFERENCES = [
    ["a dog is barking", "dogs bark loud outside"],
    ["rain is falling on the roof", "wind and rain"],
    ["a song is played", "music plays softly"],
    ["a man is speaking as a car passes by", "someone speaks near a road"],
]

needs_java = pytest.mark.skipif(java.missing_java() is not None, reason=str(java.missing_java()))


def edit_distance(reference, hypothesis) -> int:
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != found))
    return row[-1]


def random_pairs(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """References of words, and hypotheses with some of them deleted, replaced and doubled."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(30)]
    references = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(count)]
    hypotheses = []
    for reference in references:
        changed = [
            rng.choice([[word], [word], [word], [], [rng.choice(words)], [word, word]]) for word in reference.split()
        ]
        hypotheses.append(" ".join(sum(changed, [])))
    return references, hypotheses


def test_wer_is_jiwers_on_a_thousand_pairs():
    references, hypotheses = random_pairs(1000)
    score = load_metric("wer").compute(predictions=hypotheses, references=references, normalizer="none")
    output = jiwer.process_words(references, hypotheses)
    words = sum(len(reference.split()) for reference in references)
    assert score["wer"] == pytest.approx(100 * output.wer, abs=1e-9)
    assert score["reference_length"] == words
    for part in ("substitutions", "deletions", "insertions"):
        assert score[part] == pytest.approx(100 * getattr(output, part) / words, abs=1e-9)
    assert score["wer"] != pytest.approx(
        100 * np.mean([jiwer.wer(r, h) for r, h in zip(references, hypotheses)]), abs=0.1
    )


@pytest.mark.parametrize(("name", "split"), [("wer", str.split), ("cer", list)])
def test_error_rates_are_edit_distances(name, split):
    references, hypotheses = random_pairs(50, seed=1)
    score = load_metric(name).compute(predictions=hypotheses, references=references, normalizer="none")
    distance = sum(edit_distance(split(r), split(h)) for r, h in zip(references, hypotheses))
    assert score[name] == pytest.approx(100 * distance / sum(len(split(r)) for r in references))


def test_per_ignores_stress_and_case():
    score = load_metric("per").compute(predictions=["hh ah l OW1 X", ""], references=["HH AH0 L OW", "K AE T"])
    assert score["per"] == pytest.approx(100 * 4 / 7)
    assert score["insertions"] == pytest.approx(100 / 7)
    assert score["deletions"] == pytest.approx(300 / 7)


def test_normalizers():
    said, written = "well mr smith i have got twenty one dogs", "Well, Mr. Smith: I've got 21 dogs!"
    wer = load_metric("wer")
    assert wer.compute(predictions=[said], references=[written], normalizer="english")["wer"] == 0
    assert wer.compute(predictions=["i HAVE dogs"], references=["I have, dogs."], normalizer="basic")["wer"] == 0
    assert wer.compute(predictions=["i have dogs"], references=["I have dogs."], normalizer="none")["wer"] > 60
    for said, written in (
        ("don\u2019t", "don't"),
        ("well\u2026 yes", "well yes"),
        ("wait....", "wait"),
        ("3.5", "3.5"),
    ):
        assert wer.compute(predictions=[said], references=[written], normalizer="english")["wer"] == 0, said
    assert wer.compute(predictions=["3.5"], references=["3.6"], normalizer="english")["wer"] == 100
    for word in ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e19\u0e49\u0e33"):  # marks are part of a word
        score = wer.compute(predictions=[word], references=[word], normalizer="basic")
        assert (score["wer"], score["reference_length"]) == (0, 1)
    with pytest.raises(ValueError, match="normalizer.*got 'nonsense'"):
        get_normalizer("nonsense")


def test_typography_and_marks_of_vowels_are_no_errors():
    """Neither curly apostrophes nor ellipses count, and a word with vowel signs stays one."""
    wer = load_metric("wer")
    for said, written in (
        ("don\u2019t", "don't"),
        ("well\u2026 yes", "well yes"),
        ("wait....", "wait"),
        ("3.5", "3.5"),
    ):
        assert wer.compute(predictions=[said], references=[written], normalizer="english")["wer"] == 0
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"
    assert wer.compute(predictions=[hindi], references=[hindi], normalizer="basic")["reference_length"] == 1
    for text in (
        "It's [noise] <eh> (sic) a co-operation, S\u00e3o Paulo: \u201c5 \u20ac\u201d!",
        "\u4f60\u597d\uff0c\u4e16\u754c",
    ):
        assert get_normalizer("basic")(text) == " ".join(BasicTextNormalizer()(text).split())


def test_insertions_count_where_nothing_was_said():
    score = load_metric("wer").compute(predictions=["a b", "c"], references=["uh", "c"])
    assert score["wer"] == 200
    assert score["insertions"] == 200


@pytest.mark.parametrize("tokenize", ["13a", "zh", "ja-mecab"])
def test_bleu_is_sacrebleus(tokenize):
    if load_metric("bleu").missing_parts(tokenize=tokenize):
        pytest.skip("needs sacrebleu[ja]")
    texts = {
        "13a": ("Das ist ein kleines Haus, sagt er.", "Das ist ein Haus, sagte er."),
        "zh": ("我喜欢喝热茶。", "我喜欢热茶。"),
        "ja-mecab": ("私は熱いお茶を飲むのが好きです。", "私はお茶を飲むのが好きです。"),
    }
    reference, hypothesis = texts[tokenize]
    references, hypotheses = [reference, reference[:9]], [hypothesis, hypothesis]
    score = load_metric("bleu").compute(predictions=hypotheses, references=references, tokenize=tokenize)
    assert score["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenize).score)
    assert 0 < score["bleu"] < 100


def test_bleu_is_nltks():
    hypotheses = ["the cat sat on the mat today", "there is a small dog in the house now"]
    references = [
        ["the cat sat on the mat", "a cat sat on the mat today"],
        ["there is a dog in the house", "a small dog is in the house now"],
    ]
    score = load_metric("bleu").compute(predictions=hypotheses, references=references)
    expected = corpus_bleu([[r.split() for r in options] for options in references], [h.split() for h in hypotheses])
    assert score["bleu"] == pytest.approx(100 * expected)


def test_bleu_takes_different_numbers_of_references():
    score = load_metric("bleu").compute(predictions=["a b c d", "e f g h"], references=[["a b c d"], ["x", "e f g h"]])
    assert score["bleu"] == pytest.approx(100)


def test_rouge_l_is_the_longest_common_subsequence():
    def f_measure(reference: str, hypothesis: str) -> float:
        a, b = reference.split(), hypothesis.split()
        table = np.zeros((len(a) + 1, len(b) + 1))
        for i, j in np.ndindex(len(a), len(b)):
            table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
        return 2 * table[-1, -1] / (len(a) + len(b))

    score = load_metric("rouge_l").compute(predictions=CAPTIONS, references=REFERENCES)["rouge_l"]
    best = [max(f_measure(r, caption) for r in options) for caption, options in zip(CAPTIONS, REFERENCES)]
    assert score == pytest.approx(100 * np.mean(best))


@needs_java
def test_meteor_of_sums_is_meteors_corpus_score():
    score = load_metric("meteor").compute(predictions=CAPTIONS, references=REFERENCES)["meteor"]
    by_hand = java.meteor_program().compute_score(
        dict(enumerate(REFERENCES)), {i: [caption] for i, caption in enumerate(CAPTIONS)}
    )
    assert score == pytest.approx(100 * by_hand[0])
    statistics = load_metric("meteor").statistics(CAPTIONS, REFERENCES)
    assert [load_metric("meteor").from_totals(row)["meteor"] / 100 for row in statistics] == pytest.approx(by_hand[1])


@needs_java
def test_captions_may_be_empty_or_of_several_lines():
    predictions, references = (
        ["", "A dog\n\nbarks.\u2028", "rain | ||| falls"],
        [["a dog"], ["a dog barks"], ["rain falls"]],
    )
    tokens = java.tokenize_captions(predictions, references)[0]
    assert tokens[0] == [""] and tokens[1] == ["a dog barks"]
    scores = load_metric("meteor").statistics(predictions, references)
    values = [load_metric("meteor").from_totals(row)["meteor"] for row in scores]
    assert values[0] == 0 and values[1] > 99
    assert load_metric("cider_d").example_scores(predictions, references)[0] == 0


@needs_java
def test_cider_d_is_its_definition():
    def ngrams(text: str, n: int) -> Counter:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def similarity(caption: str, reference: str, n: int) -> float:
        def weigh(text):
            return {
                gram: count * (math.log(len(REFERENCES)) - math.log(max(1, frequency[gram])))
                for gram, count in ngrams(text, n).items()
            }

        frequency = Counter(gram for options in REFERENCES for gram in set().union(*(ngrams(r, n) for r in options)))
        one, other = weigh(caption), weigh(reference)
        norms = math.hypot(*one.values()) * math.hypot(*other.values())
        dot = sum(min(weight, other.get(gram, 0)) * other.get(gram, 0) for gram, weight in one.items())
        penalty = math.exp(-((len(caption.split()) - len(reference.split())) ** 2) / (2 * 6**2))
        return 10 * penalty * dot / norms if norms else 0

    expected = [
        np.mean([similarity(caption, r, n) for r in options for n in (1, 2, 3, 4)])
        for caption, options in zip(CAPTIONS, REFERENCES)
    ]
    score = load_metric("cider_d").compute(predictions=CAPTIONS, references=REFERENCES)["cider_d"]
    assert score == pytest.approx(100 * np.mean(expected))
    assert score > 0


def test_accuracy_reads_answers_strictly_and_flexibly():
    emotions = {"happy": ["joyful", "not sad"], "sad": [], "angry": []}
    predictions = ["Sad.", "The speaker sounds joyful, not angry.", "He is not sad", "unhappy", "angry or sad"]
    references = ["sad", "happy", "happy", "happy", "angry"]
    accuracy = load_metric("accuracy")
    strict = accuracy.example_scores(predictions, references)
    flexible = accuracy.example_scores(predictions, references, extract="flexible", labels=emotions)
    assert strict == [True, False, False, False, False]
    assert flexible == [True, True, True, False, True]
    assert accuracy.example_scores(["It was Paris!"], [["Rome", "Paris"]], extract="flexible") == [1]
    assert accuracy.example_scores(["neural nets, speech"], [["speech", "music"]], extract="each") == [0.5]
    events = ["dog|puppy", "bell"]
    answers = ["A bell rings, then a dog barks", "A puppy barks and a bell rings", "A dog barks"]
    assert accuracy.example_scores(answers, [events] * 3, extract="ordered") == [0, 1, 0]
    assert accuracy.example_scores(answers, [events] * 3, extract="all") == [1, 1, 0]
    with pytest.raises(ValueError, match="extract.*got 'loose'"):
        accuracy.example_scores(["a"], ["a"], extract="loose")


def test_following_diversity_and_repeats():
    following = load_metric("following_rate")
    answers = ["who wrote hamlet", "It was written by Shakespeare.", "", "who wrote the hamlet"]
    assert following.example_scores(answers, ["Who wrote Hamlet?"] * 4) == [False, True, False, False]
    assert following.example_scores(["too short"], ["x"], min_words=3) == [False]
    assert (
        load_metric("diversity").compute(predictions=["A dog, a DOG and", "x"], references=["", ""])["diversity"] == 2
    )
    repeats = load_metric("repeat_rate")
    loops = ["a b a b a b", "so so so", "a b a b", "it rains and it rains now"]
    assert repeats.example_scores(loops, [""] * 4) == [True, True, False, False]
    assert repeats.compute(predictions=loops, references=[""] * 4)["repeat_rate"] == 50


def test_filters():
    assert apply_filters(["drop_preamble"], 'The speaker says: "Hello there."') == "Hello there."
    assert apply_filters(["drop_preamble"], "The time is: now") == "The time is: now"
    assert apply_filters(["gigaspeech_tags"], "HELLO <COMMA> WORLD <PERIOD>") == "HELLO WORLD"
    assert apply_filters(["first_line", "lower"], "\n One \nTwo") == "one"
    with pytest.raises(ValueError, match="filter.*got 'shout'"):
        apply_filters(["shout"], "a")


@pytest.mark.parametrize("name", list_metrics())
def test_loads_as_an_evaluate_module_from_a_file(name):
    metric = evaluate.load(str(Path(evaluation_salmonn.metrics.__file__).parent / f"{name}.py"))
    ours = load_metric(name)
    assert (metric.main, metric.higher_is_better) == (ours.main, ours.higher_is_better)
    if metric.missing_parts() is None:
        pair = {"predictions": ["a dog barks", "it rains"], "references": ["the dog barks", "it rains"]}
        assert metric.compute(**pair) == ours.compute(**pair)


def test_missing_parts_are_said_and_do_not_stop_the_rest(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    entries = [
        {"name": "spider", "metric": "spider", "higher_is_better": True},
        {"name": "diversity", "metric": "diversity", "higher_is_better": True},
    ]
    example = Example("a", (), 1.0, "", {"reference": ("a dog",)})
    scores = score_task(make_task(metrics=entries), [example], ["a dog"], bootstrap_samples=10)
    assert scores["spider"]["value"] is None
    assert "Java" in scores["spider"]["reason"]
    assert scores["diversity"]["value"] == 2
    with pytest.raises(base.MissingPartsError, match="Java"):
        load_metric("meteor").compute(predictions=["a"], references=["a"])


@needs_java
@pytest.mark.skipif(java.missing_spice() is None, reason="Stanford CoreNLP is here, so SPIDEr can be computed")
def test_spider_says_what_is_missing():
    assert "CoreNLP" in load_metric("spider").missing_parts()


@pytest.mark.parametrize("name", list_metrics())
@pytest.mark.parametrize(
    ("predictions", "references", "error", "message"),
    [
        ([], [], ValueError, "equally many and at least one, got 0 and 0"),
        ("ab", ["a", "b"], TypeError, "`predictions` must be a list with an item for each example, got str"),
        (["a", "b"], "ab", TypeError, "`references` must be a list with an item for each example, got str"),
        (5, ["a"], TypeError, "`predictions` must be a list with an item for each example, got int"),
        (["a", None], ["a", "b"], TypeError, r"`predictions\[1\]` must be a string, got None"),
        (["a", 3], ["a", "b"], TypeError, r"`predictions\[1\]` must be a string, got 3"),
        (["a", "b"], ["a", None], TypeError, r"`references\[1\]` must be a string or a list of strings, got None"),
        (["a"], [["a", 3]], TypeError, r"`references\[0\]` must be a string or a list of strings"),
        (["a"], [[]], ValueError, r"`references\[0\]` must hold at least one text, got none"),
    ],
)
def test_what_is_no_text_is_refused(name, predictions, references, error, message):
    with pytest.raises(error, match=message):
        load_metric(name).statistics(predictions, references)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bleu", {"tokenize": "zz"}, "`tokenize` must be one of .*got 'zz'"),
        ("repeat_rate", {"longest": 0}, "`longest` must be an integer of at least 1, got 0"),
        ("repeat_rate", {"times": 1}, "`times` must be an integer of at least 2, got 1"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_metric(name).statistics(["a b"], ["a b"], **options)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="equally many.*got 1 and 2"):
        load_metric("wer").statistics(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="metric.*got 'beauty'"):
        load_metric("beauty")
    with pytest.raises(ValueError, match="one text for each example"):
        load_metric("wer").statistics(["a"], [["a", "b"]])


def test_confidence_interval_of_a_mean():
    values = np.random.default_rng(0).standard_normal(400)
    statistics = np.stack([values, np.ones(400)], axis=-1)
    low, high = confidence_interval(statistics, lambda totals: totals[0] / totals[1], samples=2000)
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.015)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.015)
    again = confidence_interval(statistics, lambda totals: totals[0] / totals[1], samples=2000)
    assert (low, high) == again


def test_paired_difference_sees_what_two_intervals_hide():
    rng = np.random.default_rng(0)
    values = 10 * rng.standard_normal(100)
    first, second = (
        np.stack([side, np.ones(100)], axis=-1) for side in (values, values + 0.5 + 0.1 * rng.standard_normal(100))
    )
    low, high, against = paired_difference(first, second, lambda totals: totals[0] / totals[1])
    assert 0.4 < low < high < 0.6
    assert against == 0
    assert paired_difference(first, first, lambda totals: totals[0] / totals[1]) == (0, 0, 1)
    with pytest.raises(ValueError, match="same examples"):
        paired_difference(first, second[:5], lambda totals: totals[0])
