# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The parts of pycocoevalcap that captioning metrics need, some of which are Java programs inside its wheel."""

import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from data_salmonn.extras import install, needs_extra
from evaluation_salmonn.metrics import base


def missing_java() -> str | None:
    """What to install before Java parts of pycocoevalcap run, or `None`."""
    if find_spec("pycocoevalcap") is None:
        return f"captioning metrics need pycocoevalcap: {install('eval')}"
    if shutil.which("java") is None:
        return "captioning metrics need a Java runtime on the PATH, such as Debian's default-jre-headless"
    return None


def missing_spice() -> str | None:
    """What to install before SPICE runs, or `None`. Its wheel fetches Stanford CoreNLP when first used; this does not."""
    reason = missing_java()
    if reason:
        return reason
    jars = Path(find_spec("pycocoevalcap").submodule_search_locations[0]) / "spice" / "lib"
    if not list(jars.glob("stanford-corenlp-*.jar")):
        return (
            "SPIDEr needs Stanford CoreNLP 3.6.0, which pycocoevalcap does not bring: run "
            "`python -c 'from pycocoevalcap.spice.get_stanford_models import get_stanford_models as get; get()'` "
            "once, with a network"
        )
    return None


@cache
def _tokenizer():
    with needs_extra("eval"):
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    return PTBTokenizer()


def tokenize_captions(predictions, references) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """
    Predictions and references in pycocoevalcap's form, by number of the example, tokenised by the Penn Treebank rules
    in lower case and without punctuation, as is usual before captioning metrics.
    """

    def one_line(text: str) -> dict[str, str]:
        return {
            "caption": " ".join(text.split())
        }  # the tokeniser works by lines, and knows more line ends than Python

    predicted = {i: [one_line(text)] for i, text in enumerate(predictions)}
    expected = {i: [one_line(text) for text in base.as_list(texts)] for i, texts in enumerate(references)}
    return _tokenizer().tokenize(predicted), _tokenizer().tokenize(expected)


@cache
def meteor_program():
    """METEOR 1.5, which stays open: reading its paraphrases takes seconds."""
    with needs_extra("eval"):
        from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()
