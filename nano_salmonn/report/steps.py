# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The steps of a build: what each took, and its commands; and what of a build the report is written from."""

import shutil
from pathlib import Path

from data_salmonn.files import write_json
from nano_salmonn.build import RECORDS, format_time, read_times
from nano_salmonn.report.inputs import CURVES, REPORT, RUN, STAGES, STEPS, Runs
from nano_salmonn.report.writing import Section, shell_block, table


def is_build(folder: str | Path) -> bool:
    return Path(folder, RECORDS).is_dir()


def gather(build: str | Path) -> Path:
    """
    Copies what the report needs of a build, besides the evaluations that are there already, to `build/runs/report`, which
    is returned: the times of the steps, curves of the stages, scores of BEATs.
    """
    build, runs = Path(build), Path(build, REPORT)
    write_json(runs / STEPS, read_times(build))
    files = [(f"{stage}/{name}", f"{stage}/{name}") for stage in STAGES for name in (CURVES, RUN)]
    for source, target in [*files, ("beats/scores.json", "beats/scores.json")]:
        if (build / "runs" / source).is_file():
            (runs / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(build / "runs" / source, runs / target)
    return runs


def steps_section(runs: Runs, images: Path) -> Section:
    section = Section("How it was made")
    if not runs.steps:
        section.missing.append(f"How it was made: no `{STEPS}`.")
        return section
    commands = "\n".join("\n".join([f"# {step.name}", *step.commands]) for step in runs.steps)
    section.body += [
        "By one command, `salmonn nano build`. Times are sums over all runs of a step and over all its processes; "
        "how large the steps are is in their commands below.",
        steps_table(runs),
        shell_block(commands),
    ]
    return section


def steps_table(runs: Runs) -> str:
    """A row a step, and their sum."""
    rows = [
        [step.name, step.about, format_time(step.wall), format_time(step.cpu), str(step.runs)] for step in runs.steps
    ]
    total = [format_time(sum(getattr(step, kind) for step in runs.steps)) for kind in ("wall", "cpu")]
    return table(["step", "what it gives", "wall time", "CPU time", "runs"], [*rows, ["**all**", "", *total, ""]])
