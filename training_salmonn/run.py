# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""From a recipe to a finished run: data, model, trainer, and the results folder."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import set_seed
from transformers.integrations import is_tensorboard_available
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, get_last_checkpoint

from data_salmonn.datasets import load_training_data
from data_salmonn.extras import missing_package
from data_salmonn.manifests import ManifestError, validate_manifest
from data_salmonn.mixing import MixturePart, mix
from data_salmonn.prompts import PromptBank
from data_salmonn.readers import find_manifest
from training_salmonn.alignment import HEAD_FILE, AlignmentModel, AlignmentTrainer, collect_tokens
from training_salmonn.callbacks import ResultsCallback
from training_salmonn.collator import EpochCallback, SalmonnDataCollator
from training_salmonn.feature_cache import FeatureCache
from training_salmonn.recipes import DataArguments, Recipe, SalmonnTrainingArguments
from training_salmonn.stages import load_stage
from training_salmonn.trainer import AnswerMetrics, NonFiniteError, SalmonnTrainer


logger = logging.getLogger(__name__)


def run_recipe(recipe: Recipe, resume: bool | str = False) -> Path:
    """
    Trains as the recipe says and returns the folder of the trained adapter, `output_dir/adapter`.

    With `resume=True` the run goes on from the last checkpoint in `output_dir`, if there is one, and with a folder from
    that. Raises `ValueError` if a new run would mix with the checkpoints of an old one, and on anything else in the recipe
    that cannot be: before a model is loaded, if it can be known. What fails while training is a `RuntimeError`.
    """
    if "tensorboard" in recipe.training.report_to and not is_tensorboard_available():
        raise missing_package("tensorboard", "train")
    check_settings(recipe)
    checkpoint = find_checkpoint(recipe.training.output_dir, resume or recipe.training.resume_from_checkpoint or False)
    check_sources(recipe.data)
    set_seed(recipe.training.seed)
    model, processor = load_stage(recipe.stage)
    trainer = build_trainer(recipe, model, processor)
    with keep_traceback("training"):
        trainer.train(resume_from_checkpoint=checkpoint)
        if recipe.training.average_last > 1:
            trainer.load_average(recipe.training.average_last)
        if isinstance(trainer, AlignmentTrainer):
            trainer.fold()
        return trainer.save_adapter()


def check_settings(recipe: Recipe) -> None:
    """Raises `ValueError` for folders that are files, and for numbers that would fail, or mean nothing, after hours."""
    for name, folder in (("output_dir", recipe.training.output_dir), ("feature_cache", recipe.data.feature_cache)):
        if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
            raise ValueError(f"`{name}` must be a folder, got the file {folder}.")
    for name in ("learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs", "warmup_steps"):
        value = getattr(recipe.training, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}.")
    check_average(recipe.training)


def check_average(training: SalmonnTrainingArguments) -> None:
    """Raises `ValueError` if a run will not have the checkpoints that it is to end with the mean of."""
    count, most, every = training.average_last, training.save_total_limit, training.save_steps
    if count < 1:
        raise ValueError(f"`average_last` must be at least 1, got {count}.")
    if count == 1:
        return
    if training.load_best_model_at_end:
        raise ValueError("`average_last` and `load_best_model_at_end` both say what a run ends with: set one of them.")
    if training.save_strategy == SaveStrategy.NO or (most is not None and most < count):
        kept = "none" if training.save_strategy == SaveStrategy.NO else most
        raise ValueError(f"`average_last` {count} needs that many checkpoints, of which the run keeps {kept}.")
    if training.save_strategy == SaveStrategy.STEPS and training.max_steps > 0 and every >= 1:
        saved = math.ceil(training.max_steps / every)  # the last step is saved too
        if saved < count:
            raise ValueError(
                f"`average_last` {count} needs that many checkpoints, of which {training.max_steps} steps with "
                f"`save_steps` {every} give {saved}."
            )


@contextmanager
def keep_traceback(work: str) -> Iterator[None]:
    """
    What goes wrong inside, while `work` is done, is no wrong argument, whatever its type says: it becomes a `RuntimeError`,
    which the commands show with its traceback. That a loss is not finite says all there is to say.
    """
    try:
        yield
    except NonFiniteError:
        raise
    except (ValueError, OSError) as error:
        raise RuntimeError(f"{work} failed: {error}") from error


def find_checkpoint(output_dir: str, resume: bool | str) -> str | None:
    """The checkpoint to go on from, if any. Raises `ValueError` if it is not there, or if there is one not to go on from."""
    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if isinstance(resume, str):
        if not Path(resume).is_dir():
            raise ValueError(f"`resume` must be the folder of a checkpoint, got {resume}.")
        return resume
    if last is not None and not resume:
        raise ValueError(
            f"`output_dir` {output_dir} holds {Path(last).name} of a run: resume it or name a new folder."
        )
    return last if resume else None


