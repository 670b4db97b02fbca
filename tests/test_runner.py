# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The runner: the same result however it was run, and nothing scored that does not belong together."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState, debug_launcher
from tiny_evaluation import SENTENCES, HearingModel, make_task, write_manifest, write_task
from transformers import AutoModelForMultimodalLM

from data_salmonn.journals import Journal, append_lines, read_journals
from data_salmonn.manifests import ManifestError
from evaluation_salmonn.data import load_examples
from evaluation_salmonn.models import ChatModel, SalmonnChatModel, load_model
from evaluation_salmonn.predictions import make_row, read_predictions
from evaluation_salmonn.report import score_rows, to_markdown
from evaluation_salmonn.run_files import read_results
from evaluation_salmonn.runner import evaluate, make_batches
from tiny_salmonn import tiny_config, tiny_model, tiny_processor, with_adapter


RUN_FILES = ("results.json", "run.json", "tiny/predictions.jsonl", "tiny/per_example.json")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def data(tmp_path):
    """A task file and its data, as arguments of `evaluate`."""
    manifest = write_manifest(tmp_path / "data")
    return {"tasks": [write_task(tmp_path)], "data": {"tiny": manifest}, "bootstrap_samples": 20}


def run(data, output, model=None, **options):
    return evaluate(model or HearingModel(), output=output, **{**data, **options})


def contents(output):
    return {name: (Path(output) / name).read_bytes() for name in RUN_FILES}


def test_result_holds_what_is_needed_to_repeat_it(data, tmp_path):
    results = run(data, tmp_path / "run", batch_size=2, seed=3, generation={"num_beams": 2})
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["environment"]["packages"]["transformers"] and results["environment"]["packages"]["jiwer"]
    assert "git_commit" in results["environment"]
    assert (results["seed"], results["batch_size"], results["limit"]) == (3, 2, None)
    task = results["tasks"]["tiny"]
    assert task["prompt"] == "What is said?"
    assert (task["version"], task["generation"], task["num_examples"]) == (1, {"num_beams": 2}, 5)
    score = task["scores"]["wer"]
    assert score["low"] <= score["value"] <= score["high"]
    assert not list((tmp_path / "run" / "tiny").glob("journal*"))


def test_scores_are_those_of_the_metric_by_hand(data, tmp_path):
    import jiwer

    results = run(data, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/tiny/predictions.jsonl").read_text().splitlines()]
    assert [row["references"][0] for row in rows] == list(SENTENCES)  # the order of the data, not of the batches
    references = ["the cat sat on the mat", "a dog barks", "rain falls the roof more", "nobody speaks here", "one"]
    hypotheses = [row["prediction"].replace("<on>", "").replace("&", " ") for row in rows]
    assert results["tasks"]["tiny"]["scores"]["wer"]["value"] == pytest.approx(100 * jiwer.wer(references, hypotheses))


def test_batches_are_sorted_by_length_whatever_the_order(tmp_path):
    examples, _ = load_examples(make_task(), {"tiny": write_manifest(tmp_path)})
    batches = make_batches(examples, 2)
    assert [[round(example.seconds, 1) for example in batch] for batch in batches] == [[0.6, 0.5], [0.4, 0.3], [0.2]]
    assert make_batches(examples[::-1], 2) == batches


@pytest.mark.parametrize("variant", [{}, {"fixed_length": False}])
def test_batch_size_and_order_change_no_answer(data, tmp_path, variant):
    config = tiny_config(**variant)
    model = ChatModel(with_adapter(tiny_model(config)), tiny_processor(config))
    generation = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    manifest = write_manifest(tmp_path / "data", unit_seconds=2)  # of 30 s, some are to be heard
    answers = []
    for batch_size, reverse in ((1, False), (4, False), (3, True)):
        if reverse:
            manifest.write_text("".join(f"{line}\n" for line in manifest.read_text().splitlines()[::-1]))
        output = tmp_path / f"run {batch_size}"
        results = run(data, output, model, batch_size=batch_size, generation=generation)
        rows = [json.loads(line) for line in (output / "tiny/predictions.jsonl").read_text().splitlines()]
        score = results["tasks"]["tiny"]["scores"]["wer"]["value"]
        answers.append(({row["id"]: row["prediction"] for row in rows}, score))
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0][0].values())) > 1  # the clips are heard


