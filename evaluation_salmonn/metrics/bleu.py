# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
from functools import cache

import numpy as np

from data_salmonn.extras import install, needs_extra
from evaluation_salmonn.metrics import base


with needs_extra("eval"):
    from sacrebleu.metrics import BLEU


def _bleu(tokenize: str) -> BLEU:
    if not isinstance(tokenize, str) or tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"`tokenize` must be one of {sorted(map(str, BLEU.TOKENIZERS))}, got {tokenize!r}.")
    return _load_bleu(tokenize)


@cache
def _load_bleu(tokenize: str) -> BLEU:
    return BLEU(tokenize=tokenize)


class Bleu4(base.SummedMetric):
    """
    BLEU with n-grams up to 4, 0 to 100, by sacrebleu. `tokenize`: `"13a"` for European languages, `"zh"` for Chinese,
    `"ja-mecab"` for Japanese.
    """

    main = "bleu"
    higher_is_better = True
    unit = "points"
    citation = "Post 2018, A Call for Clarity in Reporting BLEU Scores"

    def missing_parts(self, tokenize: str = "13a"):
        try:
            _bleu(tokenize)
        except (RuntimeError, ImportError) as error:
            return f"BLEU with `tokenize={tokenize!r}` lacks a package ({' '.join(str(error).split())}): {install('eval')}"
        return None

    def _statistics(self, predictions, references, tokenize: str = "13a"):
        # sacrebleu wants the n-th references of all examples together, and None where an example has fewer
        references = [base.as_list(reference) for reference in references]
        streams = [
            [options[n] if n < len(options) else None for options in references]
            for n in range(max(map(len, references)))
        ]
        return np.asarray(_bleu(tokenize)._extract_corpus_statistics(predictions, streams), dtype=np.float64)

    def from_totals(self, totals, tokenize: str = "13a"):
        score = _bleu(tokenize)._compute_score_from_stats([int(total) for total in totals])
        return {self.main: score.score, "brevity_penalty": score.bp}

    def signature(self, tokenize: str = "13a") -> str:
        """Sacrebleu's own short description of what was computed, for the result file."""
        return str(_bleu(tokenize).get_signature())
