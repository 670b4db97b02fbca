# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The report on what `salmonn-nano` repeats of the papers, from made runs."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_evaluation import HearingModel, write_manifest

from cli_salmonn.main import main
from evaluation_salmonn.runner import evaluate
from evaluation_salmonn.sweep import save_sweep
from evaluation_salmonn.task import load_tasks
from nano_salmonn.beats_classifier import top1_by_kind
from nano_salmonn.report import plots
from nano_salmonn.report.card import write_card
from nano_salmonn.report.document import write_report
from nano_salmonn.report.goals import GOALS
from nano_salmonn.report.inputs import Runs, Score
from nano_salmonn.report.verdicts import judge_gain, judge_growth, judge_kept
from training_salmonn.analysis import save_perplexity
from training_salmonn.callbacks import ResultsCallback, write_json


def edit(path: Path, change) -> None:
    """Changes what a JSON file holds."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_scores(folder: Path, **scores) -> None:
    """Gives tasks of an evaluation scores of our own: task__score=(value, low, high)."""

    def change(results):
        for name, values in scores.items():
            task, score = name.split("__")
            results["tasks"][task]["scores"][score].update(zip(("value", "low", "high"), values))

    edit(folder / "results.json", change)


def save_training(folder: Path, wers=(1.0, 0.4), last_step: int = 200) -> None:
    """What the Trainer and its callback leave behind."""
    args = SimpleNamespace(output_dir=str(folder), seed=0, world_size=1)
    steps = (last_step // 2, last_step)
    log = [{"step": step, "epoch": 1.0, "loss": 300 / step, "learning_rate": 1e-3} for step in steps]
    log += [{"step": step, "eval_loss": 400 / step, "eval_wer": wer} for step, wer in zip(steps, wers)]
    state = SimpleNamespace(is_world_process_zero=True, log_history=log, max_steps=last_step, global_step=0)
    callback = ResultsCallback({"stage": "alignment"})
    callback.on_train_begin(args, state, None, model=torch.nn.Linear(100, 100))
    callback.on_evaluate(args, state, None)


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory):
    """A folder with every run that the report knows, but evaluations of few tasks."""
    folder = tmp_path_factory.mktemp("made")
    root, tasks = folder / "runs", ("nano_asr", "nano_keywords", "nano_sound", "nano_story")
    columns = {"event": ["dog"] * 5, "caption": ["a dog barks"] * 5}
    data = dict.fromkeys(tasks, write_manifest(folder / "data", **columns))
    one = root / "evaluate/instruct"
    evaluate(HearingModel(), tasks, one, data=data, bootstrap_samples=20, name=f"{folder}/base")
    for name in ("activate", "whisper", "before", "instruct_greedy", "without_beats"):
        shutil.copytree(one, root / "evaluate" / name)
    for name in ("concatenation/without", "concatenation/with", "long/plain", "long/seg"):
        shutil.copytree(one, root / name)
    before = {"nano_asr__wer": (14.0, 12.0, 16.0), "nano_sound__accuracy": (0.72, 0.6, 0.8)}
    stories = {"nano_story__following_rate": (0.1, 0.0, 0.2), "nano_story__diversity": (10.0, 9.0, 11.0)}
    set_scores(root / "evaluate/instruct", **before, **stories, nano_keywords__following_rate=(0.2, 0.1, 0.5))
    told = {"nano_story__following_rate": (0.9, 0.8, 1.0), "nano_story__diversity": (45.0, 40.0, 50.0)}
    worse = {"nano_asr__wer": (18.0, 17.0, 19.0), "nano_keywords__following_rate": (0.5, 0.3, 0.7)}
    set_scores(root / "evaluate/activate", **told, **worse)
    set_scores(root / "evaluate/whisper", nano_asr__wer=(21.0, 20.0, 22.0))
    set_scores(root / "evaluate/before", nano_asr__wer=(30.0, 29.0, 31.0), nano_sound__accuracy=(0.9, 0.8, 1.0))
    set_scores(
        root / "evaluate/instruct_greedy", nano_asr__wer=(15.0, 13.0, 17.0), nano_sound__accuracy=(0.7, 0.6, 0.8)
    )
    set_scores(root / "evaluate/without_beats", nano_sound__accuracy=(0.3, 0.2, 0.4))
    set_scores(root / "concatenation/without", nano_asr__wer=(20.0, 19.0, 21.0))
    set_scores(root / "concatenation/with", nano_asr__wer=(20.0, 19.0, 21.0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{folder}/cli_salmonn/train.py", "train", "pretrain", "--override", "model=a b"])
        for stage in ("alignment", "pretrain", "instruct", "activate"):
            save_training(root / stage)
        wers = {"qformer1": 0.9, "qformer2": 0.5, "qformer4": 0.4, "linear": 0.6, "cross_attention": 0.7}
        for name, wer in wers.items():
            save_training(root / "connectors" / name, wers=(1.0, wer))

    scored = {"asr": ("wer", "%", [90.0, 50.0, 20.0]), "story": ("diversity", "words", [60.0, 50.0, 9.0])}
    tasks = {
        task: {"metric": metric, "unit": unit, "scores": values, "answers": []}
        for task, (metric, unit, values) in scored.items()
    }
    save_sweep(root / "sweep", {"scales": [0, 0.5, 1], "lora_scaling": [0, 1, 2], "tasks": tasks})
    curves = {
        "audiocaption": {"none": [1.5, 1.6], "story": [1.5, 4.0]},
        "story": {"none": [2.5, 2.6], "story": [2.5, 2.0]},
    }
    save_perplexity(root / "perplexity", {"checkpoints": ["a", "b"], "steps": [0, 12], "curves": curves})
    rows = [{"kind": "sound", "classes": [event]} for event in ("dog", "bell")] + [
        {"kind": "music", "instruments": ["horn"]}
    ]
    beats = {"clips": 3, "top1": top1_by_kind(rows, ["dog", "dog", "horn"]), "mean_average_precision": 0.75}
    precision = {f"sound {number}": number / 50 for number in range(50)}
    write_json(root / "beats/scores.json", {**beats, "average_precision": precision})
    write_json(root / "commands.json", {"sweep": "salmonn sweep-lora ./base"})
    steps = [
        {"step": "clips", "about": "clips", "wall": 40, "cpu": 80, "runs": 1, "commands": ["salmonn nano make a"]},
        {
            "step": "beats",
            "about": "BEATs",
            "wall": 7200,
            "cpu": 14000.0,
            "runs": 3,
            "commands": ["salmonn b", "salmonn c"],
        },
    ]
    write_json(root / "steps.json", steps)
    return root


@pytest.fixture
def runs(all_runs, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(all_runs, tmp_path / "runs")


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out what takes the time: plots are set up, but not written."""
    monkeypatch.setattr("nano_salmonn.report.plots._save", lambda figure, path: None)