def test_long_clips_are_transcribed_segment_by_segment_where_a_task_says_so():
    config = tiny_config(segment_seconds=2, max_audio_seconds=2, fixed_length=False)
    model = SalmonnChatModel(tiny_model(config), tiny_processor(config))
    clips = [0.1 * np.random.default_rng(n).standard_normal(16_000 * n).astype(np.float32) for n in (5, 1)]
    asked, generate = [], model.model.generate
    # transcribing calls it again with prompts around the segments
    model.model.generate = lambda *args, **inputs: asked.append(inputs) or generate(*args, **inputs)
    options = {"max_new_tokens": 4, "do_sample": False}

    answers = model.answer(clips, ["What is said?"] * 2, make_task(segments=True), **options)

    # the prompt is the model's own, and the first clip is three segments
    assert "input_ids" not in asked[0] and asked[0]["segment_ids"].tolist() == [0, 1, 2, 0]
    assert len(answers) == 2
    alone = [model.answer([clip], [""], make_task(segments=True), **options)[0] for clip in clips]
    assert answers == alone
    model.answer(clips[1:], ["What is said?"], make_task(), **options)
    assert "input_ids" in asked[-1]


class Doomed(HearingModel):
    """Kills its process in the middle of writing the third answer."""

    def __init__(self, output: Path):
        super().__init__()
        self.journal = output / "tiny" / "journal-000.jsonl"

    def answer(self, *arguments, **options):
        if len(self.batches) == 2:
            with open(self.journal, "a") as file:
                file.write('{"task": "tiny", "id": "cl')
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(*arguments, **options)


def test_killed_run_goes_on_and_ends_with_the_same_files(data, tmp_path):
    run(data, tmp_path / "whole", batch_size=1)
    output = tmp_path / "killed"
    child = os.fork()
    if child == 0:
        try:
            run(data, output, Doomed(output), batch_size=1, name="HearingModel")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(read_journals(output / "tiny")) == 2
    assert not (output / "results.json").exists()

    model = HearingModel()
    run(data, output, model, batch_size=1)
    assert len(model.batches) == 3  # what was there is not made again
    assert contents(output) == contents(tmp_path / "whole")

    run(data, output, model, batch_size=1)
    assert len(model.batches) == 3  # a finished run is only scored


def test_batch_that_was_cut_is_made_again_as_a_whole(data, tmp_path):
    run(data, tmp_path / "whole", batch_size=2)

    class Stopped(HearingModel):
        def answer(self, clips, *arguments, **options):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().answer(clips, *arguments, **options)

    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run(data, stopped, Stopped(), batch_size=2, name="HearingModel")
    journal = stopped / "tiny/journal-000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]))  # the second batch lost one of its two answers
    model = HearingModel()
    run(data, stopped, model, batch_size=2)
    assert model.batches == [2, 1]
    assert contents(stopped) == contents(tmp_path / "whole")


def test_sampling_draws_the_same_after_an_interruption(data, tmp_path):
    class Sampling(HearingModel):
        def answer(self, clips, *arguments, **options):
            if len(self.batches) == self.patience:
                raise KeyboardInterrupt
            self.batches.append(len(clips))
            return [f"draw {torch.randint(10**9, ()).item()}" for _ in clips]

    whole, stopped = Sampling(), Sampling()
    whole.patience, stopped.patience = 9, 2
    run(data, tmp_path / "whole", whole, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "stopped", stopped, batch_size=1)
    run(data, tmp_path / "stopped", whole, batch_size=1)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    answers = (tmp_path / "whole/tiny/predictions.jsonl").read_text().split("draw ")[1:]
    assert len({answer.split('"')[0] for answer in answers}) == 5


def _run_in_process(data, output):
    torch.set_num_threads(1)
    model = HearingModel()
    run(data, output, model, batch_size=1)
    output.with_name(f"batches of {PartialState().process_index}").write_text(str(len(model.batches)))


