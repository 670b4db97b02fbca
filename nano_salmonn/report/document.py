# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The report as a whole: summary, sections, and what was not measured."""

from collections.abc import Sequence
from pathlib import Path

from data_salmonn.files import write_text
from nano_salmonn.report.goals import goals_section
from nano_salmonn.report.inputs import Runs
from nano_salmonn.report.steps import steps_section
from nano_salmonn.report.tasks import beats_section, concatenation_section, long_section, main_section
from nano_salmonn.report.training import (
    beats_scores_section,
    connectors_section,
    perplexity_section,
    stages_section,
    sweep_section,
)
from nano_salmonn.report.writing import Section, shell_block, table


DOCUMENT = "nano.md"
IMAGES = Path("images", "nano")
SECTIONS = (
    goals_section,
    main_section,
    sweep_section,
    perplexity_section,
    beats_section,
    beats_scores_section,
    connectors_section,
    concatenation_section,
    long_section,
    stages_section,
    steps_section,
)


def write_report(runs: str | Path, output: str | Path, hidden: Sequence[str | Path] = ()) -> Path:
    """
    Writes `output/nano.md` with plots in `output/images/nano`, and returns its path. Plots there that it does not show are
    removed.

    Args:
        runs: Folder of the runs, see `inputs.py`.
        output: Folder of the document.
        hidden: Folders whose paths are left out of commands.

    Raises `ValueError` on a folder without any runs, and on files that are malformed.
    """
    found = Runs(runs, hidden)
    output = Path(output)
    sections = [make(found, output / IMAGES) for make in SECTIONS]
    if not any(section.body for section in sections):
        raise ValueError(f"`runs` must hold at least one run, got {runs} without any.")
    document = to_markdown(sections, found)
    write_text(output / DOCUMENT, document)
    for plot in (output / IMAGES).glob("*.png"):
        if f"{IMAGES.as_posix()}/{plot.name}" not in document:  # of a section that is no longer there
            plot.unlink()
    return output / DOCUMENT


def to_markdown(sections: Sequence[Section], runs: Runs) -> str:
    paragraphs = [
        "# The papers in small",
        "<!-- Written by `salmonn nano report`: change `nano_salmonn/report`, not this page. -->",
        "What SALMONN ([arXiv 2310.13289](https://arxiv.org/abs/2310.13289)) and its speech-only relative "
        "([2309.13963](https://arxiv.org/abs/2309.13963)) report, repeated with `salmonn-nano`: Whisper tiny.en, a small "
        "BEATs and SmolLM2-135M on made data, in place of Whisper large-v2, BEATs and Vicuna-13B on thousands of hours. "
        "Values cannot be compared with the papers'; whether an effect shows can.",
        *([runs.notes] if runs.notes else []),
        "## Summary",
        *_summary(sections),
    ]
    for section in sections:
        if section.body:
            paragraphs += [f"## {section.title}", *section.body]
    missing = [line for section in sections for line in section.missing]
    if missing:
        paragraphs += ["## Not measured", "\n".join(f"- {line}" for line in missing)]
    paragraphs += [
        "## This page",
        shell_block("salmonn nano report FOLDER_OF_THE_BUILD", "needs the folder of the build"),
        "Every number above is read from the files of the runs, every verdict is computed by the rule beside it.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _summary(sections: Sequence[Section]) -> list[str]:
    claims = [(section, claim) for section in sections for claim in section.claims]
    if not claims:
        return ["Nothing was measured that a claim of the papers could be held against."]
    rows = [
        [claim.claim, claim.paper, claim.here, f"**{claim.verdict}**", f"[{section.title}](#{_anchor(section.title)})"]
        for section, claim in claims
    ]
    return [
        table(["claim", "paper", "here", "shown?", "section"], rows),
        "*yes*, *unclear* and *no* follow rules that stand in the sections, with their thresholds. *no* "
        "means that the effect does not show in this small model, not that the paper is wrong.",
    ]


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")
