# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The card of salmonn-nano, from the folder of a build: `card.md` with its scores, steps and sources."""

import re
from pathlib import Path
from string import Template

from huggingface_hub import EvalResult, ModelCardData

from data_salmonn.files import write_text
from evaluation_salmonn.run_files import read_results
from nano_salmonn.report.goals import GOALS, LATER, TUNED, goals_table
from nano_salmonn.report.inputs import Runs
from nano_salmonn.report.steps import steps_table
from nano_salmonn.report.writing import table
from nano_salmonn.wheel_parts import LLM_ID, WHISPER_ID


TEMPLATE = Path(__file__).with_name("card.md")
RECOGNITION = ("wer", "cer")
START = "salmonn nano start"  # of a chain that does not begin from nothing
GOES_ON = (
    "It goes on from the BEATs and the adapter that this project had before, which the step `beats` copies; what was done to "
    "these stands in the history of this file.\n\n"
)
TAGS = ["salmonn", "beats", "audio", "speech", "music", "lora"]


def write_card(build: str | Path, runs: Runs, output: str | Path) -> Path:
    """
    Writes the card of the model that a build has made to the file `output`, and returns it.

    Args:
        build: Folder of the build, where the credits of its sources are.
        runs: What was gathered of it.
        output: A Markdown file.

    Raises `ValueError` if the model was not scored, or if the build has no credits.
    """
    evaluation = runs.evaluation(f"evaluate/{TUNED}")
    if evaluation is None:
        raise ValueError(f"`runs` must hold the scores of the model, evaluate/{TUNED}, got {runs.root} without them.")
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        settings="four beams and with one" if runs.evaluation(f"evaluate/{TUNED}_greedy") else "four beams",
        goals=goals_table(runs),
        later=LATER,
        begins=GOES_ON if any(START in command for step in runs.steps for command in step.commands) else "",
        steps=steps_table(runs),
        sources=merge_credits(build),
    )
    data = ModelCardData(
        model_name="salmonn-nano",
        base_model=[WHISPER_ID, LLM_ID],
        base_model_relation="finetune",
        language="en",
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="audio-text-to-text",
        tags=TAGS,
        eval_results=find_results(runs.root / "evaluate" / TUNED),
    )
    write_text(output, f"---\n{data.to_yaml()}\n---\n\n{text}")
    return Path(output)


def find_results(folder: str | Path) -> list[EvalResult]:
    """The scores of a run as the Hub shows them: the first of each task, and all that a goal is about."""
    wanted = {(goal.task, goal.score) for goal in GOALS}
    results = []
    for name, task in read_results(folder)["tasks"].items():
        scores = {key: entry for key, entry in task["scores"].items() if entry["value"] is not None}
        for place, (key, entry) in enumerate(scores.items()):
            if place == 0 or (name, key) in wanted:
                is_recognition = entry["metric"] in RECOGNITION
                results.append(
                    EvalResult(
                        task_type="automatic-speech-recognition" if is_recognition else "audio-text-to-text",
                        dataset_type=name,
                        dataset_name=task["description"],
                        metric_type=entry["metric"],
                        metric_name=key,
                        metric_value=round(entry["value"], 4),
                    )
                )
    return results


def merge_credits(build: str | Path) -> str:
    """The rows of all `SOURCES.md` in a build, each once. Raises `ValueError` if there are none."""
    header, rows = None, set()
    for file in sorted(Path(build).glob("sources/SOURCES.md")) + sorted(Path(build).glob("data/**/SOURCES.md")):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        header = header or lines[0]
        rows |= set(lines[2:])
    if not rows:
        raise ValueError(f"`build` must hold credits, files SOURCES.md, got {build} without any.")
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in [header, *sorted(rows)]]
    return table(cells[0], [[cell.replace("\\|", "|") for cell in row] for row in cells[1:]])