def test_two_processes_write_the_same_files(data, tmp_path):
    run(data, tmp_path / "one", batch_size=1)
    PartialState._reset_state()  # forked processes would take this one's state for theirs
    debug_launcher(_run_in_process, (data, tmp_path / "two"), num_processes=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert [(tmp_path / f"batches of {rank}").read_text() for rank in (0, 1)] == ["3", "2"]


def test_processes_that_do_not_know_each_other_are_refused(data, tmp_path, monkeypatch):
    PartialState(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE.*2 processes were launched, but Accelerate works with 1"):
        run(data, tmp_path / "run")


def test_other_run_in_the_folder_is_refused(data, tmp_path):
    output = tmp_path / "run"
    run(data, output)
    with pytest.raises(ValueError, match="another run, which differs in seed"):
        run(data, output, seed=1)
    with pytest.raises(ValueError, match="differs in model.weights"):
        run(data, output, HearingModel(accent=" eh"))
    with pytest.raises(ValueError, match="differs in.*tasks.tiny.data_digest"):
        run(data, output, limit=2)
    (output / "notes.txt").write_text("mine")
    results = run(data, output, seed=1, overwrite=True)
    assert results["seed"] == 1
    assert (output / "notes.txt").exists()
    with pytest.raises(ValueError, match="new folder"):
        run(data, tmp_path)


@pytest.fixture
def predictions(tmp_path):
    """Examples and the file of their predictions."""
    examples, _ = load_examples(make_task(), {"tiny": write_manifest(tmp_path)})
    path = tmp_path / "predictions.jsonl"
    rows = [make_row(make_task(), example, f"answer {i}") for i, example in enumerate(examples)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return examples, path, rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_shuffled_predictions_are_found(predictions):
    examples, path, rows = predictions
    assert read_predictions(path, make_task(), examples) == [f"answer {i}" for i in range(5)]
    write_rows(path, [rows[1], rows[0], *rows[2:]])
    with pytest.raises(ValueError, match="line 1, must answer 'clip 0', got 'clip 1': lines are shuffled"):
        read_predictions(path, make_task(), examples)
    moved = [row | {"prediction": other["prediction"]} for row, other in zip(rows, rows[::-1])]
    write_rows(path, moved)
    with pytest.raises(ValueError, match="line 1, has an answer that was not given to 'clip 0'"):
        read_predictions(path, make_task(), examples)
    write_rows(path, rows[:4])
    with pytest.raises(ValueError, match="5 lines for task 'tiny', got 4"):
        read_predictions(path, make_task(), examples)


def test_predictions_of_other_systems_need_their_references(predictions):
    examples, path, _ = predictions
    rows = [{"id": e.id, "reference": e.references[0], "prediction": "x"} for e in examples]
    write_rows(path, rows)
    assert read_predictions(path, make_task(), examples) == ["x"] * 5
    write_rows(path, [rows[0] | {"reference": "something else"}, *rows[1:]])
    with pytest.raises(ValueError, match="line 1, has the references 'something else'"):
        read_predictions(path, make_task(), examples)
    write_rows(path, [{"id": e.id, "prediction": "x"} for e in examples])
    with pytest.raises(ValueError, match="line 1, must have its 'references'"):
        read_predictions(path, make_task(), examples)


def test_journal_drops_a_line_that_was_cut(tmp_path):
    path = tmp_path / "journal-000.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b')
    journal = Journal(tmp_path, 0)
    journal.append([{"id": "c"}])
    assert list(read_journals(tmp_path)) == ["a", "c"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is one of Linux")
def test_a_full_disk_is_named():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append_lines(Path("/dev/full"), [{"id": "a"}])


def test_a_run_that_fails_ends_its_bar(data, tmp_path, capsys):
    class Failing(HearingModel):
        def answer(self, *arguments, **options):
            raise OSError("no more")

    try:
        run(data, tmp_path / "run", Failing())
    except OSError:  # while it is handled, as the command does, the bar exists
        assert capsys.readouterr().err.endswith("\n")  # what is said next has a line of its own
    else:
        pytest.fail("no error")


def test_nothing_is_loaded_or_generated_before_all_is_checked(data, tmp_path):
    def load():
        raise AssertionError("the model was loaded")

    broken = write_manifest(tmp_path / "broken")
    broken.write_text(broken.read_text().replace("2.wav", "lost.wav"))
    with pytest.raises(ValueError, match=r"`audio` lost\.wav: there is no such file"):
        run(data | {"data": {"tiny": broken}}, tmp_path / "run", load)
    with pytest.raises(ValueError, match="got 'unknown_task'"):
        run(data | {"tasks": ["unknown_task"]}, tmp_path / "run", load)
    with pytest.raises(ValueError, match="batch_size.*got 0"):
        run(data, tmp_path / "run", load, batch_size=0)

    class Refusing(HearingModel):
        def check(self, task):
            raise ValueError("not this task")

    with pytest.raises(ValueError, match="not this task"):
        run(data, tmp_path / "run", Refusing())
    assert not (tmp_path / "run").exists()


def test_tasks_without_data_are_skipped_if_asked(data, tmp_path):
    tasks = [*data["tasks"], write_task(tmp_path, name="absent", dataset={"note": "Ask for it."})]
    absent_hub = write_task(tmp_path, name="absent_hub", dataset={"path": str(tmp_path / "no_such_set")})
    with pytest.raises(ValueError, match="'absent' has no public dataset.*Ask for it.*`skip_missing`"):
        run(data, tmp_path / "run", tasks=tasks)
    results = run(data, tmp_path / "run", tasks=[*tasks, absent_hub], skip_missing=True)
    assert list(results["tasks"]) == ["tiny"] and "Ask for it." in results["skipped"]["absent"]
    assert "cannot be loaded" in results["skipped"]["absent_hub"]
    markdown = to_markdown(results, score_rows(results))
    assert "- absent: Task 'absent' has no public dataset" in markdown
    with pytest.raises(ValueError, match="at least one task that has data here, got \\['absent'\\]"):
        run(data, tmp_path / "other", tasks=tasks[1:], skip_missing=True)


def test_bad_rows_of_all_tasks_are_reported_at_once(data, tmp_path):
    other = write_manifest(tmp_path / "more")
    for path in (data["data"]["tiny"], other):
        path.write_text(path.read_text().replace("a dog barks", " "))
    data = data | {"tasks": [*data["tasks"], write_task(tmp_path, name="more")]}
    with pytest.raises(ManifestError) as error:
        run(data | {"data": {**data["data"], "more": other}}, tmp_path / "run")
    assert [problem.file for problem in error.value.problems] == [str(data["data"]["tiny"]), str(other)]


def test_damaged_files_of_a_run_are_named(data, tmp_path):
    run(data, tmp_path / "run")
    for name in ("run.json", "results.json"):
        (tmp_path / "run" / name).write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        run(data, tmp_path / "run")
    with pytest.raises(ValueError, match=r"results\.json is damaged"):
        read_results(tmp_path / "run")
    with pytest.raises(ValueError, match="`bootstrap_samples` must be at least 0, got -1"):
        run(data | {"bootstrap_samples": -1}, tmp_path / "other")


def test_an_adapter_is_a_model(tmp_path):
    config = tiny_config()
    tiny_model(config).save_pretrained(tmp_path / "base")
    tiny_processor(config).save_pretrained(tmp_path / "base")
    trained = with_adapter(AutoModelForMultimodalLM.from_pretrained(tmp_path / "base"))
    trained.save_pretrained(tmp_path / "adapter", adapter_only=True)
    found = load_model(tmp_path / "adapter", device="cpu").model
    assert found.active_adapters() == ["default"]
    expected = load_model(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu").model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_an_adapter_for_a_model_that_has_one_is_refused(tmp_path):
    config = tiny_config()
    with_adapter(tiny_model(config)).save_pretrained(tmp_path / "model")
    tiny_processor(config).save_pretrained(tmp_path / "model")
    with_adapter(tiny_model(config), seed=5).save_pretrained(tmp_path / "adapter", adapter_only=True)
    with pytest.raises(ValueError, match="`adapter` .*adapter is for a model without one, but .*model comes with an"):
        load_model(tmp_path / "model", adapter=tmp_path / "adapter", device="cpu")


def test_model_without_audio_is_refused(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must take audio, got .* which is a text LLM \(llama\)"):
        load_model(tmp_path)
