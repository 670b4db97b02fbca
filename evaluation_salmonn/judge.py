# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Scores by a language model that reads the answers, for tasks that no rule can score (2310.13289 uses GPT-3.5 so).

A judge is never needed: it works on a finished run and adds `judged.json` to it, with its name and its prompt, since
such scores can be compared only if both are the same.
"""

import hashlib
import json
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from data_salmonn.extras import needs_extra
from data_salmonn.files import write_json
from data_salmonn.journals import append_lines, drop_cut_line, read_lines
from data_salmonn.json_text import read_object
from evaluation_salmonn.bootstrap import confidence_interval
from evaluation_salmonn.run_files import JUDGED, read_results, read_rows


with needs_extra("eval"):
    from openai import OpenAI, OpenAIError


logger = logging.getLogger(__name__)

PROMPTS = Path(__file__).parent / "judge_prompts"


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked; `{prompt}`, `{answer}` and `{reference}` are filled in `user`."""

    name: str
    version: int
    score: str
    higher_is_better: bool
    system: str
    user: str
    verdicts: dict[str, float]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def read_verdict(self, reply: str) -> float | None:
        """The number that the last verdict in a reply stands for, or `None` if it has none."""
        found = re.findall(r"VERDICT\W*(\w+)", reply, re.IGNORECASE)
        return self.verdicts.get(found[-1].lower()) if found else None


def load_prompt(name: str) -> JudgePrompt:
    """The judge prompt called `name`. Raises `ValueError` for an unknown one."""
    path = PROMPTS / f"{name}.json"
    if not path.is_file():
        known = sorted(path.stem for path in PROMPTS.glob("*.json"))
        raise ValueError(f"`prompt` must be one of {known}, got {name!r}.")
    return JudgePrompt(**read_object(path))


class Judge(ABC):
    """A language model that is asked about one answer after the other."""

    workers = 1  # questions at a time

    @abstractmethod
    def ask(self, system: str, user: str) -> str:
        """The reply to one question."""

    @abstractmethod
    def describe(self) -> dict:
        """What results say of the judge."""


class EndpointJudge(Judge):
    """A model behind an OpenAI-compatible server. Its key is taken from `OPENAI_API_KEY`; a local one needs none."""

    workers = 4

    def __init__(
        self, url: str, model: str, api_key: str | None = None, timeout: float = 120.0, max_tokens: int = 512
    ):
        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self.client = OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=4)
        self.model, self.max_tokens = model, max_tokens

    def ask(self, system, user):
        try:
            reply = self.client.chat.completions.create(
                model=self.model,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
                temperature=0.0,
                seed=0,
                max_tokens=self.max_tokens,
            )
        except OpenAIError as error:
            raise ConnectionError(f"{self.client.base_url} does not judge as {self.model!r}: {error}") from error
        return reply.choices[0].message.content or ""

    def describe(self):
        return {"kind": "endpoint", "model": self.model, "temperature": 0.0}


class LocalJudge(Judge):
    """A text LLM of Transformers, in a folder or on the Hub, decoded greedily."""

    def __init__(self, model: str | Path, device: str | None = None, dtype: str = "auto", max_tokens: int = 512):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from conversion_salmonn.loading import choose_device
        from evaluation_salmonn.provenance import weights_digest

        device = choose_device(device)
        self.name, self.max_tokens = str(model), max_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(device).eval()
        self.weights = weights_digest(self.model)

    def ask(self, system, user):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device)
        output = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.max_tokens)
        return self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def describe(self):
        return {"kind": "local", "model": self.name, "weights": self.weights}


def judge_run(
    run: str | Path,
    judge: Judge,
    tasks: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict:
    """
    Has the answers of a finished run judged, and returns the contents of its `judged.json`: task -> score -> value.

    Args:
        tasks: default: those of the run that name judge prompts.
        prompts: default: those that each task names.

    Verdicts are kept beside the answers as they come, so a run that is interrupted goes on where it was. Replies without
    a verdict are not counted, but their number is reported.
    """
    results = read_results(run)
    unknown = sorted(set(tasks or ()) - set(results["tasks"]))
    if unknown:
        raise ValueError(f"`tasks` must be tasks of the run, {sorted(results['tasks'])}, got {unknown}.")
    path = Path(run) / JUDGED
    judged = read_object(path) if path.is_file() else {}
    for name in tasks or results["tasks"]:
        for prompt in map(load_prompt, prompts or results["tasks"][name]["judges"]):
            verdicts = _collect_verdicts(Path(run) / name, read_rows(run, name), judge, prompt)
            score = _score_verdicts(verdicts, judge, prompt, bootstrap_samples, seed)
            judged.setdefault(name, {})[prompt.score] = score
            write_json(path, judged)
    if not judged:
        raise ValueError(
            f"`prompts` must be given: no task of {run} names any. Got the tasks {sorted(results['tasks'])}."
        )
    return judged


def _collect_verdicts(folder: Path, rows: list[dict], judge: Judge, prompt: JudgePrompt) -> list[float | None]:
    """The verdict on each answer, in the order of the answers; new ones are appended to a file."""
    path = folder / f"judged-{prompt.name}.jsonl"
    whose = hashlib.sha256(json.dumps([judge.describe(), prompt.digest], sort_keys=True).encode()).hexdigest()[:16]
    drop_cut_line(path)
    known = {(entry["judge"], entry["answer"]): entry["verdict"] for entry in read_lines(path)}
    pending = [row for row in rows if (whose, row["digest"]) not in known]

    def ask(row: dict) -> tuple[dict, str]:
        reference = "\n".join(row["references"])
        user = prompt.user.format(prompt=row["prompt"], answer=row["prediction"], reference=reference)
        return row, judge.ask(prompt.system, user)

    with ThreadPoolExecutor(judge.workers) as pool:
        for row, reply in tqdm(pool.map(ask, pending), total=len(pending), desc=f"{folder.name}: {prompt.name}"):
            verdict = prompt.read_verdict(reply)
            known[whose, row["digest"]] = verdict
            entry = {"judge": whose, "answer": row["digest"], "id": row["id"], "verdict": verdict, "reply": reply}
            append_lines(path, [entry])
    return [known[whose, row["digest"]] for row in rows]


def _score_verdicts(verdicts: list[float | None], judge: Judge, prompt: JudgePrompt, samples: int, seed: int) -> dict:
    values = [verdict for verdict in verdicts if verdict is not None]
    unreadable = len(verdicts) - len(values)
    if unreadable:
        logger.warning("%d of %d replies of the judge have no verdict and are not counted.", unreadable, len(verdicts))
    described = {
        "metric": f"judge:{prompt.name}",
        "options": {"judge": judge.describe(), "prompt": asdict(prompt) | {"digest": prompt.digest}},
        "higher_is_better": prompt.higher_is_better,
        "details": {"judged": len(values), "unreadable": unreadable},
    }
    if not values:
        return {"value": None, "reason": "no reply of the judge has a verdict", **described}
    statistics = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=-1)
    low, high = confidence_interval(statistics, lambda totals: totals[0] / totals[1], samples, seed=seed)
    return {"value": float(np.mean(values)), "low": low, "high": high, **described}
