# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What changes no answer, searched at random: who else is in the batch and in which order, on which side it is padded, which
attention computes it, where segments end, and whether anything was cached, merged or saved on the way.

`SALMONN_CONFIGURATIONS` is how many are drawn. A failure prints the seed that repeats it:
`SALMONN_SEED=5 pytest "tests/long/test_invariances.py::test_nothing_changes_an_answer[317]"`.
"""

import os
import random
from dataclasses import dataclass, field

import pytest
import torch
from killing import SEED
from transformers import AutoModelForMultimodalLM, AutoProcessor

from conversion_salmonn.merge import merge
from session_salmonn import SalmonnSession
from tiny_salmonn import (
    LLMS,
    VARIANTS,
    ask,
    noise,
    question,
    tiny_config,
    tiny_model,
    tiny_processor,
    with_adapter,
)


CONFIGURATIONS = int(os.environ.get("SALMONN_CONFIGURATIONS", "504"))
ATTENTIONS = ("eager", "sdpa")
SEGMENT = 4 * 16000  # samples
NEW_TOKENS = 3
TEXTS = (
    "What is this?",
    "Who speaks?",
    "Is there music in the background, or a dog?",
    "Transcribe: é ß 中 – 1,5.",
    "?",
)


@dataclass
class Case:
    """One drawn configuration."""

    draw: random.Random
    variant: str = ""
    llm: str = ""
    seed: int = 0
    has_adapter: bool = False
    conversations: list = field(default_factory=list)

    def __post_init__(self):
        self.variant, self.llm = self.draw.choice(list(VARIANTS)), self.draw.choice(list(LLMS))
        self.seed, self.has_adapter = self.draw.randrange(100), self.draw.random() < 0.5
        self.conversations = [self._conversation() for _ in range(self.draw.randint(1, 3))]
        self.config = tiny_config(self.llm, **VARIANTS[self.variant])
        self.processor = tiny_processor(self.config)

    def _conversation(self) -> list[dict]:
        clips = [self.clip() for _ in range(self.draw.choice((1, 1, 1, 2)))]
        messages = question(*clips, text=self.draw.choice(TEXTS))
        if self.draw.random() < 0.3:
            turn = question(*([self.clip()] if self.draw.random() < 0.5 else []), text=self.draw.choice(TEXTS))
            messages += [{"role": "assistant", "content": "A dog talks."}, *turn]
        return messages

    def clip(self):
        """Of one sample and more, often one that ends near the end of a segment or of a window."""
        kind = self.draw.randrange(4)
        if kind == 0:
            length = self.draw.choice((1, 1, 2)) * SEGMENT + self.draw.choice((-160, -1, 0, 1, 160))
        elif kind == 1:
            length = self.draw.choice((1, 399, 400, 401, 5280, 5440, 16000))
        else:
            length = self.draw.randint(1600, 7 * 16000)
        return noise(length / 16000 + 1, self.draw.randrange(10**6))[:length]

    def model(self, attention: str = "sdpa"):
        model = tiny_model(self.config, attention, self.seed)
        return with_adapter(model, self.seed) if self.has_adapter else model

    def __str__(self):
        return f"{self.variant}, {self.llm}, weights {self.seed}{' and adapter' * self.has_adapter}"


@dataclass
class Answer:
    logits: torch.Tensor  # (tokens of the prompt, vocabulary)
    ids: list[int]
    margins: list[float]  # between the two likeliest tokens of each step


@torch.no_grad()
def answer(model, inputs) -> list[Answer]:
    """What the model says to each prompt of a batch."""
    logits = model(**inputs).logits.float()
    mask = inputs["attention_mask"].bool()
    output = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    steps = torch.stack(output.logits, dim=1).float().topk(2).values
    answers = []
    for row in range(len(mask)):
        new = output.sequences[row, inputs["input_ids"].shape[1] :].tolist()
        length = new.index(2) + 1 if 2 in new else len(new)
        margins = (steps[row, :, 0] - steps[row, :, 1]).tolist()
        answers.append(Answer(logits[row, mask[row]], new[:length], margins[:length]))
    return answers


def same(found: Answer, expected: Answer) -> None:
    # the placeholder has no probability: -inf in both, or the least number
    torch.testing.assert_close(found.logits[:, :600], expected.logits[:, :600], atol=1e-4, rtol=0)
    same_ids(found.ids, expected)


def same_ids(found: list[int], expected: Answer) -> None:
    """Greedy ids are the same up to where two tokens are as likely."""
    for mine, other, margin in zip(found, expected.ids, expected.margins):
        if margin <= 1e-3:
            return
        assert mine == other, (found, expected)
    assert len(found) == len(expected.ids)


def alone(case: Case, model=None, processor=None) -> list[Answer]:
    model = model or case.model()
    return [answer(model, ask(processor or case.processor, one))[0] for one in case.conversations]


# ----------------------------------------------------------------------------------------------------------------------
# What must change nothing


def in_a_batch(case: Case, folder) -> None:
    order = case.draw.sample(range(len(case.conversations)), len(case.conversations))
    # generation needs the left side
    inputs = ask(case.processor, *(case.conversations[place] for place in order))
    found = answer(case.model(case.draw.choice(ATTENTIONS)), inputs)
    expected = alone(case)
    for place, one in zip(order, found, strict=True):
        same(one, expected[place])


def padded_on_the_right(case: Case, folder) -> None:
    inputs = ask(case.processor, *case.conversations, padding_side="right")
    with torch.no_grad():
        logits = case.model(case.draw.choice(ATTENTIONS))(**inputs).logits
    for row, mask, expected in zip(logits, inputs["attention_mask"].bool(), alone(case), strict=True):
        torch.testing.assert_close(row[mask][:, :600], expected.logits[:, :600], atol=1e-4, rtol=0)


def by_other_attention(case: Case, folder) -> None:
    for one, expected in zip(alone(case, case.model("eager")), alone(case), strict=True):
        same(one, expected)


def with_cached_embeddings(case: Case, folder) -> None:
    model = case.model()
    inputs = ask(case.processor, *case.conversations)
    features = {name: inputs.pop(name) for name in case.processor.feature_extractor.model_input_names}
    with torch.no_grad():
        embeds = model.get_audio_features(**features, return_dict=True).pooler_output
    for one, expected in zip(answer(model, inputs | {"audio_embeds": embeds}), alone(case), strict=True):
        same(one, expected)


def segment_by_segment(case: Case, folder) -> None:
    """A clip is heard as its segments are, each as a clip of its own, unless these know their places."""
    model, extractor = case.model(), case.processor.feature_extractor
    clip = case.clip()
    pieces = [clip[start : start + SEGMENT] for start in range(0, len(clip), SEGMENT)]
    embeds = []
    for clips in ([clip], pieces):
        features = extractor(clips, sampling_rate=16000, return_tensors="pt")
        if case.config.segment_position_embeddings and len(clips) > 1:
            features["segment_ids"] = torch.arange(len(clips))
        with torch.no_grad():
            embeds.append(model.get_audio_features(**features, return_dict=True).pooler_output)
    torch.testing.assert_close(*embeds, atol=1e-4, rtol=0)


def in_a_session(case: Case, folder) -> None:
    model, clips = case.model(), [case.clip() for _ in range(case.draw.randint(1, 2))]
    session = SalmonnSession(model, case.processor, clips, max_new_tokens=NEW_TOKENS, do_sample=False)
    for text in case.draw.choices(TEXTS, k=2):
        found = session.ask(text)
        expected = answer(model, ask(case.processor, question(*clips, text=text)))[0]
        if min(expected.margins) > 1e-3:
            assert found == case.processor.decode(expected.ids, skip_special_tokens=True).strip()


def merged(case: Case, folder) -> None:
    tiny_model(case.config, seed=case.seed).save_pretrained(folder / "base")
    case.processor.save_pretrained(folder / "base")
    base = AutoModelForMultimodalLM.from_pretrained(folder / "base")
    model = with_adapter(base, case.seed)
    model.save_pretrained(folder / "adapter", adapter_only=True)
    merge(folder / "base", folder / "merged", adapter=folder / "adapter")
    one = AutoModelForMultimodalLM.from_pretrained(folder / "merged").eval()
    for found, expected in zip(alone(case, one), alone(case, model), strict=True):
        same(found, expected)


def saved_and_loaded(case: Case, folder) -> None:
    model = case.model()
    model.save_pretrained(folder, max_shard_size=case.draw.choice(("50KB", "5GB")))
    case.processor.save_pretrained(folder)
    loaded = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    found = alone(case, loaded, AutoProcessor.from_pretrained(folder))
    for one, expected in zip(found, alone(case, model), strict=True):
        same(one, expected)


WAYS = (
    in_a_batch,
    padded_on_the_right,
    by_other_attention,
    with_cached_embeddings,
    segment_by_segment,
    in_a_session,
    merged,
    saved_and_loaded,
)


@pytest.mark.parametrize("number", range(CONFIGURATIONS))
def test_nothing_changes_an_answer(number, tmp_path):
    case, way = Case(random.Random(f"{SEED} {number}")), WAYS[number % len(WAYS)]
    print(f"SALMONN_SEED={SEED}, configuration {number}: {way.__name__}, {case}")
    way(case, tmp_path)