def check_sources(data: DataArguments) -> None:
    """
    Raises a `ManifestError` with the bad rows of all local sources, before a model takes its minutes to load, and a
    `ValueError` without any source, and on one that is not a path or an object with one.
    """
    if not data.train:
        raise ValueError("`train` must name at least one source of training data, got none.")
    bank, problems = PromptBank.load(*data.prompts), []
    for source in [*data.train, *data.eval]:
        options = {"source": source} if isinstance(source, str) else dict(source)
        path = options.get("source")
        if path is None:
            raise ValueError(f"`train` and `eval` must hold paths, or objects with a `source`, got {source!r}.")
        if isinstance(path, str) and find_manifest(path) is not None:
            known = {name: options[name] for name in ("task", "audio_root") if name in options}
            problems += validate_manifest(path, prompt_bank=bank, max_text_tokens=data.max_text_tokens, **known)
    if problems:
        raise ManifestError(problems)


def load_sources(sources: list, data: DataArguments, processor, seed: int, streaming: bool = False):
    """
    The mixture of a recipe's sources, which [`check_sources`] has seen, or `None` if it names none. `seed` decides on its
    order, and on the rows that caps leave.
    """
    parts = []
    for source in sources:
        options = {"source": source} if isinstance(source, str) else dict(source)
        weight, caps = options.pop("weight", None), options.pop("caps", {})
        dataset = load_training_data(
            options.pop("source"),
            streaming=streaming,
            prompt_bank=PromptBank.load(*data.prompts),
            tokenizer=processor.tokenizer,
            max_text_tokens=data.max_text_tokens,
            **options,
        )
        parts.append(MixturePart(dataset, weight, caps))
    return mix(parts, seed=seed) if parts else None


def cache_features(recipe: Recipe, model, processor, dataset):
    """Computes what the frozen encoders give for the clips of `dataset`; returns a processor that reads it."""
    data, training = recipe.data, recipe.training
    if data.concatenate_probability > 0:
        raise ValueError(
            f"`feature_cache` keeps clips as they are, so `concatenate_probability` must be 0, got "
            f"{data.concatenate_probability}."
        )
    autocast_dtype = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None
    cache = FeatureCache(data.feature_cache, model.to(training.device), processor.feature_extractor, autocast_dtype)
    cache.build(dataset["audio"])
    return cache.cached_processor(processor)


def build_trainer(recipe: Recipe, model, processor) -> SalmonnTrainer:
    """The trainer of a recipe, with its data, for a model that is loaded."""
    data, is_alignment, seed = recipe.data, recipe.stage.objective == "alignment", recipe.training.seed
    if is_alignment and data.word_dropout > 0:
        raise ValueError(
            f"`word_dropout` is for answers that the LLM reads, which the warm-up does not run, so it must be 0, got "
            f"{data.word_dropout}."
        )
    if not data.eval and recipe.training.eval_strategy != "no":
        if recipe.training.load_best_model_at_end:
            raise ValueError("`load_best_model_at_end` needs data in `eval` to tell which model is best, got none.")
        if PartialState().is_main_process:
            logger.warning("`eval` names no data: nothing is evaluated while training.")
        recipe.training.eval_strategy = IntervalStrategy.NO
    train = load_sources(data.train, data, processor, seed, data.streaming)
    bank = PromptBank.load(*data.prompts)
    collator = SalmonnDataCollator(
        processor if data.feature_cache is None else cache_features(recipe, model, processor, train),
        bank,
        max_text_tokens=data.max_text_tokens,
        concatenate_probability=data.concatenate_probability,
        concatenate_max_seconds=data.concatenate_max_seconds,
        spec_augment=data.spec_augment,
        word_dropout=data.word_dropout,
        seed=seed,
        padding_side="left",  # all answers then end in the last column, and the fewest positions are scored
    )
    settings = {
        "args": recipe.training,
        "data_collator": collator,
        "train_dataset": train,
        "eval_dataset": load_sources(data.eval, data, processor, seed),
        # one phrasing for each task: evaluations then differ by the model only
        "eval_collator": SalmonnDataCollator(
            processor, bank, max_text_tokens=data.max_text_tokens, use_test_prompts=True
        ),
        "processing_class": processor,
        "compute_metrics": None,
        "callbacks": [EpochCallback(collator), ResultsCallback(recipe.fields)],
    }
    if is_alignment or recipe.training.predict_with_generate:
        settings["compute_metrics"] = AnswerMetrics(processor.tokenizer)
    if not is_alignment:
        return SalmonnTrainer(model, **settings)
    whole_vocabulary = recipe.alignment.alignment_vocabulary == "all" or data.streaming
    token_ids = range(processor.tokenizer.vocab_size) if whole_vocabulary else collect_tokens(processor, train["text"])
    alignment = AlignmentModel(model, token_ids)
    # with a checkpoint of a warm-up, whose scale is not folded in yet
    unfold = recipe.alignment.alignment_unfold
    if recipe.stage.adapter is not None and Path(recipe.stage.adapter, HEAD_FILE).is_file():
        if unfold != 1:
            raise ValueError(f"`alignment_unfold` must be 1 for the checkpoint of a warm-up, got {unfold}.")
        alignment.head.go_on_from(load_file(Path(recipe.stage.adapter, HEAD_FILE)))
    elif unfold != 1:
        alignment.unfold(unfold)
    return AlignmentTrainer(alignment, norm=recipe.alignment.alignment_norm, **settings)
