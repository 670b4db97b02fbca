# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Sections made of evaluations: tasks before and after activation tuning, BEATs, random concatenation, long clips."""

from collections.abc import Mapping
from pathlib import Path

from nano_salmonn.report import published
from nano_salmonn.report.inputs import Evaluation, Runs, Score
from nano_salmonn.report.plots import plot_scores
from nano_salmonn.report.verdicts import (
    GAIN_RULE,
    GROWTH_RULE,
    KEPT_RULE,
    LOWER_RULE,
    MORE_WORDS,
    NO,
    UNCLEAR,
    YES,
    Claim,
    judge_gain,
    judge_growth,
    judge_kept,
)
from nano_salmonn.report.writing import Section, commands, number, picture, settings, table, verdicts, with_interval


# Rows of the main table: task, score, what it is called, unit
ROWS = (
    ("nano_asr", "wer", "speech, held-out sentences: WER", "%"),
    ("nano_asr_unseen_voice", "wer", "speech, unseen voices: WER", "%"),
    ("nano_asr_natural_voice", "wer", "speech, unseen natural voices: WER", "%"),
    ("nano_asr_real", "wer", "speech, real recordings: WER", "%"),
    ("nano_asr_recorded", "wer", "speech, recorded prompts: WER", "%"),
    ("nano_asr_dialogue", "wer", "speech, characters of a game: WER", "%"),
    ("nano_asr_segments", "wer", "speech, up to 60 s by segments: WER", "%"),
    ("nano_asr_60s", "wer", "speech, joined to 60 s: WER", "%"),
    ("nano_asr_90s", "wer", "speech, joined to 90 s: WER", "%"),
    ("nano_asr_120s", "wer", "speech, joined to 120 s: WER", "%"),
    ("nano_phones", "per", "phones: PER", "%"),
    ("nano_gender", "accuracy", "man or woman: accuracy", "%"),
    ("nano_speaker_verification", "accuracy", "same speaker: accuracy", "%"),
    ("nano_question", "accuracy", "questions about speech: accuracy", "%"),
    ("nano_question", "following_rate", "questions about speech: following rate", "%"),
    ("nano_quiet", "accuracy", "nobody speaks: accuracy", "%"),
    ("nano_spoken_question", "accuracy", "spoken questions (not trained): accuracy", "%"),
    ("nano_spoken_question", "following_rate", "spoken questions (not trained): following rate", "%"),
    ("nano_scene", "accuracy", "speech over events: accuracy of both", "%"),
    ("nano_sound", "accuracy", "single events: accuracy", "%"),
    ("nano_sound_order", "accuracy", "two events in order: accuracy", "%"),
    ("nano_audio_question", "accuracy", "questions about sounds: accuracy", "%"),
    ("nano_music", "accuracy", "instruments: accuracy", "%"),
    ("nano_music_question", "accuracy", "questions about music: accuracy", "%"),
    ("nano_caption", "rouge_l", "captions: ROUGE-L", "0-100"),
    ("nano_caption", "cider_d", "captions: CIDEr-D", "x 100"),
    ("nano_keywords", "following_rate", "key words (not trained): following rate", "%"),
    ("nano_keywords", "repeat_rate", "key words (not trained): repeat rate", "%"),
    ("nano_story", "following_rate", "story (not trained): following rate", "%"),
    ("nano_story", "diversity", "story (not trained): different words", "words"),
    ("nano_story", "repeat_rate", "story (not trained): repeat rate", "%"),
)
COLUMNS = {
    "evaluate/instruct": "before activation",
    "evaluate/activate": "after activation",
    "evaluate/whisper": "Whisper's own decoder",
    "evaluate/without_beats": "without BEATs",
    "concatenation/without": "without concatenation",
    "concatenation/with": "with concatenation",
    "long/plain": "Q-Former",
    "long/seg": "Seg-QF",
}

# What counts as an effect.
FOLLOWING_GAIN = 20  # points
KEPT_POINTS = 1
BEATS_GAIN = 10  # points

Rows = dict[str, dict[str, Score]]


