# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A small BEATs that learns to hear what made clips hold: sounds, instruments, speech.

    recipe = load_beats_recipe("nano", learning_rate=5e-4)
    train_beats(["sounds/train", "music/train"], ["sounds/validation", "music/validation"], "beats", recipe)
    score_beats("beats", ["sounds/test", "music/test"])

Folders are splits that a maker of clips has finished. The trained folder is a BEATs for `salmonn assemble --beats`, and
a model of the pipeline for audio classification.
"""

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

from configuration_beats import BeatsConfig
from data_salmonn.audio import read_audio
from data_salmonn.files import whole_files, write_json
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification
from nano_salmonn.data_makers.clips import read_clips
from nano_salmonn.fbanks import CropArguments, FbankFile, RandomCrops, WholeClips, pad_fbanks
from nano_salmonn.whisper_teacher import FRAMES_PER_STATE, TeacherArguments, WhisperTeacher, teacher_loss
from training_salmonn.callbacks import ResultsCallback
from training_salmonn.precision import fit_precision, is_cpu_machine
from training_salmonn.recipe_files import check_fields, fill_sections, find_recipe, read_recipe
from training_salmonn.run import find_checkpoint, keep_traceback


logger = logging.getLogger(__name__)

RECIPES = Path(__file__).parent / "beats_recipes"
# Inside the folder of the model: filter banks, checkpoints and curves.
TRAINING = "training"
SCORES = "scores.json"
SPEECH = "speech"


@dataclass
class BeatsArguments:
    """The model, and how many clips it learns from."""

    _argument_group_name = "model and clips"

    beats: dict = field(default_factory=dict, metadata={"help": "Fields of `BeatsConfig`."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "`sdpa` or `eager`, while training."})
    saved_dtype: str = field(default="float32", metadata={"help": "Of the weights that are saved in the end."})
    max_clips: dict = field(
        default_factory=dict, metadata={"help": "Most clips of a kind to train on: `sound`, `music` or `speech`."}
    )


@dataclass
class BeatsTrainingArguments(TrainingArguments):
    """`TrainingArguments` for crops, which are random already."""

    _argument_group_name = "training, as in `transformers.TrainingArguments`"

    # crops of one batch are neighbours, and as long as each other
    train_sampling_strategy: str = field(default="sequential", metadata={"help": "See `TrainingArguments`."})
    # where parts begin and end is not for the model, but for its trainer
    remove_unused_columns: bool = field(default=False, metadata={"help": "See `TrainingArguments`."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "See `TrainingArguments`."})


class BeatsTrainer(Trainer):
    """
    A `Trainer` for crops of two parts, whose logits are averaged over the part that labels are of, and for a model with
    a `teacher_head`, which also writes what a teacher makes of the crops.

    With labels of whole clips a BEATs says of every token what is anywhere in the clip, since it attends to all of it.
    An LLM cannot read off from that what came first.
    """

    def __init__(self, *args, teacher_weight: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher_weight = teacher_weight

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs):
        if not {"part_frames", "teacher_states"} & inputs.keys():  # whole clips of an evaluation, or nothing special
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        labels, part_frames = inputs["labels"], inputs.get("part_frames")
        outputs = model(
            inputs["input_features"],
            inputs["attention_mask"],
            labels=labels if part_frames is None else None,
            output_hidden_states=True,
        )
        classifier = self.accelerator.unwrap_model(model)
        tokens = outputs.hidden_states[-1]
        loss = outputs.loss
        if part_frames is not None:
            token_logits = classifier.classifier(classifier.dropout(tokens))
            logits, is_part = pool_parts(token_logits.float(), part_frames, classifier.config), part_frames > 0
            loss = nn.functional.binary_cross_entropy_with_logits(logits[is_part], labels[is_part].float())
        if "teacher_states" in inputs:
            columns = tokens.unflatten(1, (-1, classifier.config.num_patch_bands)).flatten(2)
            written = classifier.teacher_head(columns).float()
            loss = loss + self.teacher_weight * teacher_loss(written, inputs["teacher_states"], inputs["teacher_mask"])
        return (loss, outputs) if return_outputs else loss


def pool_parts(token_logits: torch.Tensor, part_frames: torch.Tensor, config: BeatsConfig) -> torch.Tensor:
    """
    Means of the logits of tokens over the parts of a clip.

    Args:
        token_logits (`torch.Tensor` of shape `(batch_size, tokens, labels)`): logits of patches, bands of a time first.
        part_frames (`torch.LongTensor` of shape `(batch_size, parts)`): frames of the parts, which follow each other.
        config: says how large patches are.

    Returns `(batch_size, parts, labels)`, zeros for a part without tokens. A token belongs to the part of the frame in
    the middle of its patch.
    """
    times = torch.arange(token_logits.shape[1], device=token_logits.device) // config.num_patch_bands
    middles = times * config.patch_size + config.patch_size // 2  # (tokens,)
    ends = part_frames.cumsum(1)[..., None]  # (batch_size, parts, 1)
    is_inside = (middles >= ends - part_frames[..., None]) & (middles < ends)  # (batch_size, parts, tokens)
    return is_inside.to(token_logits) @ token_logits / is_inside.sum(-1, keepdim=True).clamp(min=1)


@dataclass
class BeatsRecipe:
    """A recipe, read: the fields by subject, and all of them as they were written."""

    model: BeatsArguments
    crops: CropArguments
    teacher: TeacherArguments
    training: dict[str, Any]
    fields: dict[str, Any]


# In the order of the help; the folder of the model decides about that of the training.
SECTIONS = (BeatsArguments, CropArguments, TeacherArguments, BeatsTrainingArguments)


def load_beats_recipe(recipe: str | Path = "nano", **overrides) -> BeatsRecipe:
    """
    Reads the recipe in a file, or one of the project's by name, with `overrides` in place of its fields.

    A recipe is a flat YAML mapping with fields of [`BeatsArguments`], [`CropArguments`], [`TeacherArguments`] and
    `TrainingArguments`.
    Raises `ValueError` on a file that is no recipe, on fields that do not exist, and on values of another type.
    """
    values = fit_precision(read_recipe(find_recipe(recipe, RECIPES), RECIPES), overrides)
    checked = check_fields(values, SECTIONS, recipe)
    sections = fill_sections(SECTIONS[:-1], checked)
    training = {item.name: checked[item.name] for item in fields(BeatsTrainingArguments) if item.name in checked}
    return BeatsRecipe(*sections, training=training, fields=values)


# ----------------------------------------------------------------------------------------------------------------------
# Clips and their labels


def labels_of(row: dict) -> set[str]:
    """What is heard in a clip: the classes of its sounds, its instruments, or speech."""
    labels = {*row.get("classes", ()), *row.get("instruments", ())}
    return labels | {SPEECH} if row["kind"] == "speech" else labels


def read_rows(folders: Sequence[str | Path], max_clips: dict[str, int] | None = None, seed: int = 0) -> list[dict]:
    """The clips of several folders, at most `max_clips` of each kind, and these drawn at random."""
    rows = [row for folder in folders for row in read_clips(folder)]
    for kind, limit in (max_clips or {}).items():
        of_kind = [number for number, row in enumerate(rows) if row["kind"] == kind]
        kept = set(random.Random(seed).sample(of_kind, min(limit, len(of_kind))))
        rows = [row for number, row in enumerate(rows) if row["kind"] != kind or number in kept]
    return rows


def make_targets(rows: Sequence[dict], label2id: dict[str, int]) -> np.ndarray:
    """Zeros and ones, `(clips, labels)`, float32. Raises `ValueError` on labels that the model does not have."""
    unknown = set().union(*map(labels_of, rows)) - label2id.keys()
    if unknown:
        raise ValueError(f"clips have labels that the model has not: {', '.join(sorted(unknown))}.")
    targets = np.zeros((len(rows), len(label2id)), dtype=np.float32)
    for row, target in zip(rows, targets):
        target[[label2id[label] for label in labels_of(row)]] = 1
    return targets


# ----------------------------------------------------------------------------------------------------------------------
# Training


def train_beats(
    train_folders: Sequence[str | Path],
    validation_folders: Sequence[str | Path],
    output: str | Path,
    recipe: BeatsRecipe | None = None,
    resume: bool = False,
) -> Path:
    """
    Trains a `BeatsForAudioClassification` and returns `output`, the folder that it is saved in with its extractor.

    Args:
        train_folders: Finished splits of clips. All labels that their clips have are learnt.
        validation_folders: Finished splits that the run is evaluated on, as the recipe says.
        output: Folder of the model. `output/training` has filter banks, checkpoints and curves, and can be deleted.
        recipe: `load_beats_recipe()` by default.
        resume: Whether to go on from the last checkpoint in `output/training`, if there is one.

    Raises `ValueError` on folders that are not finished or have unknown labels, on patches that a teacher's states do not
    fit, and if a new run would mix with the checkpoints of an old one.
    """
    recipe = recipe or load_beats_recipe()
    work = Path(output, TRAINING)
    checkpoint = find_checkpoint(str(work), resume)
    machine = {"use_cpu": is_cpu_machine(), "output_dir": str(work)}
    training = BeatsTrainingArguments(**machine | recipe.training)
    set_seed(training.seed)

    extractor = BeatsFeatureExtractor()
    train_rows = read_rows(train_folders, recipe.model.max_clips, training.seed)
    validation_rows = read_rows(validation_folders)
    labels = sorted(set().union(*map(labels_of, train_rows)))
    label2id = {label: number for number, label in enumerate(labels)}
    train_targets, validation_targets = (make_targets(rows, label2id) for rows in (train_rows, validation_rows))
    logger.info("%d clips, %d labels: %s", len(train_rows), len(labels), ", ".join(labels))

    model, teacher = new_model(recipe.model, label2id), None
    if recipe.teacher.teacher is not None and model.config.patch_size % FRAMES_PER_STATE:
        raise ValueError(
            f"`patch_size` of `beats` must be a multiple of {FRAMES_PER_STATE} frames for a `teacher`, got "
            f"{model.config.patch_size}."
        )
    fbanks, validation_fbanks = (FbankFile(rows, extractor, work) for rows in (train_rows, validation_rows))
    if recipe.teacher.teacher is not None:
        teacher = WhisperTeacher(train_rows, fbanks.lengths, recipe.teacher, work)
        model.teacher_head = new_teacher_head(model.config, teacher)
        # the head is used outside of the model's forward: a search for unused weights would take it for one
        training.ddp_find_unused_parameters = False
    crops = RandomCrops(
        fbanks,
        train_targets,
        np.array([row.get("arrangement") != "sequence" for row in train_rows]),
        extractor,
        recipe.crops,
        training.per_device_train_batch_size,
        training.seed,
        teacher,
        model.config.patch_size,
    )
    trainer = BeatsTrainer(
        model=model,
        args=training,
        data_collator=pad_fbanks,
        train_dataset=crops,
        eval_dataset=WholeClips(validation_fbanks, validation_targets),
        compute_metrics=_metrics,
        callbacks=[ResultsCallback(recipe.fields)],
        teacher_weight=recipe.teacher.teacher_weight,
    )
    with keep_traceback("training BEATs"):
        trainer.train(resume_from_checkpoint=checkpoint)
    if teacher is not None:
        del trainer.model.teacher_head  # what is saved is a BEATs as any other
    if trainer.is_world_process_zero():
        with whole_files(output) as folder:
            trainer.model.to(getattr(torch, recipe.model.saved_dtype)).save_pretrained(folder)
            extractor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()  # whoever returns finds the files
    return Path(output)


def new_model(arguments: BeatsArguments, label2id: dict[str, int]) -> BeatsForAudioClassification:
    """A model with random weights that expects one label of all in a clip."""
    config = BeatsConfig(**arguments.beats, label2id=label2id, id2label={i: label for label, i in label2id.items()})
    model = BeatsForAudioClassification._from_config(config, attn_implementation=arguments.attn_implementation)
    # Logits of zero would mean every second label, and the first steps would do nothing but lower them.
    nn.init.constant_(model.classifier.bias, -math.log(max(1, len(label2id) - 1)))
    return model


def load_beats_classifier(folder: str | Path, dtype: str | torch.dtype = torch.float32) -> BeatsForAudioClassification:
    """
    A trained BEATs with its classifier, in eval mode. `from_pretrained` would give an encoder alone a random one.

    Raises `ValueError` if the weights in `folder` are those of an encoder alone, or of something else.
    """
    model, loading = BeatsForAudioClassification.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    different = loading["missing_keys"] | loading["unexpected_keys"]
    if different:
        raise ValueError(
            f"{folder} must be a BEATs with its classifier, as `salmonn nano train-beats` writes it, but its weights differ in "
            f"{len(different)} tensors, such as {min(different)}."
        )
    return model


def new_teacher_head(config: BeatsConfig, teacher: WhisperTeacher) -> nn.Linear:
    """From the tokens of a column of patches to the states that the teacher has for it."""
    states = config.patch_size // FRAMES_PER_STATE
    return nn.Linear(config.num_patch_bands * config.hidden_size, states * teacher.num_components)


# ----------------------------------------------------------------------------------------------------------------------
# Scores


def average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """
    Mean over the true clips of the precision among all clips that score at least as high; `nan` without true clips.

    Args:
        targets: `(clips,)`, 1 where the label is true.
        scores: `(clips,)`, of the label. Clips with equal scores are counted together.
    """
    found, all_scores = np.sort(scores[targets > 0]), np.sort(scores)
    if not len(found):
        return math.nan
    true_above = len(found) - np.searchsorted(found, found)
    all_above = len(all_scores) - np.searchsorted(all_scores, found)
    return float(np.mean(true_above / all_above))


def average_precisions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The average precision of each label, `(labels,)`, from `(clips, labels)`."""
    return np.array([average_precision(*columns) for columns in zip(targets.T, scores.T)])


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits, targets = prediction.predictions, prediction.label_ids
    single = targets.sum(axis=1) == 1
    hits = targets[np.arange(len(targets)), logits.argmax(axis=1)] > 0
    return {
        "mean_average_precision": float(np.nanmean(average_precisions(targets, logits))),
        "top1": float(hits[single].mean()) if single.any() else math.nan,
    }


