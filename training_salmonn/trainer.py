# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Transformers' `Trainer` for SALMONN: frozen parts stay frozen, checkpoints hold the trained part and appear whole or not
at all, a loss that is not finite stops the run and names the batch, and evaluation can generate.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import nn
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from data_salmonn.error_rates import word_error_rate
from data_salmonn.extras import needs_extra
from training_salmonn.averaging import mean_weights
from training_salmonn.stages import find_trained_modules, keep_frozen_in_eval, load_adapter_weights


with needs_extra("train"):
    from datasets import Dataset


logger = logging.getLogger(__name__)

# Where a checkpoint is written until it is whole: a name under which nothing looks for checkpoints.
UNFINISHED = ".unfinished"


class NonFiniteError(ValueError):
    """A loss or gradient that is not a finite number: the run stops before it spoils the weights."""


class IdentifiedCollator:
    """Passes the `id` of each row along with the batch that `collator` makes, for reports about a batch."""

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor | list[str]]:
        batch = dict(self.collator(rows))
        # Trainer takes the rows of the first tensor for the number of samples, and clips may have several segments
        batch = {"input_ids": batch.pop("input_ids"), **batch} if "input_ids" in batch else batch
        return {**batch, "sample_ids": [str(row.get("id")) for row in rows]}


def with_ids(dataset):
    """`dataset` with a column `id`: the number of the row where there is none."""
    if not isinstance(dataset, Dataset) or "id" in dataset.column_names:
        return dataset
    return dataset.add_column("id", [f"row {number}" for number in range(len(dataset))])


