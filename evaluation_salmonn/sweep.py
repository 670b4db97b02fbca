# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
How scores change when LoRA is turned down at test time (2310.13289, section 4.3, figure 3): turned down, the LLM follows
instructions again, and hears less well.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tqdm.auto import tqdm

from data_salmonn.audio import read_audio
from data_salmonn.chats import check_single_answer
from data_salmonn.extras import needs_extra
from data_salmonn.files import write_json
from data_salmonn.prompts import PromptBank
from evaluation_salmonn.filters import apply_filters
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.models import ChatModel
from evaluation_salmonn.plots import plot_curves
from evaluation_salmonn.provenance import describe_environment
from evaluation_salmonn.task import MetricEntry, load_task


with needs_extra("eval"):
    from data_salmonn.mixing import NO_TASK


# For tasks of the prompt bank, the evaluation task whose first metric scores them. Captions have no Java here.
SCORED_AS = {
    "asr": "asr_librispeech_clean",
    "speech_separation": "osr_librimix",
    "phone_recognition": "pr_librispeech",
    "translation_ec": "en2zh_covost2",
    "translation_ed": "en2de_covost2",
    "translation_ej": "en2ja_covost2",
    "emotion_recognition": "er_iemocap",
    "gender_recognition": "nano_gender",
    "speaker_verification": "sv_voxceleb1",
    "slot_filling": "sf_slurp",
    "speech_query": "sqqa_wikiqa",
    "speech_audio_query": "sac",
    "speech_audio_coreasoning": "sac",
    "QA": "sqqa_wikiqa",
    "speech_QA": "sqqa_wikiqa",
    "audio_QA": "sqqa_wikiqa",
    "music_QA": "sqqa_wikiqa",
    "gender_QA": "sqqa_wikiqa",
    "audiocaption": "nano_caption",
    "music_description": "mc_musiccaps",
    "audio_story_telling": "story_audiocaps",
}
# Those without one, and all others: descriptions and free answers.
_WORDS = MetricEntry("wer", "wer", higher_is_better=False, options={"normalizer": "basic"})
METRICS = {
    "asr_de": _WORDS,
    "lyrics_recognition": _WORDS,
    "speaker_diarization_asr": _WORDS,
    "asr_zh": MetricEntry("cer", "cer", higher_is_better=False, options={"normalizer": "basic"}),
}
FREE_TEXT = MetricEntry("rouge_l", "rouge_l", higher_is_better=True)


def find_metric(task: str | None, bank: PromptBank | None = None) -> tuple[MetricEntry, tuple[str, ...]]:
    """The metric by which answers to a task of the prompt bank are scored, and the filters before it."""
    name = bank[task].name if bank is not None and task is not None else task
    if name in SCORED_AS:
        evaluated = load_task(SCORED_AS[name])
        return evaluated.metrics[0], evaluated.answer_filter
    return METRICS.get(name, FREE_TEXT), ("strip",)


def score_answers(entry: MetricEntry, filters: Iterable[str], references: list[str], answers: list[str]) -> float:
    """The corpus score of answers. Raises `MissingPartsError` if the metric cannot be computed here."""
    metric = load_metric(entry.metric)
    filtered = [apply_filters(tuple(filters), answer) for answer in answers]
    totals = metric.statistics(filtered, references, **entry.options).sum(0)
    return float(metric.from_totals(totals, **entry.options)[metric.main])


@torch.no_grad()
def sweep_lora(
    model,
    processor,
    dataset,
    scales: Iterable[float],
    bank: PromptBank | None = None,
    metrics: dict[str, MetricEntry] | None = None,
    **generation,
) -> dict:
    """
    Scores every task of `dataset` with LoRA at several strengths.

    Args:
        scales: factors on the LoRA scaling; 1 is as trained.
        bank: what is asked, in the test phrasing of each task.
        metrics: by task, in place of [`find_metric`]'s.
        generation: arguments of `generate`.

    Returns:
        `scales`, `lora_scaling` (the same times alpha / r), and `tasks`: by task, `metric`, its `options`, `unit` and
        direction, `scores` in the order of the scales, and the `answers` of each.

    Raises `ValueError` on conversations, and before anything is asked if a metric cannot be computed here.
    """
    bank, scales = bank or PromptBank.load(), sorted(scales)
    model.eval()
    config = model.peft_config[model.active_adapters()[0]]
    found = {task or NO_TASK: find_metric(task, bank) for task in sorted(set(dataset["task"][:]), key=str)}
    found |= {task: (entry, ("strip",)) for task, entry in (metrics or {}).items()}
    for task, (entry, _) in found.items():
        reason = load_metric(entry.metric).missing_parts(**entry.options)
        if reason:
            raise ValueError(f"`dataset` holds the task {task!r}, which cannot be scored here: {reason}")
    tasks = {task: _describe(entry) | {"scores": [], "answers": []} for task, (entry, _) in found.items()}
    for scale in tqdm(scales, desc="LoRA scales"):
        for task, pairs in _answer_all(model, processor, dataset, bank, lora_scale=scale, **generation).items():
            references, answers = map(list, zip(*pairs))
            tasks[task]["scores"].append(score_answers(*found[task], references, answers))
            tasks[task]["answers"].append(answers)
    lora_scaling = [scale * config.lora_alpha / config.r for scale in scales]
    return {"scales": scales, "lora_scaling": lora_scaling, "tasks": tasks}


def _describe(entry: MetricEntry) -> dict:
    return {
        "metric": entry.metric,
        "options": entry.options,
        "unit": load_metric(entry.metric).unit,
        "higher_is_better": entry.higher_is_better,
    }


def _answer_all(model, processor, dataset, bank: PromptBank, **generation) -> dict[str, list[tuple[str, str]]]:
    """By task, the reference and the model's answer of every row."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    asked = ChatModel(model, processor)
    for row in dataset:
        check_single_answer(row)
        prompt = bank.test_prompt(row["task"], row.get("question"))
        (answer,) = asked.answer([read_audio(row["audio"])], [prompt], None, **generation)
        pairs.setdefault(row["task"] or NO_TASK, []).append((row["text"], answer))
    return pairs


def save_sweep(folder: str | Path, result: dict) -> None:
    """Writes `sweep_lora.json` and `sweep_lora.png`."""
    write_json(Path(folder, "sweep_lora.json"), {"environment": describe_environment(), **result})
    curves = {
        f"{task}\n{entry['metric']} ({entry['unit']})": list(zip(result["lora_scaling"], entry["scores"]))
        for task, entry in result["tasks"].items()
    }
    plot_curves(curves, "LoRA scaling at test time", Path(folder, "sweep_lora.png"))
