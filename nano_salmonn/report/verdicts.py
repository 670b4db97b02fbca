# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Whether an effect of a paper shows, by rules that stand in the report beside every verdict.

"yes": the effect is as large as the rule asks, and not by chance as far as intervals are known. "unclear": as large,
but intervals overlap; or between two limits of the rule. "no": it does not show here, which does not disprove it.
"""

from dataclasses import dataclass

from nano_salmonn.report.inputs import Score


YES, UNCLEAR, NO = "yes", "unclear", "no"
MORE_WORDS = (2, 1.2)  # times as many: yes, unclear

GAIN_RULE = "yes: better by at least {} {}, 95 % intervals apart; unclear: intervals overlap or were not computed"
LOWER_RULE = "yes: lower, 95 % intervals apart; unclear: lower, but intervals overlap or were not computed"
KEPT_RULE = "yes: worse by at most {} {}; unclear: more, but 95 % intervals overlap or were not computed"
GROWTH_RULE = "yes: at least {} times as much; unclear: at least {} times"


@dataclass(frozen=True)
class Claim:
    """A line of the summary. All fields are text; `verdict` is "yes", "unclear" or "no", by `rule`."""

    claim: str
    paper: str
    here: str
    verdict: str
    rule: str


def judge_gain(before: Score, after: Score, least: float) -> str:
    """Whether `after` is better than `before` by at least `least`."""
    gain = (after.value - before.value) * (1 if after.higher_is_better else -1)
    if gain < least or gain == 0:
        return NO
    return YES if after.is_apart_from(before) else UNCLEAR


def judge_kept(before: Score, after: Score, most: float) -> str:
    """Whether `after` is worse than `before` by at most `most`."""
    loss = (before.value - after.value) * (1 if after.higher_is_better else -1)
    if loss <= most:
        return YES
    return NO if after.is_apart_from(before) else UNCLEAR


def judge_growth(before: float, after: float, least: float, unclear: float) -> str:
    """Whether `after` is at least `least` times `before`, or at least `unclear` times."""
    if after <= before or after < unclear * before:
        return NO
    return YES if after >= least * before else UNCLEAR
