# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Judged scores: an endpoint that this test serves, and a local LLM with random weights."""

import json

import pytest
from local_http import QuietHandler, answering
from tiny_evaluation import HearingModel, write_manifest, write_task
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from evaluation_salmonn.judge import EndpointJudge, Judge, LocalJudge, judge_run, load_prompt
from evaluation_salmonn.run_files import read_results
from evaluation_salmonn.runner import evaluate
from tiny_salmonn import LLAMA


@pytest.fixture
def run(tmp_path):
    manifest, task = write_manifest(tmp_path / "data"), write_task(tmp_path, judges=["follows", "correct"])
    evaluate(HearingModel(), [task], tmp_path / "run", data={"tiny": manifest}, bootstrap_samples=20)
    return tmp_path / "run"


@pytest.fixture
def endpoint():
    """An OpenAI-compatible server on this machine that says YES where a text holds "roof": its URL and its requests."""
    requests = []

    class Handler(QuietHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body))
            verdict = "YES" if "roof" in body["messages"][1]["content"] else "NO"
            message = {"role": "assistant", "content": f"It was asked so.\nVERDICT: {verdict}"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with answering(Handler) as address:
        yield f"{address}/v1", requests


def test_endpoint_judges_every_answer_once(run, endpoint):
    url, requests = endpoint
    judge = EndpointJudge(url, "some-judge")
    judged = judge_run(run, judge)["tiny"]
    rows = [json.loads(line) for line in (run / "tiny/predictions.jsonl").read_text().splitlines()]
    assert len(requests) == 10
    path, body = requests[0]
    assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", "some-judge", 0.0)
    expected = sum("roof" in row["prediction"] for row in rows) / 5
    assert judged["judged_following_rate"]["value"] == pytest.approx(expected)
    with_reference = sum("roof" in " ".join([row["prediction"], *row["references"]]) for row in rows) / 5
    assert judged["judged_accuracy"]["value"] == pytest.approx(with_reference)
    assert 0 < with_reference < 1
    options = judged["judged_accuracy"]["options"]
    assert options["judge"]["model"] == "some-judge"
    assert (options["prompt"]["name"], options["prompt"]["version"]) == ("correct", 1)
    assert read_results(run)["tasks"]["tiny"]["scores"]["judged_accuracy"]["value"] == pytest.approx(with_reference)

    assert judge_run(run, judge)["tiny"] == judged
    assert len(requests) == 10  # verdicts are kept
    judge_run(run, EndpointJudge(url, "another-judge"), prompts=["follows"])
    assert len(requests) == 15  # another judge's are not taken for them


class Moody(Judge):
    """Replies from a list."""

    def __init__(self, replies):
        self.replies = iter(replies)

    def ask(self, system, user):
        reply = next(self.replies)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def describe(self):
        return {"kind": "moody"}


def test_interrupted_judge_goes_on(run):
    with pytest.raises(KeyboardInterrupt):
        judge_run(run, Moody(["VERDICT: YES", "VERDICT: NO", KeyboardInterrupt()]), prompts=["follows"])
    with open(run / "tiny/judged-follows.jsonl", "a") as file:
        file.write('{"judge": "cut o')
    judged = judge_run(run, Moody(["VERDICT: YES", "verdict: **no**", "I cannot say."]), prompts=["follows"])
    score = judged["tiny"]["judged_following_rate"]
    assert score["value"] == pytest.approx(2 / 4)
    assert score["details"] == {"judged": 4, "unreadable": 1}


def test_verdicts():
    prompt = load_prompt("follows")
    assert prompt.read_verdict("YES it does. VERDICT: no") == 0
    assert prompt.read_verdict("VERDICT: NO, or rather\n**Verdict:** Yes") == 1
    assert prompt.read_verdict("VERDICT: perhaps") is None
    assert prompt.read_verdict("yes") is None
    with pytest.raises(ValueError, match="prompt.*got 'kind'"):
        load_prompt("kind")


def test_local_judge(run, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    judge = LocalJudge(tmp_path / "llm", device="cpu", max_tokens=4)
    assert isinstance(judge.ask("Be fair.", "Is it right?"), str)
    score = judge_run(run, judge, prompts=["follows"])["tiny"]["judged_following_rate"]
    assert score["value"] is None  # random weights give no verdict
    assert score["details"]["unreadable"] == 5
    assert score["options"]["judge"]["weights"]


def test_refusals(run):
    nowhere = EndpointJudge("http://127.0.0.1:9/v1", "some-judge")
    nowhere.client.max_retries = 0
    with pytest.raises(ConnectionError, match="127.0.0.1:9/v1/ does not judge as 'some-judge'"):
        judge_run(run, nowhere)
    with pytest.raises(ValueError, match="tasks of the run.*got \\['other'\\]"):
        judge_run(run, Moody([]), tasks=["other"])