class SalmonnTrainer(Trainer):
    """
    `Trainer` for a SALMONN with an adapter, whose arguments are all accepted.

    `args` may be plain `TrainingArguments`; with those of a recipe, evaluation can generate answers. Evaluation makes
    its batches with `eval_collator` where one is given. The `processing_class`, if given, is saved beside the adapter.
    """

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        eval_collator=None,
        **kwargs,
    ):
        super().__init__(
            model=model,
            args=args,
            data_collator=None if data_collator is None else IdentifiedCollator(data_collator),
            train_dataset=with_ids(train_dataset),
            eval_dataset=with_ids(eval_dataset),
            **kwargs,
        )
        self._trained_modules = find_trained_modules(self.model)
        self.eval_collator = None if eval_collator is None else IdentifiedCollator(eval_collator)
        self._sample_ids: list[str] = []
        self._is_staging = False
        if self.is_world_process_zero():
            shutil.rmtree(Path(self.args.output_dir, UNFINISHED), ignore_errors=True)

    @property
    def adapted_model(self):
        """The SALMONN whose adapter is trained."""
        return self.accelerator.unwrap_model(self.model)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Trainer's optimizer, in which LoRA learns at `lora_learning_rate` where the arguments name one."""
        is_new, rate = self.optimizer is None, getattr(self.args, "lora_learning_rate", None)
        optimizer = super().create_optimizer(model)
        if not is_new or rate is None:
            return optimizer
        lora = {id(parameter) for name, parameter in self.model.named_parameters() if ".lora_" in name}
        for group in list(optimizer.param_groups):
            parts = {False: [], True: []}
            for parameter in group["params"]:
                parts[id(parameter) in lora].append(parameter)
            group["params"] = parts[False]
            if parts[True]:
                optimizer.add_param_group({**group, "params": parts[True], "lr": rate})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    # ------------------------------------------------------------------------------------------------------------------
    # Loss

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The model's loss; raises `NonFiniteError` with the samples of the batch where it is not a number."""
        inputs = dict(inputs)
        self._sample_ids = inputs.pop("sample_ids", [])
        if model.training:
            keep_frozen_in_eval(model, self._trained_modules)
            inputs |= self.find_scored_positions(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if not torch.isfinite(loss).all():
            raise NonFiniteError(self._describe_batch(f"the loss is {loss.item()}"))
        return (loss, outputs) if return_outputs else loss

    def find_scored_positions(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | int]:
        """
        `logits_to_keep` and `labels` `(batch_size, logits_to_keep)` of the positions from the first that predicts a label
        on. The loss is the same; what the vocabulary's matrix would make of prompts is not computed.
        """
        if "labels" not in inputs:
            return {}
        is_label = (inputs["labels"] != -100).any(0)
        first = int(is_label.int().argmax()) if is_label.any() else 0
        kept = inputs["labels"].shape[1] - max(first - 1, 0)
        return {"logits_to_keep": kept, "labels": inputs["labels"][:, -kept:]}

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm)
        # float16 has a scaler, which skips such steps and tries a smaller scale
        if (
            grad_norm is not None
            and self.accelerator.scaler is None
            and not torch.isfinite(torch.as_tensor(grad_norm))
        ):
            raise NonFiniteError(self._describe_batch(f"the norm of the gradient is {float(grad_norm)}"))
        return grad_norm

    def _describe_batch(self, problem: str) -> str:
        return (
            f"Stopped at step {self.state.global_step + 1}: {problem}. The samples of the batch are "
            f"{', '.join(self._sample_ids)}. Checkpoints are in {self.args.output_dir}."
        )

    # ------------------------------------------------------------------------------------------------------------------
    # Checkpoints

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._is_staging else folder

    def _save_checkpoint(self, model, trial) -> None:
        """Writes a checkpoint aside and moves it into place when it is whole."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder = Path(super()._get_output_dir(trial))
        self._is_staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_staging = False
        if self.state.best_model_checkpoint == str(folder / UNFINISHED / name):
            self.state.best_model_checkpoint = str(folder / name)
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            self.state.save_to_json(str(folder / UNFINISHED / name / "trainer_state.json"))
            publish(folder / UNFINISHED / name, folder / name)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Saves the trained part only: an ordinary PEFT folder."""
        if not self.args.should_save:
            return
        self.adapted_model.save_pretrained(
            output_dir or self.args.output_dir, adapter_only=True, state_dict=state_dict
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        # Trainer would save the frozen weights too
        save_fsdp_optimizer(
            self.accelerator.state.fsdp_plugin, self.accelerator, self.optimizer, self.model, output_dir
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    def save_adapter(self, name: str = "adapter") -> Path:
        """
        Saves the trained part, and the processor, to a folder of that name in `output_dir`, which appears whole or not at
        all: with its base model where it was, `from_pretrained` of the model and of the processor take that folder.
        """
        folder = Path(self.args.output_dir)
        self.save_model(str(folder / UNFINISHED / name), _internal_call=True)
        if self.args.should_save:
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder / UNFINISHED / name)
            publish(folder / UNFINISHED / name, folder / name)
        self.accelerator.wait_for_everyone()
        return folder / name

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        load_adapter_weights(self.adapted_model, resume_from_checkpoint)

    def load_average(self, count: int) -> list[Path]:
        """
        Puts the mean of the last `count` checkpoints in `output_dir` in place of the trained weights, and returns their
        folders. Raises `ValueError` if there are fewer.
        """
        found = Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        folders = sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))[-count:]
        if len(folders) < count:
            raise ValueError(
                f"`count` must be at most {len(folders)}, the checkpoints in {self.args.output_dir}, got {count}."
            )
        load_adapter_weights(self.adapted_model, folders[-1], tensors=mean_weights(folders))
        logger.info("the mean of %s", ", ".join(folder.name for folder in folders))
        return folders

    def _load_best_model(self) -> None:
        load_adapter_weights(self.adapted_model, self.state.best_model_checkpoint)

    # ------------------------------------------------------------------------------------------------------------------
    # Evaluation

    def get_eval_dataloader(self, eval_dataset=None):
        collator = self.data_collator
        self.data_collator = self.eval_collator or collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = collator

    def prediction_step(self, model: nn.Module, inputs, prediction_loss_only: bool, ignore_keys=None):
        """
        Loss and, with `predict_with_generate`, the answers that the model gives to the prompts of the batch: new
        tokens `(batch_size, new_tokens)`, to be compared with the labels.
        """
        loss, _, _ = super().prediction_step(model, inputs, prediction_loss_only=True, ignore_keys=ignore_keys)
        if prediction_loss_only or not getattr(self.args, "predict_with_generate", False):
            return loss, None, None
        inputs = self._prepare_inputs(inputs)
        return loss, self.generate_answers(inputs), inputs["labels"]

    @torch.no_grad()
    def generate_answers(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """New tokens `(batch_size, new_tokens)` for a batch with answers, which the model does not get to see."""
        input_ids, attention_mask = cut_answers(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        model = self.accelerator.unwrap_model(self.model)
        output = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            input_features=inputs.get("input_features"),
            input_features_mask=inputs.get("input_features_mask"),
            segment_ids=inputs.get("segment_ids"),
            max_new_tokens=self.args.generation_max_new_tokens,
            num_beams=self.args.generation_num_beams,
            do_sample=False,
        )
        return output[:, input_ids.shape[1] :]


def cut_answers(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The prompts of a batch with answers, all `(batch_size, length)`: everything before the first label, padded on the
    left. What it is padded with does not matter, since the mask leaves it out.
    """
    ends = (labels != -100).int().argmax(-1).tolist()
    width = max(ends)
    prompts, mask = input_ids.new_zeros(len(ends), width), attention_mask.new_zeros(len(ends), width)
    for i, end in enumerate(ends):
        prompts[i, width - end :] = input_ids[i, :end]
        mask[i, width - end :] = attention_mask[i, :end]
    return prompts, mask


class AnswerMetrics:
    """`compute_metrics` for answers: word error rate over the whole set (jiwer) and share of exact answers."""

    def __init__(self, tokenizer):
        with needs_extra("train"):
            import jiwer  # noqa: F401  # so that it is not missing after the first thousand steps

        self.tokenizer = tokenizer

    def __call__(self, prediction) -> dict[str, float]:
        answers, references = self.decode(prediction.predictions), self.decode(prediction.label_ids)
        return {
            "wer": word_error_rate(references, answers),
            "exact": sum(map(str.__eq__, answers, references)) / max(1, len(references)),
        }

    def decode(self, ids) -> list[str]:
        """Token ids `(rows, length)`, padded with -100, to text."""
        rows = [[token for token in row if token >= 0] for row in ids.tolist()]
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def publish(source: Path, target: Path) -> None:
    """Moves the folder `source` to `target`, in place of what is there, so that no moment shows half of it."""
    replaced = source.with_name(f"{source.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        os.replace(target, replaced)
    os.replace(source, target)
    shutil.rmtree(replaced, ignore_errors=True)
