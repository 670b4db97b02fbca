# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""SALMONN in lmms-eval, found by its entry point: a task of a few clips, from the command line."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from tiny_salmonn import noise, question, tiny_config, tiny_model, tiny_processor


pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install lmms-eval==0.7.3")
from evaluation_salmonn.lmms_eval_model import Salmonn, cut, make_messages, read_generation, read_part  # noqa: E402


QUESTIONS = ["What is this?", "Who speaks, and about what?", "Which animal is it?"]
TASK = """\
task: three_clips
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.to_clips
doc_to_text: !function utils.to_text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 6, do_sample: false}}
process_results: !function utils.to_score
metric_list:
  - {{metric: length, aggregation: mean, higher_is_better: true}}
"""
UTILS = """\
import soundfile

def to_clips(doc):
    samples, rate = soundfile.read(doc["path"], dtype="float32")
    return [{"array": samples, "sampling_rate": rate}]

def to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def to_score(doc, results):
    return {"length": float(len(results[0]))}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(fixed_length=False)
    tiny_model(config).save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with a task of three clips, of 8 kHz so that they have to be resampled."""
    folder = tmp_path_factory.mktemp("task")
    rows = []
    for number, text in enumerate(QUESTIONS):
        soundfile.write(folder / f"{number}.wav", noise(0.5 + number, seed=number)[::2], 8000, subtype="FLOAT")
        rows.append({"path": str(folder / f"{number}.wav"), "question": text, "answer": "x"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "three_clips.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    (folder / "utils.py").write_text(UTILS)
    return folder


def expect(model, task) -> list[str]:
    """The answers by the processor and `generate`, one prompt at a time."""
    from conversion_salmonn.loading import load_with_adapter
    from data_salmonn.audio import read_audio

    loaded, processor = load_with_adapter(model, dtype="float32")
    answers = []
    for number, text in enumerate(QUESTIONS):
        inputs = processor.apply_chat_template(
            question(read_audio(task / f"{number}.wav"), text=text),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        output = loaded.generate(**inputs, max_new_tokens=6, do_sample=False)
        answers.append(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


def test_a_task_from_the_command_line(model, task, tmp_path):
    points = importlib.metadata.entry_points(group="lmms_eval.models")
    if "salmonn" not in points.names:
        pytest.skip("needs this project to be installed with its entry points")
    command = [sys.executable, "-m", "lmms_eval", "--model", "salmonn", "--model_args", f"pretrained={model}"]
    command += ["--tasks", "three_clips", "--include_path", str(task), "--batch_size", "2", "--device", "cpu"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("*samples_three_clips.jsonl")
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    answers = [row["filtered_resps"] for row in rows]
    assert answers == expect(model, task)
    (results,) = (tmp_path / "out").rglob("*results.json")
    score = json.loads(Path(results).read_text())["results"]["three_clips"]["length,none"]
    assert score == pytest.approx(sum(map(len, answers)) / 3)


def request(task, index: int, **generation):
    def to_messages(doc):
        clip = {"type": "audio", "url": {"path": doc["path"]}}
        return [{"role": "user", "content": [clip, {"type": "text", "text": doc["question"]}]}]

    return SimpleNamespace(args=(QUESTIONS[index], to_messages, generation, index, "three_clips", "test"))


def test_answers_keep_their_order(model, task):
    """Requests of several settings, in batches that are not full."""
    salmonn = Salmonn(str(model), batch_size="2", device="cpu")
    rows = [json.loads(line) for line in (task / "rows.jsonl").read_text().splitlines()]
    salmonn.task_dict["three_clips"] = {"test": rows}
    cached = []
    salmonn.cache_hook = SimpleNamespace(add_partial=lambda *entry: cached.append(entry))
    requests = [request(task, index, max_new_tokens=6, do_sample=False) for index in range(3)]
    requests.insert(1, request(task, 2, max_new_tokens=1))
    whole = expect(model, task)
    answers = salmonn.generate_until(requests)
    assert [answers[0], *answers[2:]] == whole
    assert answers[1] != whole[2] and whole[2].startswith(answers[1])
    assert sorted(entry[2] for entry in cached) == sorted(answers)
    with pytest.raises(NotImplementedError, match="loglikelihood"):
        salmonn.loglikelihood([])


def test_what_cannot_be_answered(model):
    with pytest.raises(ValueError, match="must be of text and audio for SALMONN, got image in a_task"):
        read_part({"type": "image", "url": None}, "a_task")
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer, got 'auto'"):
        Salmonn(str(model), batch_size="auto")
    with pytest.raises(ValueError, match="does not exist"):
        Salmonn("./nowhere")


@pytest.mark.parametrize(
    ("settings", "expected", "ends"),
    [
        ({"until": ["\n\n"], "max_new_tokens": 5}, {"max_new_tokens": 5, "do_sample": False}, []),
        ({"until": ["###", ""], "temperature": 0}, {"do_sample": False}, ["###"]),
        ({"temperature": 0.2, "top_p": 1.0}, {"temperature": 0.2, "top_p": 1.0, "do_sample": True}, []),
        ({"temperature": 0.2, "do_sample": False, "num_beams": 2}, {"num_beams": 2, "do_sample": False}, []),
        ({"temperature": 0.0, "do_sample": True, "top_p": None}, {"do_sample": False}, []),
    ],
)
def test_settings_of_tasks(settings, expected, ends):
    assert read_generation(settings) == (expected, ends)


@pytest.mark.parametrize("shape", [(4000,), (1, 4000), (2, 4000), (4000, 2)])
def test_clips_of_every_shape(shape):
    """Samples, torchcodec's `(channels, samples)` and soundfile's `(samples, channels)`."""
    clip = noise(0.25)
    array = np.broadcast_to(clip[:, None] if shape[0] == 4000 and len(shape) > 1 else clip, shape)
    part = read_part({"type": "audio", "url": {"array": array, "sampling_rate": 16000}}, "a_task")
    np.testing.assert_allclose(part["audio"], clip, rtol=1e-6)


def test_clips_as_data_sets_decode_them():
    """lmms-eval would take a dictionary for a film, and refuses a decoder."""

    class Decoder:
        def get_all_samples(self):
            return SimpleNamespace(data=torch.from_numpy(noise(0.5))[None], sample_rate=16000)

    class Task:
        config = SimpleNamespace(doc_to_messages=None, doc_to_visual=True)
        doc_to_visual = staticmethod(lambda doc: [doc["audio"]])
        doc_to_text = staticmethod(lambda doc: doc["question"])

        def doc_to_messages(self, doc):
            raise TypeError("Unsupported visual type")

    for clip in (Decoder(), {"array": noise(0.5), "sampling_rate": 16000}):
        (message,) = make_messages(Task().doc_to_messages, {"audio": clip, "question": "What?"})
        assert message["role"] == "user"
        audio, text = (read_part(part, "a_task") for part in message["content"])
        assert text == {"type": "text", "text": "What?"}
        np.testing.assert_allclose(audio["audio"], noise(0.5), rtol=1e-6)
    with pytest.raises(ValueError, match="got object in a_task"):
        read_part({"type": "audio", "url": object()}, "a_task")


def test_answers_end_where_the_task_says():
    assert cut("one ### two END", ["END", "###"]) == "one " and cut("one", ["x"]) == "one"
