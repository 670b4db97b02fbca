# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Activation tuning (2310.13289, sections 3.3 and 4.2): a model that answers every question with a transcription or a
caption gets its other abilities back from a few long answers of its own.

With the scaling of LoRA turned down, the LLM follows instructions about a clip again, though it hears less well. A dozen
such answers are drawn, sifted, written to a file that can be read and edited, and taught at full scaling, one at each
step. A small LLM needs more steps than the paper's twelve: with a `replay_share` it is reminded of its training meanwhile.
"""

import logging
import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from peft.helpers import rescale_adapter_scale
from tqdm.auto import tqdm
from transformers import set_seed

from data_salmonn.audio import SAMPLING_RATE, read_audio
from data_salmonn.files import write_lines
from data_salmonn.prompts import PromptBank
from training_salmonn.asking import answer_loss, ask
from training_salmonn.processes import make_once
from training_salmonn.recipes import ActivationArguments, Recipe
from training_salmonn.run import check_sources, load_sources, run_recipe
from training_salmonn.stages import load_stage


logger = logging.getLogger(__name__)

# What an LLM says that does not take the audio embeddings for a clip.
REFUSALS = re.compile(
    r"\b(as an ai|language model|i(’|'| a)?m sorry|i apologi[sz]e|i (can ?not|can(’|')t|am unable|am not able)|"
    r"(cannot|can(’|')t|unable to) (hear|listen|access|process|play)|no audio|not have (access|the ability)|"
    r"provide (me with )?(the|an|more) (audio|recording|context|information))\b",
    re.IGNORECASE,
)
NGRAM = 3
MAX_NGRAM_SHARE = 0.2  # of all trigrams, that the most frequent one may make up
MIN_DISTINCT_SHARE = 0.5  # different trigrams among all


def activate(recipe: Recipe, resume: bool | str = False, only_answers: bool = False) -> Path:
    """
    Makes the answers that the recipe asks for, unless their file exists, and tunes on them.

    Returns the folder of the tuned adapter, or the file of the answers if there are to be `only_answers`.
    """
    answers = Path(recipe.activation.answers or Path(recipe.training.output_dir, "answers.jsonl"))
    if recipe.activation.replay_share or not answers.is_file():
        check_sources(recipe.data)
    make_once(answers, lambda: write_answers(answers, recipe))
    if only_answers:
        return answers
    sources = mix_sources(str(answers), recipe.data.train, recipe.activation.replay_share)
    return run_recipe(replace(recipe, data=replace(recipe.data, train=sources, streaming=False)), resume)


def mix_sources(answers: str, train: list, replay_share: float) -> list:
    """
    What is tuned on, as in the `train` of a recipe: the file of answers and, for `replay_share` of all rows, the sources
    of `train` in the proportions that they have among themselves.
    """
    if replay_share == 0:
        return [answers]
    replayed = [{"source": source} if isinstance(source, str) else dict(source) for source in train]
    weights = [source.get("weight", 1.0) for source in replayed]
    return [{"source": answers, "weight": 1 - replay_share}] + [
        source | {"weight": replay_share * weight / sum(weights)} for source, weight in zip(replayed, weights)
    ]


def write_answers(path: Path, recipe: Recipe) -> list[dict]:
    """Draws answers from the recipe's model for the clips in its `train`, and writes those that are fit to `path`."""
    set_seed(recipe.training.seed)
    model, processor = load_stage(recipe.stage, trainable=False)
    model = model.to(recipe.training.device).eval()
    dataset = load_sources(recipe.data.train, recipe.data, processor, recipe.training.seed)
    bank = PromptBank.load(*recipe.data.prompts)
    rows = make_answers(model, processor, dataset, bank, recipe.activation, recipe.training.seed)
    save_answers(path, rows)
    return rows


