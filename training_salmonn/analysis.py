# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A view of task over-fitting (2310.13289, section 4.3, figure 4): how likely answers are with and without an instruction,
over the steps of activation tuning. The other one, figure 3, is in `evaluation_salmonn.sweep`.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from tqdm.auto import tqdm

from data_salmonn.audio import read_audio
from data_salmonn.chats import check_single_answer
from data_salmonn.files import write_json
from data_salmonn.mixing import NO_TASK
from training_salmonn.asking import answer_loss
from training_salmonn.callbacks import find_versions, plot_curves
from training_salmonn.stages import load_adapter_weights


logger = logging.getLogger(__name__)

NO_INSTRUCTION = "none"


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
        check_single_answer(row)
        clip, audio_embeds = read_audio(row["audio"]), None
        for name, instruction in instructions.items():
            loss, count, audio_embeds = answer_loss(model, processor, clip, instruction, row["text"], audio_embeds)
            entry = sums.setdefault(row["task"] or NO_TASK, {}).setdefault(name, [0.0, 0])
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
