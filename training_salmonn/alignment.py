# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Alignment warm-up: the connector learns to spell the transcript in the LLM's own token embeddings, before any LLM is run.

Each output of the connector is scored against the directions of the token embeddings and trained with CTC. The scale of
the outputs is free while that lasts, and folded into the connector's last layer at the end, so that the outputs lie
where the LLM's token embeddings lie:

    h = last layer(...)          logits = h @ directions + bias          blank = h @ blank direction + bias
    h -> scale * h + mean token embedding

No module of the model changes: what is trained is the connector that the next stage goes on from. A step costs a small
part of one with the LLM, and a small model does not converge without it. CTC needs at least one output for each token:
about 6 a second of speech, such as windows of 0.16 s with one query or of 0.33 s with two.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training_salmonn.trainer import SalmonnTrainer


logger = logging.getLogger(__name__)

HEAD_FILE = "alignment_head.safetensors"
# The last linear layer of each connector, by type.
LAST_LAYERS = {"qformer": "projection", "linear": "linear_2", "cross_attention": "attention.o_proj"}


class AlignmentHead(nn.Module):
    """
    Scores connector outputs against the directions of token embeddings.

    Args:
        embeddings: `(vocabulary, hidden)`, the LLM's token embeddings, which stay as they are.
        token_ids: The tokens to score; the last class, after theirs, is CTC's blank.
    """

    def __init__(self, embeddings: torch.Tensor, token_ids: Sequence[int]):
        super().__init__()
        rows = embeddings.detach()[torch.as_tensor(token_ids, device=embeddings.device)].float()
        mean = rows.mean(0)
        self.register_buffer("mean", mean)
        self.register_buffer("directions", nn.functional.normalize(rows - mean, dim=-1))
        self.register_buffer("target_norm", (rows - mean).norm(dim=-1).mean())
        self.register_buffer("output_norm", torch.zeros(()))  # running mean of the outputs' length
        classes = torch.full((embeddings.shape[0],), -1)
        classes[torch.as_tensor(token_ids)] = torch.arange(len(token_ids))
        self.register_buffer("classes", classes)  # class of each token id, -1 for those that are not scored
        self.register_buffer("token_ids", torch.as_tensor(token_ids))
        self.bias = nn.Parameter(torch.zeros(len(token_ids) + 1))
        self.blank = nn.Parameter(torch.zeros(embeddings.shape[1]))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`hidden_states`: `(tokens, hidden)` -> log-probabilities `(tokens, classes + 1)`, float32."""
        hidden_states = hidden_states.float()
        if self.training:
            norm = hidden_states.detach().norm(dim=-1).mean()
            self.output_norm.copy_(torch.where(self.output_norm > 0, self.output_norm.lerp(norm, 0.05), norm))
        weight = torch.cat([self.directions, self.blank[None]])
        return nn.functional.linear(hidden_states, weight, self.bias).log_softmax(-1)

    @torch.no_grad()
    def go_on_from(self, saved: dict[str, torch.Tensor]) -> None:
        """
        Takes over what a head of the same LLM has learnt, the blank's direction and the biases of tokens that both score:
        a head that starts anew would bend a trained connector until it has found its own.

        Args:
            saved: That head's `state_dict`.

        Raises `ValueError` if it is of another LLM.
        """
        if saved["classes"].shape != self.classes.shape or saved["blank"].shape != self.blank.shape:
            raise ValueError(
                f"`saved` must be a head for {len(self.classes)} tokens of {len(self.blank)} numbers, got one for "
                f"{len(saved['classes'])} of {len(saved['blank'])}."
            )
        places = saved["classes"][self.token_ids]
        known = places >= 0
        self.bias[:-1][known] = saved["bias"][places[known]]
        self.bias[-1] = saved["bias"][-1]
        self.blank.copy_(saved["blank"])
        self.output_norm.copy_(saved["output_norm"])


class AlignmentModel(nn.Module):
    """
    A SALMONN of which only encoders and connector run, and the head that scores them.

    Raises `ValueError` if `token_ids` holds no token.
    """

    def __init__(self, model, token_ids: Sequence[int]):
        super().__init__()
        if not len(token_ids):
            raise ValueError("`token_ids` must hold at least one token, got none.")
        self.salmonn = model
        self.config = model.config
        self.head = AlignmentHead(model.get_input_embeddings().weight, token_ids)
        self.ending_ids = {model.generation_config.eos_token_id, model.config.text_config.eos_token_id}

    def forward(
        self,
        input_features: torch.Tensor,
        labels: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        """
        CTC of the connector's outputs against the answers.

        Args:
            input_features: `(segments, bins, frames)`, as for the model; one clip for each row of `labels`.
            labels: `(batch_size, length)`, with -100 outside of answers.
            num_items_in_batch: What the loss is divided by; the number of the batch's target tokens by default.
            kwargs: The rest of a batch for the model, not used.

        Returns:
            `loss`; `log_probs` `(batch_size, longest, classes + 1)`; `lengths` `(batch_size,)` of these.
        """
        segments = (input_features, input_features_mask, segment_ids)
        embeds = self.salmonn.get_audio_features(*segments, return_dict=True).pooler_output
        lengths = self.salmonn._count_audio_tokens(*segments)
        if len(lengths) != len(labels):
            raise ValueError(f"Alignment needs one clip for each answer, got {len(lengths)} for {len(labels)}.")
        # scored clip by clip and then padded with zeros, which the lengths leave out
        log_probs = nn.utils.rnn.pad_sequence(self.head(embeds).split(lengths), batch_first=True)
        targets = self.find_targets(labels)
        lengths = torch.tensor(lengths, device=labels.device)
        target_lengths = torch.tensor([len(target) for target in targets], device=labels.device)
        losses = nn.functional.ctc_loss(
            log_probs.transpose(0, 1),
            torch.cat(targets),
            lengths,
            target_lengths,
            blank=len(self.head.token_ids),
            reduction="none",
            zero_infinity=True,  # answers with more tokens than the clip has outputs
        )
        self._warn_about_short_clips(lengths, target_lengths)
        total = target_lengths.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return {"loss": losses.sum() / total, "log_probs": log_probs, "lengths": lengths}

    def find_targets(self, labels: torch.Tensor) -> list[torch.Tensor]:
        """The classes of each answer's tokens, without its end token and tokens that are not scored."""
        targets = []
        for row in labels:
            ids = row[row >= 0]
            ids = ids[:-1] if len(ids) and int(ids[-1]) in self.ending_ids else ids
            classes = self.head.classes[ids]
            if (classes < 0).any():
                logger.warning("alignment: %d tokens of an answer are not scored", int((classes < 0).sum()))
            targets.append(classes[classes >= 0])
        return targets

    def _warn_about_short_clips(self, lengths: torch.Tensor, target_lengths: torch.Tensor) -> None:
        short = int((target_lengths > lengths).sum())
        if short:
            logger.warning(
                "alignment: %d of %d answers have more tokens than their clips have audio tokens and teach nothing: "
                "use shorter windows or more queries",
                short,
                len(lengths),
            )

    @torch.no_grad()
    def read(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Greedy read-out: tokens `(batch_size, longest)`, padded with -100."""
        rows = []
        for row, length in zip(log_probs.argmax(-1), lengths.tolist()):
            classes = torch.unique_consecutive(row[:length])
            rows.append(self.head.token_ids[classes[classes < len(self.head.token_ids)]])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)

    @torch.no_grad()
    def fold(self, norm: float | None = None) -> float:
        """
        Moves the connector's outputs to where the token embeddings lie: as far from their mean as they are, or `norm`.
        Returns the factor on the outputs.

        Raises `ValueError` if nothing was trained, for then there is no scale to go by.
        """
        if not self.head.output_norm > 0:
            raise ValueError("`fold` needs a connector that was trained, got one without a step.")
        scale = float((self.head.target_norm if norm is None else norm) / self.head.output_norm)
        layer = self._find_last_layer()
        layer.weight.mul_(scale)
        layer.bias.mul_(scale).add_(self.head.mean.to(layer.bias.dtype))
        return scale

    @torch.no_grad()
    def unfold(self, scale: float) -> None:
        """
        The reverse of `fold`, for a connector that went through a warm-up before: its outputs lie around zero again, and
        are `scale` times as long. As short as they are for the LLM, they would say little to the head.
        """
        layer = self._find_last_layer()
        layer.weight.mul_(scale)
        layer.bias.sub_(self.head.mean.to(layer.bias.dtype)).mul_(scale)

    def _find_last_layer(self) -> nn.Linear:
        connector = self.salmonn.base_model.connector
        # PEFT keeps the trained copy beside the original
        trained = connector.modules_to_save["default"] if hasattr(connector, "modules_to_save") else connector
        return trained.get_submodule(LAST_LAYERS[self.config.connector_type])


class AlignmentTrainer(SalmonnTrainer):
    """Trainer of an [`AlignmentModel`]: evaluation reads the connector's outputs, and the end folds their scale in."""

    def __init__(self, *args, norm: float | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.is_folded = False

    @property
    def adapted_model(self):
        return self.accelerator.unwrap_model(self.model).salmonn

    def find_scored_positions(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | int]:
        return {}  # CTC reads all of the labels

    def fold(self) -> float:
        """Ends the warm-up, see [`AlignmentModel.fold`]."""
        scale = self.accelerator.unwrap_model(self.model).fold(self.norm)
        self.is_folded = True
        logger.info("alignment: the connector's outputs are scaled by %.4g", scale)
        return scale

    def prediction_step(self, model: nn.Module, inputs, prediction_loss_only: bool, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        tokens = self.accelerator.unwrap_model(model).read(outputs["log_probs"], outputs["lengths"])
        return loss.detach(), tokens, labels

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir)
        # the head scores outputs that are not scaled yet: it goes with checkpoints, not with the adapter of the end
        if self.args.should_save and not self.is_folded:
            head = self.accelerator.unwrap_model(self.model).head
            tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
            save_file(tensors, os.path.join(output_dir or self.args.output_dir, HEAD_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        head = self.accelerator.unwrap_model(self.model).head
        head.load_state_dict(load_file(Path(resume_from_checkpoint, HEAD_FILE)))


def collect_tokens(processor, texts: Iterable[str], batch_size: int = 256) -> list[int]:
    """Ids of all tokens in answers of these `texts`, sorted, their end tokens left out."""
    texts, found = sorted({text for text in texts if text.strip()}), set()
    for first in range(0, len(texts), batch_size):
        conversations = [
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
            for text in texts[first : first + batch_size]
        ]
        # through the processor, so that they are the very tokens of the labels
        inputs = processor.apply_chat_template(
            conversations, tokenize=True, return_dict=True, processor_kwargs={"output_labels": True}
        )
        found.update(torch.as_tensor(inputs["labels"]).flatten().tolist())
    return sorted(found - {-100, processor.tokenizer.eos_token_id})
