# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Parts of Markdown that every section is made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nano_salmonn.report.inputs import Evaluation, Runs, Score
from nano_salmonn.report.verdicts import Claim


@dataclass
class Section:
    """A section of the report. Without a body it is left out; `missing` are lines of the list of what is not measured."""

    title: str
    body: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}"


def with_interval(score: Score | None) -> str:
    if score is None:
        return "–"
    interval = "" if score.low is None else f" ({number(score.low)} to {number(score.high)})"
    return number(score.value) + interval


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def picture(path: Path, title: str) -> str:
    """`path` as it is found from the document, in the folder above `images/nano`."""
    return f"![{title}](images/nano/{path.name})"


def commands(runs: Runs, folders: Iterable[str]) -> list[str]:
    """The commands that made what is in these folders, and a line for those whose command is not recorded."""
    recorded = {folder: runs.command(folder) for folder in folders}
    blocks = [f"# {folder}\n{command}" for folder, command in recorded.items() if command is not None]
    unknown = [f"`{folder}`" for folder, command in recorded.items() if command is None]
    paragraphs = [shell_block("\n".join(blocks))] if blocks else []
    return paragraphs + ([f"The command is not recorded of {', '.join(unknown)}."] if unknown else [])


def shell_block(commands: str, reason: str = "needs the made clips, and hours") -> str:
    """Commands to read: the tests, which run the blocks of all pages, are told why not these."""
    return f"<!-- not run: {reason} -->\n```bash\n{commands}\n```"


def settings(evaluations: Iterable[Evaluation]) -> str:
    """What was evaluated, a line each, and a warning where not all examples were."""
    lines = []
    for evaluation in evaluations:
        limit = "" if evaluation.limit is None else f"; **only the first {evaluation.limit} examples of each task**"
        lines.append(f"- `{evaluation.folder}`: {evaluation.settings}{limit}.")
    return "\n".join(lines)


def verdicts(claims: Iterable[Claim]) -> list[str]:
    """A paragraph that says of each claim what the paper found, what is found here, and whether the effect shows."""
    lines = [
        f"- {claim.claim}. Paper: {claim.paper}. Here: {claim.here}. Shown: **{claim.verdict}** ({claim.rule})."
        for claim in claims
    ]
    return ["\n".join(lines)] if lines else []