def main_section(runs: Runs, images: Path) -> Section:
    """Every task before and after activation tuning, and beside Whisper's own decoder."""
    section = Section("Tasks, before and after activation tuning")
    found = _load(runs, section, ("evaluate/instruct", "evaluate/activate", "evaluate/whisper"))
    before, after, whisper = map(found.get, ("evaluate/instruct", "evaluate/activate", "evaluate/whisper"))
    if before is None and after is None:
        return section
    section.body += [
        "One row a score: the model after instruction tuning, the same after activation tuning on a few stories of its "
        "own, and Whisper tiny.en with its own decoder, where they were evaluated. Below each value stands its 95 % bootstrap interval over "
        "examples; error and repeat rates are better when lower, all others when higher. Tasks are described in "
        "`docs/evaluation.md`; following rates and repeat rates are by rule here, and following rates by GPT-3.5 in the paper.",
        settings(found.values()),
        *commands(runs, found),
        _score_table(found),
        *_plot(images / "tasks.png", found, "Scores of the tasks"),
    ]
    if before and after:
        section.claims += _activation_claims(before, after)
    if whisper:
        section.body.append(
            "Whisper was not trained on clips like these, and the connector of this model was: a lower WER than that of "
            "Whisper's decoder does not make the model the better recogniser elsewhere."
        )
        section.claims += _whisper_claims(before or after, whisper)
    section.body += verdicts(section.claims)
    return section


def _activation_claims(before: Evaluation, after: Evaluation) -> list[Claim]:
    claims = []

    def add(task: str, score: str, text: str, paper: str, unit: str, judge, rule: str) -> None:
        first, second = before.score(task, score), after.score(task, score)
        if first is not None and second is not None:
            here = f"{with_interval(first)} → {with_interval(second)} {unit}"
            claims.append(Claim(text, paper, here, judge(first, second), rule))

    gain = GAIN_RULE.format(FOLLOWING_GAIN, "points")
    kept = KEPT_RULE.format(KEPT_POINTS, "point")
    add(
        "nano_story",
        "following_rate",
        "After activation tuning the model tells stories when asked",
        "{:g} → {:g} % (table 3)".format(*published.STORY_FOLLOWING),
        "%",
        lambda first, second: judge_gain(first, second, FOLLOWING_GAIN),
        gain,
    )
    add(
        "nano_story",
        "diversity",
        "Its stories have more different words",
        "{:g} → {:g} words (table 3)".format(*published.STORY_DIVERSITY),
        "words",
        lambda first, second: judge_growth(first.value, second.value, *MORE_WORDS),
        GROWTH_RULE.format(*MORE_WORDS),
    )
    for task, here in (("nano_spoken_question", "the same"), ("nano_keywords", "key words")):
        add(
            task,
            "following_rate",
            f"Another instruction that was not trained is followed too (paper: spoken questions; here: {here})",
            "{:g} → {:g} % (table 3)".format(*published.QUESTION_FOLLOWING),
            "%",
            lambda first, second: judge_gain(first, second, FOLLOWING_GAIN),
            gain,
        )
    for task, score, text, values in (
        ("nano_asr", "wer", "Recognition is kept", published.WER_CLEAN),
        ("nano_phones", "per", "Phone recognition is kept", published.PER_CLEAN),
    ):
        add(
            task,
            score,
            text,
            f"{score.upper()} " + "{:g} → {:g} % (table 3)".format(*values),
            "%",
            lambda first, second: judge_kept(first, second, KEPT_POINTS),
            kept,
        )
    return claims


def _whisper_claims(model: Evaluation, whisper: Evaluation) -> list[Claim]:
    claims = []
    paper = ", ".join(f"{name} {value:g} %" for name, value in published.WHISPER_AND_LLM.items())
    paper += " (table 5, test-clean)"
    for task, where in (("nano_asr", "held-out sentences"), ("nano_asr_unseen_voice", "unseen voices")):
        first, second = whisper.score(task, "wer"), model.score(task, "wer")
        if first is not None and second is not None:
            claims.append(
                Claim(
                    f"Connected to an LLM, Whisper's encoder recognises better than with its own decoder ({where})",
                    paper,
                    f"Whisper {with_interval(first)}, `{model.folder}` {with_interval(second)} %",
                    judge_gain(first, second, 0),
                    LOWER_RULE,
                )
            )
    return claims


