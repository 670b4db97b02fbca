# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Two views of task over-fitting (2310.13289, section 4.3): how scores change when LoRA is turned down at test time
(figure 3), and how likely answers are with and without an instruction, over the steps of activation tuning (figure 4).
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from data_salmonn.datasets import read_audio
from data_salmonn.prompts import PromptBank
from training_salmonn.asking import ask, make_conversation
from training_salmonn.callbacks import find_versions, plot_curves, write_json
from training_salmonn.stages import load_adapter_weights
from training_salmonn.trainer import word_error_rate


logger = logging.getLogger(__name__)

NO_INSTRUCTION = "none"
Score = Callable[[Sequence[str], Sequence[str]], float]
# Tasks by how their answers are scored; those of all others are right if they hold the reference.
WORD_STRINGS = ("asr", "asr_de", "phone_recognition", "speech_separation", "lyrics_recognition")
OPEN_TASKS = ("audio_story_telling", "detailed_description")


def different_words(references: Sequence[str], answers: Sequence[str]) -> float:
    """Mean number of different words in an answer: the paper's measure of stories."""
    return sum(len(set(re.findall(r"\w+", answer.lower()))) for answer in answers) / max(1, len(answers))


def share_containing(references: Sequence[str], answers: Sequence[str]) -> float:
    """Share of answers that hold their reference."""
    found = [reference.lower().strip() in answer.lower() for reference, answer in zip(references, answers)]
    return sum(found) / max(1, len(found))


def find_score(task: str, bank: PromptBank | None = None) -> tuple[str, Score]:
    """How a task is scored if nothing else is asked for: name and function of references and answers."""
    name = bank[task].name if bank is not None else task
    if name in OPEN_TASKS:
        return "different words", different_words
    if name in WORD_STRINGS:
        return "wer", word_error_rate
    return "accuracy", share_containing


def sweep_lora(
    model,
    processor,
    dataset,
    scales: Iterable[float],
    bank: PromptBank | None = None,
    scores: dict[str, tuple[str, Score]] | None = None,
    **generation,
) -> dict:
    """
    Scores every task of `dataset` with LoRA at several strengths.

    Args:
        scales: Factors on the LoRA scaling; 1 is as trained.
        bank: What is asked, in the test phrasing of each task.
        scores: By task, name and function of references and answers, in place of [`find_score`]'s.
        generation: Arguments of `generate`.

    Returns:
        `scales`, `lora_scaling` (the same times alpha / r), and `tasks`: by task, `metric`, `scores` in the order of
        the scales, and the `answers` of each.
    """
    bank, scales = bank or PromptBank.load(), sorted(scales)
    model.eval()
    config = model.peft_config[model.active_adapters()[0]]
    scores = {task: find_score(task, bank) for task in sorted(set(dataset["task"]))} | (scores or {})
    tasks = {task: {"metric": name, "scores": [], "answers": []} for task, (name, _) in scores.items()}
    for scale in tqdm(scales, desc="LoRA scales"):
        for task, pairs in _answer_all(model, processor, dataset, bank, lora_scale=scale, **generation).items():
            references, answers = map(list, zip(*pairs))
            tasks[task]["scores"].append(float(scores[task][1](references, answers)))
            tasks[task]["answers"].append(answers)
    lora_scaling = [scale * config.lora_alpha / config.r for scale in scales]
    return {"scales": scales, "lora_scaling": lora_scaling, "tasks": tasks}


def _answer_all(model, processor, dataset, bank: PromptBank, **generation) -> dict[str, list[tuple[str, str]]]:
    """By task, the reference and the model's answer of every row."""
    pairs = {}
    for row in dataset:
        prompt = bank.test_prompt(row["task"], row.get("question"))
        [(answer, _)] = ask(model, processor, read_audio(row["audio"]), prompt, **generation)
        pairs.setdefault(row["task"], []).append((row["text"], answer))
    return pairs


@torch.no_grad()
def perplexity(model, processor, dataset, instructions: dict[str, str | None]) -> dict[str, dict[str, float]]:
    """
    How unlikely the answers of a data set are: -log P(Y|X, I) by token, for each of several instructions I.

    Args:
        instructions: By name, what is asked about every clip; `None` asks nothing and gives -log P(Y|X).

    Returns:
        By task of the answers, then by name of the instruction, the mean over all tokens of the task's answers.
    """
    model.eval()
    sums: dict[str, dict[str, list[float]]] = {}
    for row in tqdm(dataset, desc="perplexity", leave=False):
        clip, audio_embeds = read_audio(row["audio"]), None
        for name, instruction in instructions.items():
            inputs = processor.apply_chat_template(
                [make_conversation(clip, instruction, row["text"])],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"output_labels": True},
            ).to(model.device)
            features = {key: inputs.pop(key) for key in ("input_features", "input_features_mask", "segment_ids")}
            if audio_embeds is None:  # what is heard does not depend on what is asked
                audio_embeds = model.get_audio_features(**features, return_dict=True).pooler_output
            loss = model(**inputs, audio_embeds=audio_embeds).loss.item()
            count = int((inputs["labels"] >= 0).sum())
            entry = sums.setdefault(row["task"], {}).setdefault(name, [0.0, 0])
            entry[0] += loss * count
            entry[1] += count
    return {task: {name: total / count for name, (total, count) in by.items()} for task, by in sums.items()}


def perplexity_over_checkpoints(
    model, processor, dataset, checkpoints: Iterable[str | Path], instructions: dict[str, str | None]
) -> dict:
    """
    [`perplexity`] after each of several checkpoints, whose weights replace those of the model's adapter.

    Returns `checkpoints`, `steps` and `curves`: by task and instruction, values in the order of the checkpoints.
    """
    checkpoints = sorted(map(Path, checkpoints), key=_find_step)
    if not checkpoints:
        raise ValueError("`checkpoints` must hold at least one folder, got none.")
    result = {"checkpoints": [str(path) for path in checkpoints], "steps": [_find_step(path) for path in checkpoints]}
    curves: dict[str, dict[str, list[float]]] = {}
    for path in tqdm(checkpoints, desc="checkpoints"):
        load_adapter_weights(model, path)
        for task, values in perplexity(model, processor, dataset, instructions).items():
            for name, value in values.items():
                curves.setdefault(task, {}).setdefault(name, []).append(value)
    return {**result, "curves": curves}


def _find_step(path: Path) -> int:
    """The step in the name of a checkpoint; 0 for folders with other names, such as that of the stage before."""
    match = re.search(r"-(\d+)$", path.name)
    return int(match.group(1)) if match else 0


def save_sweep(folder: str | Path, result: dict) -> None:
    """Writes `sweep_lora.json` and `sweep_lora.png`."""
    write_json(Path(folder, "sweep_lora.json"), {"versions": find_versions(), **result})
    curves = {
        f"{task} ({entry['metric']})": list(zip(result["lora_scaling"], entry["scores"]))
        for task, entry in result["tasks"].items()
    }
    plot_curves(Path(folder, "sweep_lora.png"), curves, x_label="LoRA scaling at test time")


def save_perplexity(folder: str | Path, result: dict) -> None:
    """Writes `perplexity.json` and `perplexity.png`."""
    write_json(Path(folder, "perplexity.json"), {"versions": find_versions(), **result})
    curves = {
        f"{task}, " + ("no instruction" if name == NO_INSTRUCTION else f"asked for {name}"): list(
            zip(result["steps"], values)
        )
        for task, by_name in result["curves"].items()
        for name, values in by_name.items()
    }
    plot_curves(Path(folder, "perplexity.png"), curves, x_label="step", y_label="-log P by token")