@pytest.fixture(scope="module")
def report(all_runs, tmp_path_factory):
    return write_report(all_runs, tmp_path_factory.mktemp("docs"), hidden=[all_runs.parent])


def verdict_of(text: str, claim: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {claim}")]
    return re.search(r"\*\*(\w+)\*\*", line).group(1)


def test_verdicts_of_all_claims(report):
    text = report.read_text()
    verdicts = {
        "After activation tuning the model tells stories": "yes",
        "Its stories have more different words": "yes",
        "Another instruction that was not trained": "unclear",  # by more than the threshold, but intervals overlap
        "Recognition is kept": "no",
        "Connected to an LLM, Whisper's encoder": "yes",
        "With BEATs more is heard than with": "yes",
        "A Q-Former recognises better": "yes",
        "More queries help": "yes",
        "Random concatenation lowers": "no",
        "Segment positions": "no",
        "With LoRA turned down, answers": "yes",
        "With LoRA turned down, recognition": "yes",
        "Asked for a story": "yes",
        "Asked for nothing": "unclear",  # captions as in the paper, stories the other way
    }
    assert {claim: verdict_of(text, claim) for claim in verdicts} == verdicts
    summary = text.partition("## Summary")[2].partition("\n## ")[0]
    assert summary.count("**") == 2 * len(verdicts)


def test_values_stand_beside_their_commands(report):
    text = report.read_text()
    assert "| speech, held-out sentences: WER | % | 5 | 14.0<br>(12.0 to 16.0) | 18.0<br>(17.0 to 19.0) | 21.0" in text
    assert "| story (not trained): following rate | % | 5 | 10.0<br>(0.0 to 20.0) | 90.0<br>(80.0 to 100.0) |" in text
    assert "# connectors/linear\nsalmonn train pretrain --override 'model=a b'\n" in text
    assert "# sweep\nsalmonn sweep-lora ./base\n" in text
    assert "The command is not recorded of `evaluate/instruct`, `evaluate/activate`" in text
    assert "model `base` (HearingModel" in text  # without the folder that is hidden
    assert "| `qformer1` | 0.01 M | 200 | 100.0 | 90.0 | 90.0 |" in text
    assert "| asr: WER (%) | 90.0 | 50.0 | 20.0 |" in text
    assert "| audio_story_telling | audiocaption | 1.50 | 4.00 | 1.7 | 8.6 |" in text
    assert "| sound | 2 | 50.0 |" in text and "**75.0 %**" in text
    assert "## Not measured" not in text


def test_goals_stand_beside_who_else_was_measured(report):
    """No row is left out, and what was not measured says so."""
    table = report.read_text().partition("## Goals")[2].partition("\n## ")[0]
    rows = [line[2:-2].split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert rows[0][1:] == [
        "clips",
        "goal",
        "better",
        "salmonn-nano",
        "reached?",
        "Whisper's own decoder",
        "the checkpoint before, not activated",
    ]
    rows = {row[0]: row[1:] for row in rows[2:]}
    assert len(rows) == len(GOALS)
    greedy = "14.0 (12.0 to 16.0)<br>15.0 (13.0 to 17.0) greedy"
    others = ["21.0 (20.0 to 22.0)", "30.0 (29.0 to 31.0)"]
    assert rows["made clips, unseen sentences: WER"] == ["5", "≤ 12 %", "≤ 8 %", greedy, "**no**", *others]
    sounds = rows["single sounds named"]
    assert sounds[1:3] == ["≥ 82 %", "≥ 88 %"] and sounds[4] == "**no**" and sounds[6] == "90.0 (80.0 to 100.0)"
    stories = rows["stories told after activation tuning"]
    assert stories[3:5] == ["90.0 (80.0 to 100.0)", "**yes**"]
    change = rows["WER after activation tuning, as a multiple of before"]
    assert change == ["5", "≤ 1.1 times", "–", "1.29", "**no**", "–", "–"]
    assert rows["recorded prompts of one woman, kept apart: WER"][3:] == ["–", "not measured", "–", "–"]


def test_steps_stand_with_their_times_and_commands(report):
    text = report.read_text().partition("## How it was made")[2]
    assert "| beats | BEATs | 2 h 00 min | 3 h 53 min | 3 |" in text
    assert "| **all** |  | 2 h 01 min | 3 h 55 min |  |" in text
    assert "# clips\nsalmonn nano make a\n# beats\nsalmonn b\nsalmonn c\n" in text


def test_commands_of_a_build_are_those_of_its_steps(runs, tmp_path, undrawn):
    scoring = "salmonn evaluate runs/base --tasks nano --output runs/report/evaluate/instruct"
    reading = "salmonn evaluate runs/report/evaluate/activate --output runs/report/evaluate/activated"
    edit(runs / "steps.json", lambda steps: steps[1]["commands"].extend([reading, scoring]))
    text = write_report(runs, tmp_path).read_text(encoding="utf-8").partition("## How it was made")[0]
    assert f"# evaluate/instruct\n{scoring}\n" in text
    assert "The command is not recorded of `evaluate/activate`, " in text


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_card_says_whether_training_went_on_from_another_model(runs, tmp_path, goes_on):
    if goes_on:
        edit(
            runs / "steps.json", lambda steps: steps[1]["commands"].append("salmonn nano start runs/beats runs/start")
        )
    credits = tmp_path / "build/sources/SOURCES.md"
    credits.parent.mkdir(parents=True)
    credits.write_text("| package | credit |\n| --- | --- |\n| voices | people |\n")
    card = write_card(tmp_path / "build", Runs(runs), tmp_path / "card.md").read_text(encoding="utf-8")

    assert ("the BEATs and the adapter that this project had before" in card) == goes_on
    assert "| beats | BEATs | 2 h 00 min" in card and "| voices | people |" in card and "$" not in card


def test_pictures_are_small_and_all_shown(report):
    shown = re.findall(r"!\[[^\]]+\]\((images/nano/[a-z]+\.png)\)", report.read_text())
    files = sorted(report.parent.glob("images/nano/*"))
    assert sorted(report.parent / name for name in shown) == files and len(files) == 8
    assert all(1000 < file.stat().st_size < 80_000 for file in files)
    anchors = {
        f"#{re.sub('[^a-z0-9 -]', '', line[3:].lower()).replace(' ', '-')}"
        for line in report.read_text().splitlines()
        if line.startswith("## ")
    }
    assert set(re.findall(r"\]\((#[^)]+)\)", report.read_text())) <= anchors


def test_places_without_a_panel_stay_empty(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    plots.plot_panels(tmp_path / "a.png", [plots.Panel("a", "x", "y", {"line": [(0, 1), (1, 2)]})] * 3)
    assert [axes.axison for axes in drawn[0].axes] == [True, True, True, False]


def test_equal_runs_make_equal_reports(report, all_runs, tmp_path):
    again = write_report(all_runs, tmp_path, hidden=[all_runs.parent])
    assert again.read_bytes() == report.read_bytes()
    for plot in report.parent.glob("images/nano/*"):
        assert (tmp_path / "images/nano" / plot.name).read_bytes() == plot.read_bytes()


def test_what_is_missing_is_named(runs, tmp_path, undrawn):
    (tmp_path / "images/nano").mkdir(parents=True)
    (tmp_path / "images/nano/sweep.png").write_bytes(b"of another run")
    for folder in ("sweep", "evaluate/activate", "connectors/linear", "long/seg"):
        shutil.rmtree(runs / folder)
    assert main(["nano", "report", str(runs), "--output", str(tmp_path)]) == 0
    text = (tmp_path / "nano.md").read_text()
    missing = text.partition("## Not measured")[2]
    for line in (
        "- LoRA turned down at test time: no `sweep/sweep_lora.json`.",
        "- Tasks, before and after activation tuning: no `evaluate/activate/results.json`.",
        "- Connectors and numbers of queries: no evaluated `connectors/linear/curves.json`.",
        "- Clips longer than 30 s: Seg-QF: no `long/seg/results.json`.",
    ):
        assert line in missing
    for absent in (
        "## LoRA turned down",
        "## Clips longer",
        "After activation tuning the model",
        "A Q-Former recognises",
    ):
        assert absent not in text
    assert not (tmp_path / "images/nano/sweep.png").exists()


def test_stages_are_shown_in_their_order_and_missed(runs, tmp_path, undrawn):
    save_training(runs / "pretrain", last_step=77)
    text = write_report(runs, tmp_path / "out").read_text()
    names = ("| alignment |", "| pretrain |", "| instruct |")
    stages = [row.split(" | ")[:2] for row in text.splitlines() if row.startswith(names)]
    assert stages == [["| alignment", "200"], ["| pretrain", "77"], ["| instruct", "200"]]
    shutil.rmtree(runs / "instruct")
    assert "Training: no `instruct/curves.json`" in write_report(runs, tmp_path / "again").read_text()


def test_notes_stand_before_the_summary(runs, tmp_path, undrawn):
    (runs / "notes.md").write_text("These clips were easy.\n", encoding="utf-8")
    text = write_report(runs, tmp_path).read_text(encoding="utf-8")
    assert "\n\nThese clips were easy.\n\n## Summary\n\n" in text


def test_a_limit_and_unequal_steps_are_told(runs, tmp_path, undrawn):
    edit(runs / "evaluate/instruct/results.json", lambda results: results.update(limit=5))
    save_training(runs / "connectors/linear", last_step=100)
    text = write_report(runs, tmp_path).read_text()
    assert "**only the first 5 examples of each task**" in text
    assert "**The runs have different numbers of steps" in text


def spoil_score(results):
    results["tasks"]["nano_asr"]["scores"]["wer"]["value"] = "low"


def spoil_digest(results):
    results["tasks"]["nano_asr"]["data_digest"] = "other"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("evaluate/instruct/results.json", spoil_score, "'nano_asr', score 'wer' must be a finite number, got 'low'"),
        ("evaluate/instruct/results.json", lambda r: r.pop("model"), "malformed: there is no 'model'"),
        ("evaluate/instruct/results.json", lambda r: r.update(schema_version=9), "schema_version 1, got 9"),
        ("evaluate/activate/results.json", spoil_digest, "nano_asr must have the same data"),
        ("sweep/sweep_lora.json", lambda r: r.update(scales=[0, 0.5, 2]), "must hold 1 and a smaller one"),
        ("sweep/sweep_lora.json", lambda r: r["tasks"]["asr"]["scores"].pop(), "list of 3 numbers"),
        ("perplexity/perplexity.json", lambda r: r["curves"]["story"]["none"].pop(), "list of 2 numbers"),
        ("alignment/curves.json", lambda r: r.update(loss=[[1, None]]), "'loss' must be a finite number, got None"),
        ("alignment/curves.json", lambda r: r.update(eval_wer=[0.5]), "list of steps and values"),
        ("alignment/run.json", lambda r: r.update(command="salmonn"), "`command` must be a list of words"),
        ("beats/scores.json", lambda r: r["top1"]["sound"].pop("accuracy"), "malformed: there is no 'accuracy'"),
        ("commands.json", lambda r: r.update(sweep=["salmonn"]), "object of commands as strings"),
        ("steps.json", lambda r: r[0].pop("wall"), "malformed: there is no 'wall'"),
        ("steps.json", lambda r: r[0].update(cpu="much"), "`cpu` must be a finite number, got 'much'"),
    ],
)
def test_malformed_files_are_refused(runs, tmp_path, undrawn, file, change, message):
    edit(runs / file, change)
    with pytest.raises(ValueError, match=re.escape(message)):
        write_report(runs, tmp_path)
    assert not (tmp_path / "nano.md").exists()


def test_wrong_folders_are_refused(runs, tmp_path, undrawn, capsys):
    (runs / "sweep/sweep_lora.json").write_text("{")
    with pytest.raises(ValueError, match=r"sweep_lora\.json must be JSON"):
        write_report(runs, tmp_path)
    (runs / "evaluate/intruct").mkdir()
    with pytest.raises(ValueError, match="must hold instruct, instruct_greedy, .* only, got intruct"):
        Runs(runs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least one run, got .*empty"):
        write_report(tmp_path / "empty", tmp_path)
    assert main(["nano", "report", str(tmp_path / "nowhere")]) == 2
    assert "`runs` must be a folder" in capsys.readouterr().err


def score(value, half=None, higher=True):
    return Score(value, *(None, None) if half is None else (value - half, value + half), higher)


def test_rules():
    assert judge_gain(score(10, 2), score(40, 2), 20) == "yes"
    assert judge_gain(score(10, 20), score(40, 20), 20) == "unclear"
    assert judge_gain(score(10), score(40), 20) == "unclear"  # without intervals nothing is sure
    assert judge_gain(score(10, 1), score(20, 1), 20) == "no"
    assert judge_gain(score(10, 1, higher=False), score(40, 1, higher=False), 20) == "no"
    assert judge_gain(score(10, 1), score(10, 1), 0) == "no"
    assert judge_kept(score(10, 1, higher=False), score(10.9, 1, higher=False), 1) == "yes"
    assert judge_kept(score(10, 1, higher=False), score(8, 1, higher=False), 1) == "yes"
    assert judge_kept(score(10, 1, higher=False), score(11.5, 1, higher=False), 1) == "unclear"
    assert judge_kept(score(10, 1, higher=False), score(15, 1, higher=False), 1) == "no"
    assert [judge_growth(10, after, 2, 1.2) for after in (20, 13, 11)] == ["yes", "unclear", "no"]
    assert [judge_growth(0, after, 2, 1.2) for after in (0, 5)] == ["no", "yes"]


def test_a_group_of_tasks_has_all_that_goals_are_about():
    assert {task.name for task in load_tasks(["nano_goals"])} == {goal.task for goal in GOALS}
