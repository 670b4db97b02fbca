# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A report of a run that opens from the disk: scores beside those of the papers, and a page a task to listen and read.

    report/report.md         the table as Markdown
    report/index.html        the table, and plots
    report/<task>.html       every example: clip, question, references, answer, what differs, scores
    report/audio/<task>/     the clips as the model heard them
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import soundfile

from data_salmonn.audio import SAMPLING_RATE
from data_salmonn.extras import needs_extra
from data_salmonn.files import write_text
from evaluation_salmonn.data import Example
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.plots import plot_distribution, plot_scores
from evaluation_salmonn.run_files import REPORT, read_per_example, read_results, read_rows
from evaluation_salmonn.task import BANK, OWN, ROW, UNKNOWN_PROMPT


with needs_extra("eval"):
    from jinja2 import Environment, PackageLoader, select_autoescape
    from markupsafe import Markup, escape


PROMPT_NOTE = (
    "What was asked. A model that follows prompts literally may score otherwise with other words, so values that were asked "
    "with others, or with words that are not known, can be compared with care only."
)


def environment() -> Environment:
    """Templates of this package; what they show is escaped."""
    return Environment(
        loader=PackageLoader("evaluation_salmonn"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_report(
    run: str | Path,
    examples: dict[str, Sequence[Example]] | None = None,
    audio: str = "copy",
    max_examples: int = 200,
) -> Path:
    """
    Writes the report of a finished run into its folder and returns the path of its first page.

    Args:
        run: folder of the run.
        examples: those of each task, for their clips; without them pages are silent.
        audio: `"copy"` writes clips as they were heard, `"link"` points to files where they are, `"none"` leaves them out.
        max_examples: examples on a task's page, the worst first.
    """
    if audio not in ("copy", "link", "none"):
        raise ValueError(f"`audio` must be 'copy', 'link' or 'none', got {audio!r}.")
    results = read_results(run)
    folder = Path(run) / REPORT
    folder.mkdir(exist_ok=True)
    templates = environment()
    plots = plot_scores(results, folder / "scores.png")
    for name in results["tasks"]:
        clips = {example.id: example for example in (examples or {}).get(name, ())}
        page = _task_page(run, results, name, clips, audio, max_examples, folder)
        write_text(folder / f"{name}.html", templates.get_template("task.html").render(page))
    rows = score_rows(results)
    write_text(folder / "report.md", to_markdown(results, rows))
    shown = shown_columns(rows)
    index = templates.get_template("index.html").render(
        results=results,
        rows=rows,
        columns=shown,
        plots=plots,
        model=describe_model(results["model"]),
        prompt_note=PROMPT_NOTE,
    )
    write_text(folder / "index.html", index)
    return folder / "index.html"


# Columns of the table of scores, and their headings.
COLUMNS = {
    "level": "level",
    "task": "task",
    "score": "score",
    "better": "better",
    "value": "this run",
    "interval": "95 %",
    "examples": "examples",
    "published": "published",
    "note": "note",
}


def shown_columns(rows: Sequence[dict]) -> dict[str, str]:
    """Those of `COLUMNS` that are not empty in all rows."""
    return {name: heading for name, heading in COLUMNS.items() if any(row[name] for row in rows)}


def unit_of(score: dict) -> str:
    """The unit of a score in results. Judges give shares."""
    return "share" if score["metric"].startswith("judge:") else load_metric(score["metric"]).unit


def score_rows(results: dict) -> list[dict]:
    """One row a score, with the columns of `COLUMNS` as text, `published` as a list."""
    rows = []
    for name, task in results["tasks"].items():
        for key, score in task["scores"].items():
            published = [
                f"{p['value']:g} ({p['model']}; {p['source']})" for p in task["published"] if p["metric"] == key
            ]
            known = score["value"] is not None
            interval = known and score["low"] is not None
            rows.append(
                {
                    "task": name,
                    "level": task["level"],
                    "score": f"{key} ({unit_of(score)})",
                    "better": "higher" if score["higher_is_better"] else "lower",
                    "value": format_value(score["value"]) if known else "–",
                    "interval": f"{format_value(score['low'])} to {format_value(score['high'])}" if interval else "",
                    "examples": task["num_examples"],
                    "published": published,
                    "note": score.get("reason", ""),
                }
            )
    return rows


def describe_model(model: dict) -> str:
    """The model of the results: class, size, dtype and weights, as far as they are known."""
    size = f"{model['parameters'] / 1e6:.1f} M parameters" if model["parameters"] else None
    weights = f"weights {model['weights']}" if model["weights"] else None
    return ", ".join(text for text in (model["class"], size, model["dtype"], weights) if text)


def format_length(seconds: float) -> str:
    """A length of audio in hours, minutes or seconds, whichever is read most easily."""
    if seconds >= 3600:
        return f"{seconds / 3600:.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def describe_prompt(task: dict) -> str:
    """What was asked in a task of the results, and whose words that is."""
    source, _, bank_task = task.get("prompt_source", OWN).partition(":")
    if source == ROW:
        return "the question of each example"
    whose = f"prompt bank, {bank_task}" if source == BANK else "this project's own wording"
    return f"“{task['prompt']}” ({whose})"


def published_prompts(task: dict) -> dict[str, str]:
    """With what the published values of a task in the results were asked, as far as is known: by prompt, the models."""
    models: dict[str, dict[str, None]] = {}
    for value in task["published"]:
        models.setdefault(value.get("prompt", UNKNOWN_PROMPT), {})[value["model"]] = None
    return {prompt: ", ".join(names) for prompt, names in models.items()}


def format_value(value: float) -> str:
    """Two decimals, or three for shares between 0 and 1."""
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.2f}"


def to_markdown(results: dict, rows: Sequence[dict]) -> str:
    """The table of scores as Markdown."""
    model = results["model"]
    lines = [
        f"# Evaluation of {model['name']}",
        "",
        f"{describe_model(model)}. Intervals are 95 % bootstrap intervals over examples.",
    ]
    if results["limit"]:
        lines += [
            "",
            f"**Only the first {results['limit']} examples of each task: not comparable with published values.**",
        ]
    shown = shown_columns(rows)
    lines += ["", f"| {' | '.join(shown.values())} |", f"|{' --- |' * len(shown)}"]
    for row in rows:
        cells = row | {"published": "<br>".join(row["published"])}
        lines.append("| " + " | ".join(str(cells[name]).replace("|", "\\|") for name in shown) + " |")
    lines += [
        "",
        PROMPT_NOTE,
        "",
    ]
    for name, task in results["tasks"].items():
        others = "".join(f" Published, {models}: {prompt}." for prompt, models in published_prompts(task).items())
        lines.append(f"- {name}: {describe_prompt(task)}.{others}")
    if results.get("skipped"):
        lines += ["", "Skipped, for want of data:", ""]
        lines += [f"- {task}: {reason}" for task, reason in results["skipped"].items()]
    return "\n".join(lines) + "\n"


def _task_page(
    run: str | Path, results: dict, name: str, clips: dict[str, Example], audio: str, max_examples: int, folder: Path
) -> dict:
    task, rows, per_example = results["tasks"][name], read_rows(run, name), read_per_example(run, name)
    order = list(range(len(rows)))
    first = next(iter(per_example), None)
    if first is not None:
        sign = 1 if task["scores"][first]["higher_is_better"] else -1
        order.sort(key=lambda i: sign * per_example[first]["scores"][i])
    shown = [
        {
            **rows[i],
            "scores": {key: format_value(values["scores"][i]) for key, values in per_example.items()},
            "difference": _difference(rows[i]["references"], rows[i]["prediction"]),
            "order_score": None if first is None else per_example[first]["scores"][i],
            **_describe_clips(clips.get(rows[i]["id"])),
            "audio": _place_audio(clips.get(rows[i]["id"]), i, name, audio, folder),
        }
        for i in order[:max_examples]
    ]
    plot = f"{name}.png"
    has_plot = first is not None and plot_distribution(per_example[first]["scores"], first, folder / plot)
    return {
        "name": name,
        "task": task,
        "examples": shown,
        "order": first,
        "units": {key: unit_of(task["scores"][key]) for key in per_example},
        "length": format_length,
        "higher_is_better": first is not None and task["scores"][first]["higher_is_better"],
        "prompt": describe_prompt(task),
        "published_prompts": published_prompts(task),
        "plot": plot if has_plot else None,
    }


def _describe_clips(example: Example | None) -> dict:
    """Names of the files of an example and its seconds, where they are known."""
    if example is None:
        return {"files": "", "seconds": None}
    files = [Path(clip).name for clip in example.clips if isinstance(clip, (str, Path))]
    return {"files": ", ".join(files), "seconds": example.seconds}


def _place_audio(example: Example | None, index: int, name: str, audio: str, folder: Path) -> str | None:
    """Where a page finds the clip of an example, relative to the page."""
    if example is None or audio == "none":
        return None
    if audio == "link" and len(example.clips) == 1 and isinstance(example.clips[0], (str, Path)):
        return Path(os.path.relpath(example.clips[0], folder)).as_posix()
    path = folder / "audio" / name / f"{index:06d}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, example.waveform(), SAMPLING_RATE)
    return path.relative_to(folder).as_posix()


def _difference(references: Sequence[str], answer: str) -> Markup | None:
    """What is marked in an answer; `None` where nothing is: it has the words of a reference."""
    is_same = any(reference.split() == answer.split() for reference in references)
    return None if is_same else mark_difference(references, answer)


def mark_difference(references: Sequence[str], answer: str) -> Markup:
    """The answer as HTML, in which words that the closest reference lacks, and that it has more, are marked."""
    words = answer.split()
    matchers = [difflib.SequenceMatcher(None, reference.split(), words, autojunk=False) for reference in references]
    matcher = max(matchers, key=lambda matcher: matcher.ratio())
    parts = []
    for kind, start, stop, new_start, new_stop in matcher.get_opcodes():
        old, new = escape(" ".join(matcher.a[start:stop])), escape(" ".join(words[new_start:new_stop]))
        if kind == "equal":
            parts.append(new)
            continue
        parts += [Markup("<del>{}</del>").format(old)] * bool(old) + [Markup("<ins>{}</ins>").format(new)] * bool(new)
    return Markup(" ").join(parts)
