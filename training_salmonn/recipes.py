# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Recipes: one flat YAML file says everything about a training run.

A recipe holds the fields of the dataclasses below and of `transformers.TrainingArguments`. It may extend another one:

    extends: pretrain
    train: [librispeech.json, {source: clotho.jsonl, caps: {audiocaption: 20000}}]
    learning_rate: 1e-5

On the command line each field is an option: `salmonn train pretrain --train librispeech.json --learning_rate 1e-5`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from training_salmonn.precision import fit_precision, is_cpu_machine
from training_salmonn.recipe_files import check_fields, fill_sections, find_recipe, read_recipe


RECIPES = Path(__file__).parent / "recipes"
OBJECTIVES = ("answers", "alignment")
TRAINABLE_PARTS = ("connector", "norms", "lora")


@dataclass
class DataArguments:
    """What a run hears and reads."""

    _argument_group_name = "data"

    train: list[str | dict] = field(
        default_factory=list,
        metadata={
            "help": "Sources of training data: paths or Hub ids, or objects with `source` and, optionally, `split`, "
            "`weight` and `caps` (samples per task), such as '{source: a.jsonl, weight: 0.5}'."
        },
    )
    eval: list[str | dict] = field(
        default_factory=list, metadata={"help": "Sources of the data that is evaluated on."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the training data while training, needs `max_steps`."}
    )
    prompts: list[str] = field(
        default_factory=list, metadata={"help": "Files of prompts beside those of the project."}
    )
    max_text_tokens: int = field(default=300, metadata={"help": "Longest answer in tokens."})
    concatenate_probability: float = field(
        default=0.0, metadata={"help": "Share of clips that are joined with others (2309.13963, table 1)."}
    )
    concatenate_max_seconds: float = field(default=30.0, metadata={"help": "Longest clip that joining makes."})
    spec_augment: float = field(
        default=0.0,
        metadata={
            "help": "Share of clips with masked bands and moments (SpecAugment, 1904.08779), or channels and moments of what "
            "`feature_cache` keeps."
        },
    )
    word_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Share of the tokens of answers that are read as other ones, and learnt as they are (1511.06349): "
            "the LLM guesses less and listens more."
        },
    )
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder in which the output of the frozen encoders is kept between epochs."}
    )


@dataclass
class StageArguments:
    """Which model is trained, and which parts of it."""

    _argument_group_name = "model and stage"

    stage: str = field(default="custom", metadata={"help": "Name of the stage, for logs and results."})
    objective: str = field(
        default="answers",
        metadata={"help": "`answers`: next token of the answers. `alignment`: CTC of the connector's output."},
    )
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the base model."})
    adapter: str | None = field(default=None, metadata={"help": "Adapter of the stage before, to go on from."})
    trained: list[str] = field(
        default_factory=lambda: list(TRAINABLE_PARTS),
        metadata={"help": f"Parts that are trained, of {TRAINABLE_PARTS}. All others are frozen, in eval mode."},
    )
    requires: dict = field(
        default_factory=dict, metadata={"help": "Settings that the model's configuration must have for this recipe."}
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of LoRA."})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA is scaled by `lora_alpha / lora_r`."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout on LoRA's input."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"], metadata={"help": "Linear layers of the LLM that get LoRA."}
    )
    model_dtype: str = field(
        default="auto", metadata={"help": "Of the frozen weights. What is trained is always float32."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "`sdpa` or `eager`."})

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {OBJECTIVES}, got {self.objective!r}.")
        unknown = [part for part in self.trained if part not in TRAINABLE_PARTS]
        if unknown or not self.trained:
            raise ValueError(f"`trained` must name parts of {TRAINABLE_PARTS}, at least one, got {self.trained}.")
        if self.lora_r < 1:
            raise ValueError(f"`lora_r` must be at least 1, got {self.lora_r}.")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"`lora_alpha` must be a finite number above 0, got {self.lora_alpha}.")
        if not 0 <= self.lora_dropout <= 1:
            raise ValueError(f"`lora_dropout` must be from 0 to 1, got {self.lora_dropout}.")
        if not self.lora_target_modules:
            raise ValueError("`lora_target_modules` must name at least one layer, got none.")


@dataclass
class AlignmentArguments:
    """The warm-up of the connector, only read with `objective="alignment"`."""

    _argument_group_name = "alignment warm-up"

    alignment_vocabulary: str = field(
        default="data",
        metadata={
            "help": "`data`: CTC over the tokens that the training answers hold. `all`: over the LLM's vocabulary."
        },
    )
    alignment_norm: float | None = field(
        default=None,
        metadata={
            "help": "Mean distance of the outputs from the mean token embedding; that of the tokens by default."
        },
    )
    alignment_unfold: float = field(
        default=1.0,
        metadata={
            "help": "Factor on the outputs of a connector that had a warm-up before, about 10, once the mean token "
            "embedding is taken off; 1 for a new connector."
        },
    )

    def __post_init__(self):
        if not 0 < self.alignment_unfold < math.inf:
            raise ValueError(f"`alignment_unfold` must be a finite number above 0, got {self.alignment_unfold}.")
        if self.alignment_vocabulary not in ("data", "all"):
            raise ValueError(f"`alignment_vocabulary` must be 'data' or 'all', got {self.alignment_vocabulary!r}.")


