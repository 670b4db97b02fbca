# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Reports and comparisons of runs, and the commands that write them."""

import json
import re
from html.parser import HTMLParser

import pytest
import soundfile
from tiny_evaluation import HearingModel, make_task, write_manifest, write_task

from cli_salmonn.main import build_parser
from evaluation_salmonn.compare import compare_runs, comparison_to_markdown, write_comparison
from evaluation_salmonn.data import load_examples
from evaluation_salmonn.report import format_length, mark_difference, write_report
from evaluation_salmonn.run_files import differing_keys, read_results
from evaluation_salmonn.runner import evaluate


@pytest.fixture
def finished(tmp_path):
    """A finished run, its task file and its manifest."""
    manifest, task = write_manifest(tmp_path / "data"), write_task(tmp_path)
    evaluate(HearingModel(), [task], tmp_path / "run", data={"tiny": manifest}, bootstrap_samples=20)
    return tmp_path / "run", task, manifest


def test_report_opens_from_the_disk(finished):
    run, _, manifest = finished
    examples = {"tiny": load_examples(make_task(), {"tiny": manifest})[0]}
    index = write_report(run, examples)
    page = (run / "report/tiny.html").read_text()
    assert '<a href="tiny.html">' in index.read_text()
    assert "http://" not in page and "https://" not in page
    assert page.count("<article") == page.count("<audio") == 5
    assert 'src="audio/tiny/000000.wav"' in page
    assert soundfile.info(run / "report/audio/tiny/000002.wav").duration == pytest.approx(0.6)
    assert "rain falls &lt;on&gt; the roof &amp; more" in page  # nothing of the data is taken for HTML
    assert (run / "report/scores.png").stat().st_size > 1000
    markdown = (run / "report/report.md").read_text()
    value = read_results(run)["tasks"]["tiny"]["scores"]["wer"]["value"]
    assert f"| 1 | tiny | wer (%) | lower | {value:.2f} |" in markdown
    assert "| note |" not in markdown and "<th>note</th>" not in index.read_text()  # no column is empty
    assert "- tiny: “What is said?” (this project's own wording). Published, Some model: not stated." in markdown
    assert "Published, Some model: not stated." in page and "this project&#39;s own wording" in page
    assert '<p class="note">2.wav, 0.6 s</p>' in page  # before it is played
    assert page.count("data-filtered data-score=") == 5 and 'id="limit"' in page and "wer at least" in page
    assert "<details>" in index.read_text() and 'oninput="applyFilter()"' in index.read_text()
    assert "2.5 (Some model; Table 1)" in markdown


def test_report_links_or_leaves_out_clips_and_shows_the_worst(finished):
    run, _, manifest = finished
    examples = {"tiny": load_examples(make_task(), {"tiny": manifest})[0]}
    write_report(run, examples, audio="link", max_examples=2)
    page = (run / "report/tiny.html").read_text()
    assert page.count('src="../../data/') == page.count("<article") == 2
    scores = json.loads((run / "tiny/per_example.json").read_text())["wer"]["scores"]
    assert f"wer {max(scores):.2f}" in page
    assert not (run / "report/audio").exists()
    write_report(run)
    assert "<audio" not in (run / "report/tiny.html").read_text()
    with pytest.raises(ValueError, match="audio.*got 'stream'"):
        write_report(run, audio="stream")


def test_report_warns_of_a_limit(tmp_path):
    manifest, task = write_manifest(tmp_path / "data"), write_task(tmp_path)
    evaluate(HearingModel(), [task], tmp_path / "run", data={"tiny": manifest}, limit=2, bootstrap_samples=0)
    write_report(tmp_path / "run")
    assert "first 2 examples" in (tmp_path / "run/report/report.md").read_text()
    assert "first 2 examples" in (tmp_path / "run/report/index.html").read_text()


