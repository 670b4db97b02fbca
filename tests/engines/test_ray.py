"""A corpus on two workers of Ray, one of which is killed in the middle. `make test-ray` has the environment."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import soundfile

from serving_salmonn.corpus import answer_corpus, read_output
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor


ray = pytest.importorskip("ray", reason="comes with make test-ray")
pytest.importorskip("ray.data", reason="comes with make test-ray")

LENGTHS = [0.4 + number % 7 / 5 for number in range(30)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A model, a manifest, and the output that one process has made."""
    folder = tmp_path_factory.mktemp("ray")
    config = tiny_config(segment_seconds=2, max_audio_seconds=1, fixed_length=False)
    model = tiny_model(config)
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(folder / "model")
    tiny_processor(config).save_pretrained(folder / "model")
    with open(folder / "corpus.jsonl", "w") as file:
        for number, seconds in enumerate(LENGTHS):
            soundfile.write(folder / f"{number}.wav", noise(seconds, number), 16000)
            row = {"id": f"row-{number}", "audio": f"{number}.wav"} | ({"question": "Who?"} if number % 3 == 2 else {})
            file.write(json.dumps(row) + "\n")
    answer_corpus(folder / "model", folder / "corpus.jsonl", folder / "one.jsonl", batch_size=2)
    return folder


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_workers_answer_as_one_process_does(corpus, tmp_path):
    summary = answer_corpus(
        corpus / "model", corpus / "corpus.jsonl", tmp_path / "two.jsonl", batch_size=2, engine="ray", workers=2
    )
    assert (summary.rows, summary.answered_now, summary.errors) == (len(LENGTHS), len(LENGTHS), 0)
    assert (tmp_path / "two.jsonl").read_bytes() == (corpus / "one.jsonl").read_bytes()


def test_a_killed_worker_loses_nothing(corpus, tmp_path, monkeypatch):
    from serving_salmonn import ray_workers

    folder = Path(tmp_path)

    class Mortal(ray_workers.Worker):
        """Dies at its third batch, before it is answered, if none has died yet."""

        def __init__(self, settings):
            super().__init__(settings)
            self.folder, self.batches = folder, 0

        def __call__(self, batch):
            self.batches += 1
            (self.folder / f"worker-{os.getpid()}").touch()
            if self.batches == 3 and not (self.folder / "died").exists():
                (self.folder / "died").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_workers, "Worker", Mortal)
    summary = answer_corpus(
        corpus / "model", corpus / "corpus.jsonl", tmp_path / "two.jsonl", batch_size=2, engine="ray", workers=2
    )
    assert (tmp_path / "died").exists() and len(list(tmp_path.glob("worker-*"))) > 2  # and another one took its place
    ids = [row["id"] for row in read_output(tmp_path / "two.jsonl")]
    assert ids == [f"row-{number}" for number in range(len(LENGTHS))] and summary.answered_now == len(LENGTHS)
    assert (tmp_path / "two.jsonl").read_bytes() == (corpus / "one.jsonl").read_bytes()