def score_beats(
    model_folder: str | Path,
    test_folders: Sequence[str | Path],
    results: str | Path | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """
    Scores a trained model on finished splits, and writes the scores to `results`, `model_folder/scores.json` by default.

    Returns `top1`, for each kind of clips the share of those with a single label whose label has the highest score of
    all, with the same `by_label`; `mean_average_precision` over the labels that occur in any clips, and
    `average_precision` of each. Raises `ValueError` on folders that are not finished, on labels that the model does
    not have, if `model_folder` has no classifier, and if there are no clips.
    """
    model = load_beats_classifier(model_folder)
    extractor = BeatsFeatureExtractor.from_pretrained(model_folder)
    rows = read_rows(test_folders)
    if not rows:
        raise ValueError(f"`test_folders` must hold clips, got none in {', '.join(map(str, test_folders))}.")
    targets = make_targets(rows, model.config.label2id)
    logits = classify(model, extractor, rows, batch_size)

    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    precisions = average_precisions(targets, logits)
    heard = ~np.isnan(precisions)
    scores = {
        "model": str(model_folder),
        "test_folders": list(map(str, test_folders)),
        "clips": len(rows),
        "top1": top1_by_kind(rows, [labels[number] for number in logits.argmax(axis=1)]),
        "mean_average_precision": float(precisions[heard].mean()),
        "average_precision": {label: float(precisions[i]) for i, label in enumerate(labels) if heard[i]},
    }
    write_json(results or Path(model_folder, SCORES), scores)
    return scores


@torch.inference_mode()
def classify(
    model: BeatsForAudioClassification, extractor: BeatsFeatureExtractor, rows: Sequence[dict], batch_size: int = 32
) -> np.ndarray:
    """The logits of whole clips, `(clips, labels)`, float32, in the order of `rows`."""
    logits = np.zeros((len(rows), model.config.num_labels), dtype=np.float32)
    # clips of similar lengths together: less padding
    order = sorted(range(len(rows)), key=lambda number: rows[number]["seconds"])
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    for batch in tqdm(batches, desc="Classifying", unit="batch"):
        clips = [read_audio(rows[number]["path"]) for number in batch]
        inputs = extractor(clips, sampling_rate=extractor.sampling_rate, return_tensors="pt").to(model.device)
        logits[batch] = model(**inputs).logits.float().cpu().numpy()
    return logits


def top1_by_kind(rows: Sequence[dict], predictions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each kind of clips with a single label: `accuracy`, number of `clips`, and both for each label."""
    hits: dict[str, dict[str, list[bool]]] = {}
    for row, prediction in zip(rows, predictions):
        labels = labels_of(row)
        if len(labels) == 1:
            [label] = labels
            hits.setdefault(row["kind"], {}).setdefault(label, []).append(prediction == label)
    result = {}
    for kind, by_label in sorted(hits.items()):
        result[kind] = _share([hit for of_label in by_label.values() for hit in of_label])
        result[kind]["by_label"] = {label: _share(of_label) for label, of_label in sorted(by_label.items())}
    return result


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    return {"accuracy": sum(hits) / len(hits), "clips": len(hits)}