class Parser(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_nothing_of_the_data_is_taken_for_html(tmp_path):
    """Ids, questions, references, answers, names of files, tasks and models of any characters."""
    evil = "</table></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    manifest = write_manifest(tmp_path / "data", 2, id=[evil, "b"], text=[f"{evil} a", "b"])
    task = write_task(
        tmp_path,
        description=evil,
        prompt=evil,
        published=[{"metric": "wer", "value": 1, "model": evil, "source": evil}],
    )
    model = HearingModel(words=(evil,), accent=evil)
    evaluate(model, [task], tmp_path / "run", data={"tiny": manifest}, bootstrap_samples=0)
    settings = json.loads((tmp_path / "run/results.json").read_text())
    settings["model"]["name"], settings["skipped"] = evil, {evil: evil}
    (tmp_path / "run/results.json").write_text(json.dumps(settings))
    write_report(tmp_path / "run", {"tiny": load_examples(make_task(), {"tiny": manifest})[0]})
    other = tmp_path / "other"
    evaluate(HearingModel(words=("x",)), [task], other, data={"tiny": manifest}, bootstrap_samples=0)
    pages = [
        *(tmp_path / "run/report").glob("*.html"),
        write_comparison(compare_runs(tmp_path / "run", other), tmp_path),
    ]
    assert len(pages) == 3
    for page in pages:
        tags = Parser(page.read_text()).tags
        assert [tag for tag, _ in tags].count("script") == 1  # that of the filter
        assert not any(
            name.startswith("on") and value != "applyFilter()" for _, given in tags for name, value in given.items()
        )
        assert all(given["src"].endswith(".png") for tag, given in tags if tag == "img")
        targets = [given["href"] for tag, given in tags if tag == "a"]
        assert all(target.startswith("#task-") or target in ("tiny.html", "index.html") for target in targets)


def test_pages_say_what_a_reader_needs(tmp_path):
    """Lengths and units without a click, the difference only where there is one, and no empty answer unseen."""
    manifest = write_manifest(tmp_path / "data", 2, text=["one", "one"])
    evaluate(
        HearingModel(words=("one",)),
        [write_task(tmp_path)],
        tmp_path / "run",
        data={"tiny": manifest},
        bootstrap_samples=0,
    )
    rows = tmp_path / "run/tiny/predictions.jsonl"
    lines = [
        json.loads(line) | {"prediction": text} for line, text in zip(rows.read_text().splitlines(), ("one", " "))
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    examples = {"tiny": load_examples(make_task(), {"tiny": manifest})[0]}
    write_report(tmp_path / "run", examples)
    page = (tmp_path / "run/report/tiny.html").read_text()
    assert "2 examples, less than a minute, from manifest.jsonl" in page and '<p class="note">0.wav, 0.2 s</p>' in page
    assert page.count("<th>difference</th>") == 1 and '<span class="note">nothing</span>' in page
    assert page.count("<details>") == 1 and "<details open" not in page
    assert 'preload="metadata"' in page and "prefers-color-scheme: dark" in page and "max-width: 45em" in page
    assert re.search(r"wer \d+\.\d\d %", page)
    index = (tmp_path / "run/report/index.html").read_text()
    assert "HearingModel, none. Intervals" in index  # no size and no weights are known
    headings = re.findall(r"<th>(.*?)</th>", index)
    for row in re.findall(r"<tr data-filtered>(.*?)</tr>", index, re.DOTALL):
        assert re.findall('data-heading="(.*?)"', row) == headings  # for phones, where rows become cards
        assert all(cell.strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL))


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "0.2 s"), (59, "59.0 s"), (90, "1.5 min"), (5400, "1.50 h")])
def test_lengths(seconds, text):
    assert format_length(seconds) == text


def test_difference_is_marked_against_the_closest_reference():
    marked = mark_difference(["nothing alike", "a dog <barks> l<ou>d"], "a c&t <barks>")
    assert str(marked) == "a <del>dog</del> <ins>c&amp;t</ins> &lt;barks&gt; <del>l&lt;ou&gt;d</del>"
    assert str(mark_difference(["same words"], "same words")) == "same words"
    assert str(mark_difference(["a"], "")) == "<del>a</del>"


def test_comparison_of_two_runs(finished, tmp_path):
    run, task, manifest = finished
    other = tmp_path / "other"
    evaluate(HearingModel(accent=" eh"), [task], other, data={"tiny": manifest}, bootstrap_samples=20)
    comparison = compare_runs(run, other)
    score = comparison["tasks"]["tiny"]["scores"]["wer"]
    values = [read_results(folder)["tasks"]["tiny"]["scores"]["wer"]["value"] for folder in (run, other)]
    assert [score["first"], score["second"]] == pytest.approx(values)
    assert score["low"] <= score["difference"] <= score["high"]
    changed = comparison["tasks"]["tiny"]["changed"]
    assert [row["gain"] for row in changed] == sorted(row["gain"] for row in changed)
    assert all(row["second"] == row["first"] + " eh" for row in changed)
    page = write_comparison(comparison, tmp_path / "comparison").read_text()
    assert page.count("<article") == 5
    assert "5 answers changed" in (tmp_path / "comparison/comparison.md").read_text()
    same = compare_runs(run, run)
    assert same["tasks"]["tiny"]["changed"] == []
    assert "| 0.000 | 0.000 to 0.000 | 1.000 |" in comparison_to_markdown(same)


def test_comparison_needs_the_same_examples(finished, tmp_path):
    run, task, manifest = finished
    manifest.write_text(manifest.read_text().replace("a dog barks", "two dogs bark"))
    evaluate(HearingModel(), [task], tmp_path / "other", data={"tiny": manifest}, bootstrap_samples=0)
    with pytest.raises(ValueError, match="same examples in both runs"):
        compare_runs(run, tmp_path / "other")
    with pytest.raises(ValueError, match="finished run, got .* without results.json"):
        compare_runs(run, tmp_path)


def test_differing_keys():
    first = {"a": 1, "b": {"c": 2, "d": 3}}
    assert differing_keys(first, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}) == ["b.c", "e"]
    assert differing_keys(first, first) == []


def command(*arguments):
    options = build_parser().parse_args([str(argument) for argument in arguments])
    options.run(options)


def test_commands(finished, tmp_path, capsys, monkeypatch):
    run, task, manifest = finished
    monkeypatch.setattr("evaluation_salmonn.runner.load_model", lambda name, **options: HearingModel())
    command("evaluate", "some/model", "--tasks", task, "--data", f"tiny={manifest}", "--output", tmp_path / "new",
            "--generation", "num_beams=2", "do_sample=false", "--limit", 3, "--audio", "none")  # fmt: skip
    results = read_results(tmp_path / "new")
    assert results["model"]["name"] == "some/model"
    assert results["tasks"]["tiny"]["generation"] == {"num_beams": 2, "do_sample": False}
    printed = capsys.readouterr().out
    assert printed.startswith("tiny wer ")
    assert "report/index.html" in printed
    command("compare", run, run, "--output", tmp_path / "comparison")
    assert "0 answers changed" in capsys.readouterr().out
    command("tasks", "level3")
    assert capsys.readouterr().out.count("level 3") == 2
    with pytest.raises(SystemExit):
        command("evaluate", "m", "--tasks", "all", "--output", "o", "--data", "no separator")