@dataclass
class ActivationArguments:
    """The long answers that a model gives for activation tuning, only read by `salmonn activate`."""

    _argument_group_name = "activation tuning"

    answers: str | None = field(default=None, metadata={"help": "JSONL file of answers: made if it does not exist."})
    num_answers: int = field(default=12, metadata={"help": "Answers to keep: the paper used 12 stories."})
    answer_tasks: list[str] = field(default_factory=lambda: ["story"], metadata={"help": "Tasks to ask for, in turn."})
    answer_lora_scale: float = field(
        default=0.5, metadata={"help": "Factor on the LoRA scaling while answering: 0.5 takes 4 to the paper's 2."}
    )
    answer_attempts: int = field(default=4, metadata={"help": "Answers to draw for a clip."})
    answers_per_clip: int = field(default=1, metadata={"help": "Most of them to keep."})
    answer_min_words: int = field(default=30, metadata={"help": "Shortest answer to keep, in words."})
    answer_max_new_tokens: int = field(default=200, metadata={"help": "Longest answer in tokens."})
    answer_temperature: float = field(default=0.8, metadata={"help": "Of sampling; 0 takes the likeliest token."})
    answer_keep_share: float = field(
        default=1.0,
        metadata={"help": "Share of the answers to keep: those that are likelier about their clip than about another, "
                  "for what would be said of any clip is not worth learning. 1, as in the paper, keeps all."},
    )  # fmt: skip
    replay_share: float = field(
        default=0.0,
        metadata={"help": "Share of the rows tuned on that are those of `train` with their own answers, so that many "
                  "steps do not unlearn them. 0 in the paper."},
    )  # fmt: skip

    def __post_init__(self):
        if not 0 <= self.replay_share < 1:
            raise ValueError(f"`replay_share` must be at least 0 and below 1, got {self.replay_share}.")
        if not 0 < self.answer_keep_share <= 1:
            raise ValueError(f"`answer_keep_share` must be above 0 and at most 1, got {self.answer_keep_share}.")
        if self.answers_per_clip < 1:
            raise ValueError(f"`answers_per_clip` must be at least 1, got {self.answers_per_clip}.")


@dataclass
class TrainerArguments:
    """What [`SalmonnTrainer`] adds to `TrainingArguments`."""

    predict_with_generate: bool = field(
        default=False, metadata={"help": "Whether to generate answers while evaluating, and score them."}
    )
    generation_max_new_tokens: int = field(default=200, metadata={"help": "Longest answer while evaluating."})
    generation_num_beams: int = field(default=1, metadata={"help": "Beams while evaluating."})
    lora_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of LoRA; that of the connector, `learning_rate`, by default."}
    )
    average_last: int = field(
        default=1, metadata={"help": "Last checkpoints of a run whose mean it ends with; 1 for the last one alone."}
    )


@dataclass
class SalmonnTrainingArguments(TrainingArguments, TrainerArguments):
    """`TrainingArguments` with defaults that fit audio in, text out, and with generation while evaluating."""

    _argument_group_name = "training, as in `transformers.TrainingArguments`"

    # the collator reads columns that no model has an argument for
    remove_unused_columns: bool = field(default=False, metadata={"help": "See `TrainingArguments`."})
    # a batch that gives NaN is reported, not averaged away
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "See `TrainingArguments`."})

    def __post_init__(self):
        super().__post_init__()
        if self.accelerator_config.dispatch_batches is None:
            # rows of features and rows of text differ in number: a batch cannot be cut for the other processes
            self.accelerator_config.dispatch_batches = False


# In the order of the help.
SECTIONS = (DataArguments, StageArguments, AlignmentArguments, ActivationArguments, SalmonnTrainingArguments)


@dataclass
class Recipe:
    """A recipe, read: the fields by subject, and all of them as they were written."""

    data: DataArguments
    stage: StageArguments
    alignment: AlignmentArguments
    activation: ActivationArguments
    training: SalmonnTrainingArguments
    fields: dict[str, Any]


def load_recipe(recipe: str | Path, **overrides) -> Recipe:
    """
    Reads the recipe in a file, or one of the project's by name, with `overrides` in place of its fields:

        load_recipe("pretrain", model="./base", train=["a.jsonl"], learning_rate=1e-5)

    Without an accelerator `use_cpu` is on unless the recipe says otherwise, and a CPU that is slow in bfloat16 trains in
    float32 unless `overrides` say otherwise, see [`fit_precision`].

    Raises `ValueError` on a file that is no recipe, on fields that do not exist, and on values of another type.
    """
    values = fit_precision(read_recipe(find_recipe(recipe, RECIPES), RECIPES), overrides)
    sections = fill_sections(SECTIONS, {"use_cpu": is_cpu_machine()} | check_fields(values, SECTIONS, recipe))
    return Recipe(*sections, fields=values)