def beats_section(runs: Runs, images: Path) -> Section:
    """The model with and without its second ear."""
    section = Section("What BEATs adds to Whisper")
    found = _load(runs, section, ("evaluate/instruct", "evaluate/without_beats"), quiet=("evaluate/instruct",))
    if len(found) < 2:
        return section
    full, without = found["evaluate/instruct"], found["evaluate/without_beats"]
    section.body += [
        "The model after instruction tuning, beside the same with BEATs silenced. SALMONN has two encoders "
        "because Whisper is trained on speech and BEATs on everything else. There is no published value to compare with.",
        settings(found.values()),
        *commands(runs, found),
        _score_table(found, {**COLUMNS, "evaluate/instruct": "with BEATs"}, shared=True),
    ]
    for task in ("nano_sound", "nano_sound_order"):
        first, second = without.score(task, "accuracy"), full.score(task, "accuracy")
        if first is not None and second is not None:
            section.claims.append(
                Claim(
                    f"With BEATs more is heard than with BEATs silenced ({_label(task, 'accuracy')})",
                    "–",
                    f"without {with_interval(first)}, with {with_interval(second)} %",
                    judge_gain(first, second, BEATS_GAIN),
                    GAIN_RULE.format(BEATS_GAIN, "points"),
                )
            )
    section.body += verdicts(section.claims)
    return section


def concatenation_section(runs: Runs, images: Path) -> Section:
    """2309.13963, table 1."""
    section = Section("Random concatenation in training")
    found = _load_pair(runs, section, ("concatenation/without", "concatenation/with"))
    if not found:
        return section
    first, second = found["concatenation/without"], found["concatenation/with"]
    paper_before, paper_after = published.WITHOUT_CONCATENATION, published.WITH_CONCATENATION
    section.body += [
        "Two models that differ in training only: one joins utterances at random up to 30 s. The paper's reason: where "
        "clips end in silence, the Q-Former learns to ignore the end, and words are deleted.",
        settings(found.values()),
        *commands(runs, found),
        _score_table(found, deletions=True),
        *_plot(images / "concatenation.png", found, "Scores with and without random concatenation"),
    ]
    for task in _common(found, "wer"):
        before, after = first.score(task, "wer"), second.score(task, "wer")
        section.claims.append(
            Claim(
                f"Random concatenation lowers the WER ({_label(task, 'wer')})",
                f"{paper_before['wer']:.2f} → {paper_after['wer']:.2f} %, deletions {paper_before['deletions']:.2f} → "
                f"{paper_after['deletions']:.2f} % (table 1, test-clean)",
                f"{with_interval(before)} → {with_interval(after)} %{_deletions(before, after)}",
                judge_gain(before, after, 0),
                LOWER_RULE,
            )
        )
    section.body += verdicts(section.claims)
    return section


def long_section(runs: Runs, images: Path) -> Section:
    """2309.13963, table 6."""
    section = Section("Clips longer than 30 s: Seg-QF")
    found = _load_pair(runs, section, ("long/plain", "long/seg"))
    if not found:
        return section
    tasks = _common(found, "wer")
    section.body += [
        "Joined clips are cut into segments of 30 s. Seg-QF tells the Q-Former the position of each segment.",
        settings(found.values()),
        *commands(runs, found),
        _score_table(found, deletions=True),
        *_plot(images / "long.png", found, "Scores on long clips"),
    ]
    if tasks:
        pairs = [(found["long/plain"].score(task, "wer"), found["long/seg"].score(task, "wer")) for task in tasks]
        gains = {judge_gain(first, second, 0) for first, second in pairs}
        if YES in gains:
            verdict = UNCLEAR if NO in gains else YES
        else:
            verdict = NO if NO in gains else UNCLEAR
        plain, seg = published.LONG["Q-Former"], published.LONG["Seg-QF"]
        section.claims.append(
            Claim(
                "Segment positions (Seg-QF) lower the WER on long clips",
                ", ".join(f"{plain[seconds]:.2f} → {seg[seconds]:.2f} % (up to {seconds} s)" for seconds in plain)
                + ", table 6, test-clean",
                "; ".join(
                    f"{number(first.value)} → {number(second.value)} % (`{task}`)"
                    for task, (first, second) in zip(tasks, pairs)
                ),
                verdict,
                "yes: lower in every task, 95 % intervals apart in one; no: not lower in one and intervals apart in "
                "none; unclear: anything else",
            )
        )
    section.body += verdicts(section.claims)
    return section


# ----------------------------------------------------------------------------------------------------------------------
# Parts


