# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Error rates over a whole corpus, for the metrics of evaluation and for what training logs: edits are counted by jiwer."""

from collections.abc import Sequence

import numpy as np

from data_salmonn.extras import needs_extra
from data_salmonn.normalizers import get_normalizer


def count_word_edits(references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """`(examples, 4)`: substitutions, deletions, insertions and length of the reference, in words between spaces."""
    with needs_extra("eval"):
        import jiwer

    output = jiwer.process_words(list(references), list(answers))
    return _tabulate(output.alignments, [len(words) for words in output.references])


def count_character_edits(references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """As [`count_word_edits`], in characters, spaces included."""
    with needs_extra("eval"):
        import jiwer

    output = jiwer.process_characters(list(references), list(answers))
    return _tabulate(output.alignments, [len(characters) for characters in output.references])


def _tabulate(alignments, num_units: Sequence[int]) -> np.ndarray:
    """The counts in jiwer's alignments."""
    table = np.zeros((len(alignments), 4))
    for row, chunks, units in zip(table, alignments, num_units):
        for chunk in chunks:
            reference_units = chunk.ref_end_idx - chunk.ref_start_idx
            if chunk.type == "substitute":
                row[0] += reference_units
            elif chunk.type == "delete":
                row[1] += reference_units
            elif chunk.type == "insert":
                row[2] += chunk.hyp_end_idx - chunk.hyp_start_idx
        row[3] = units
    return table


def error_rates(name: str, totals: np.ndarray) -> dict[str, float]:
    """The rate called `name` in percent, and its three parts, of edits summed over examples: `(4,)`."""
    substitutions, deletions, insertions, units = totals
    # an insertion where nothing was said is an error too, of 100 % for each, as if there had been one unit
    scale = 100 / max(units, 1)
    return {
        name: float(scale * (substitutions + deletions + insertions)),
        "substitutions": float(scale * substitutions),
        "deletions": float(scale * deletions),
        "insertions": float(scale * insertions),
        "reference_length": float(units),
    }


def word_error_rate(references: Sequence[str], answers: Sequence[str], normalizer: str = "lower") -> float:
    """Edits per word of the references, over all of them together: 0.05 is 5 %. See [`get_normalizer`]."""
    if not references:
        return 0.0
    normalize = get_normalizer(normalizer)
    edits = count_word_edits(list(map(normalize, references)), list(map(normalize, answers)))
    return error_rates("wer", edits.sum(0))["wer"] / 100