def make_answers(
    model, processor, dataset, bank: PromptBank, settings: ActivationArguments, seed: int = 0
) -> list[dict]:
    """
    Long answers to the tasks of `settings` about the clips of `dataset`, drawn at a reduced LoRA scaling. The next task
    has its turn after each clip that gave answers. With an `answer_keep_share` below 1, more are drawn than are wanted, and
    those kept that are likelier about their clip than about the one that is drawn next.

    Returns rows with `audio`, `text`, `task` and `question`. Raises `ValueError` if no answer is fit to be kept.
    """
    rng, rows, rejected, turn = random.Random(seed), [], Counter(), 0
    order = rng.sample(range(len(dataset)), len(dataset))
    total = math.ceil(settings.num_answers / settings.answer_keep_share)
    progress = tqdm(total=total, desc="answers", unit="answer")
    for number, next_number in zip(order, order[1:] + order[:1]):
        if len(rows) == total:
            break
        task = settings.answer_tasks[turn % len(settings.answer_tasks)]
        prompt, audio = bank.sample(task, rng=rng), dataset[number]["audio"]
        clip, fit = read_audio(audio), []
        for text, is_finished in ask(model, processor, clip, prompt, **_sampling(settings)):
            reason = find_fault(text, is_finished, settings.answer_min_words)
            if reason is None:
                fit.append({"audio": audio, "text": text, "task": task, "question": prompt})
            else:
                rejected[reason] += 1
        if fit and settings.answer_keep_share < 1:
            other = read_audio(dataset[next_number]["audio"])
            gains = gain_by_hearing(model, processor, clip, other, fit, settings.answer_lora_scale)
            fit = sorted((row | {"gain": gain} for row, gain in zip(fit, gains)), key=_gain, reverse=True)
        fit = fit[: min(settings.answers_per_clip, total - len(rows))]
        rows += fit
        turn += bool(fit)
        progress.update(len(fit))
    progress.close()
    if rows and len(rows) < total:
        logger.warning("only %d of %d answers: the clips are used up", len(rows), total)
    if rows and settings.answer_keep_share < 1:
        count = max(1, min(settings.num_answers, round(settings.answer_keep_share * len(rows))))
        lowest = sorted(map(_gain, rows), reverse=True)[count - 1]
        rejected["likely of any clip"] = sum(row["gain"] < lowest for row in rows)
        rows = [row for row in rows if row["gain"] >= lowest]
    faults = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "none"
    logger.info("kept %d answers, rejected: %s", len(rows), faults)
    if not rows:
        raise ValueError(
            f"No answer was fit to be kept (rejected: {faults}). Lower `answer_lora_scale`, now "
            f"{settings.answer_lora_scale}, or `answer_min_words`, now {settings.answer_min_words}."
        )
    return rows


def gain_by_hearing(
    model, processor, clip: np.ndarray, other: np.ndarray, rows: list[dict], lora_scale: float
) -> list[float]:
    """
    How much likelier the answers `text` to `question` are about `clip` than about an `other`, `(samples,)` of 16 kHz:
    the difference of the mean -log P by token, in nats. Around 0 for what a model says of any clip, such as a text that
    it knows by heart.
    """
    gains, embeds, other_embeds = [], None, None
    with rescale_adapter_scale(model, lora_scale):
        for row in rows:
            asked = (row["question"], row["text"])
            heard, _, embeds = answer_loss(model, processor, clip, *asked, embeds)
            unheard, _, other_embeds = answer_loss(model, processor, other, *asked, other_embeds)
            gains.append(unheard - heard)
    return gains


def _gain(row: dict) -> float:
    return row["gain"]


def _sampling(settings: ActivationArguments) -> dict:
    """Arguments of `generate` for the answers to one clip."""
    draws = settings.answer_temperature > 0
    sampling = {"temperature": settings.answer_temperature} if draws else {}
    return {
        "lora_scale": settings.answer_lora_scale,
        "max_new_tokens": settings.answer_max_new_tokens,
        "num_beams": 1,
        "do_sample": draws,
        "num_return_sequences": settings.answer_attempts if draws else 1,
        **sampling,
    }


def find_fault(text: str, is_finished: bool, min_words: int) -> str | None:
    """Why an answer must not be learnt from: `"short"`, `"unfinished"`, `"refusal"` or `"loop"`; `None` if it may."""
    words = re.findall(r"\w+", text.lower())
    if len(words) < min_words:
        return "short"
    if not is_finished:
        return "unfinished"
    if REFUSALS.search(text):
        return "refusal"
    ngrams = Counter(zip(*(words[start:] for start in range(NGRAM))))
    total = sum(ngrams.values())
    # a few trigrams say nothing: an answer that short cannot have come around often
    if total >= 10 and (
        len(ngrams) < MIN_DISTINCT_SHARE * total or ngrams.most_common(1)[0][1] > max(2, MAX_NGRAM_SHARE * total)
    ):
        return "loop"
    return None


def save_answers(path: Path, rows: list[dict]) -> None:
    """
    Writes answers as JSONL with `path`, `text`, `task` and `question`: lines may be edited and taken out. Clips that
    are no files of their own are written beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(rows):
        clip = _find_file(row["audio"])
        if clip is None:
            clip = path.with_name(f"{path.stem}_audio") / f"{number:03}.wav"
            clip.parent.mkdir(exist_ok=True)
            soundfile.write(clip, read_audio(row["audio"]), SAMPLING_RATE)
        entry = {"path": str(clip.resolve()), "text": row["text"], "task": row["task"], "question": row["question"]}
        lines.append(entry)
    write_lines(path, lines)


def _find_file(audio) -> Path | None:
    """The file that a cell of the column `audio` stands for, if it is one."""
    name = audio.get("path") if isinstance(audio, dict) and audio.get("bytes") is None else audio
    return Path(name) if isinstance(name, (str, Path)) and Path(name).is_file() else None