def _load(
    runs: Runs, section: Section, folders: tuple[str, ...], quiet: tuple[str, ...] = ()
) -> dict[str, Evaluation]:
    """Evaluations by folder. Those that are missing are noted, but for `quiet` ones, which another section notes."""
    found = {folder: runs.evaluation(folder) for folder in folders}
    section.missing += [
        f"{section.title}: no `{folder}/results.json`."
        for folder, evaluation in found.items()
        if evaluation is None and folder not in quiet
    ]
    found = {folder: evaluation for folder, evaluation in found.items() if evaluation is not None}
    _check_same_data(found)
    return found


def _load_pair(runs: Runs, section: Section, folders: tuple[str, str]) -> dict[str, Evaluation]:
    found = _load(runs, section, folders)
    return found if len(found) == 2 else {}


def _check_same_data(found: Mapping[str, Evaluation]) -> None:
    """Raises `ValueError` if a task was given other data in one evaluation than in another."""
    for task in _tasks(found):
        digests = {folder: e.tasks[task].data_digest for folder, e in found.items() if task in e.tasks}
        if len(set(digests.values())) > 1:
            listed = ", ".join(f"{digest} in {folder}" for folder, digest in digests.items())
            raise ValueError(f"{task} must have the same data in all evaluations that are compared, got {listed}.")


def _tasks(found: Mapping[str, Evaluation]) -> list[str]:
    return list(dict.fromkeys(task for evaluation in found.values() for task in evaluation.tasks))


def _common(found: Mapping[str, Evaluation], score: str) -> list[str]:
    """Tasks that have this score in all evaluations."""
    return [task for task in _tasks(found) if all(e.score(task, score) is not None for e in found.values())]


def _label(task: str, score: str) -> str:
    return next((label for row, name, label, _ in ROWS if (row, name) == (task, score)), f"{task}: {score}")


def _rows(found: Mapping[str, Evaluation]) -> list[tuple[str, str, str, str]]:
    """`ROWS` that occur, and the first score of every other task."""
    rows = [row for row in ROWS if any(evaluation.score(*row[:2]) for evaluation in found.values())]
    others = [task for task in _tasks(found) if task not in {row[0] for row in ROWS}]
    for task in others:
        scores = next(evaluation.tasks[task].scores for evaluation in found.values() if task in evaluation.tasks)
        rows += [
            (task, name, f"{task}: {name}", "%" if name in ("wer", "cer", "per") else "") for name in list(scores)[:1]
        ]
    return rows


def _score_table(
    found: Mapping[str, Evaluation],
    columns: Mapping[str, str] = COLUMNS,
    deletions: bool = False,
    shared: bool = False,
) -> str:
    """
    Rows of scores, columns of evaluations; with `deletions`, also the deletions in error rates, and with `shared` only
    the scores that at least two have.
    """
    lines = []
    for task, name, label, unit in _rows(found):
        count = next(evaluation.tasks[task].num_examples for evaluation in found.values() if task in evaluation.tasks)
        scores = [evaluation.score(task, name) for evaluation in found.values()]
        if shared and sum(score is not None for score in scores) < 2:
            continue
        cells = [with_interval(score).replace(" (", "<br>(") for score in scores]
        if deletions:
            cells = [cell + _deleted(score) for cell, score in zip(cells, scores)]
        lines.append([label, unit, str(count), *cells])
    return table(["task: score", "unit", "examples", *(columns[folder] for folder in found)], lines)


def _deleted(score: Score | None) -> str:
    return "" if score is None or score.deletions is None else f"<br>deletions {number(score.deletions)}"


def _deletions(before: Score, after: Score) -> str:
    if before.deletions is None or after.deletions is None:
        return ""
    return f", deletions {number(before.deletions)} → {number(after.deletions)} %"


def _plot(path: Path, found: Mapping[str, Evaluation], title: str) -> list[str]:
    """A picture of error rates and other percentages, if there are any; other units stand in the table only."""
    groups: dict[str, Rows] = {"%, lower is better": {}, "%, higher is better": {}}
    for task, name, label, unit in _rows(found):
        scores = {COLUMNS[e.folder]: score for e in found.values() if (score := e.score(task, name)) is not None}
        if unit == "%":
            better = "higher" if next(iter(scores.values())).higher_is_better else "lower"
            groups[f"%, {better} is better"][label] = scores
    groups = {label: rows for label, rows in groups.items() if rows}
    if not groups:
        return []
    plot_scores(path, groups)
    return [picture(path, title)]
