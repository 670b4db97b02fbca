# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""BEATs as an ONNX file, for runtimes without PyTorch: the encoder, or the classifier."""

import os
from pathlib import Path

import torch
from torch import nn

from data_salmonn.extras import needs_extra
from data_salmonn.files import whole_file
from modeling_beats import BeatsForAudioClassification, BeatsModel


EXAMPLE_FRAMES = 208  # 13 columns of patches, a number that is no size of any model


class _Plain(nn.Module):
    """A model that takes tensors by place and gives one."""

    def __init__(self, model: BeatsModel | BeatsForAudioClassification, output: str):
        super().__init__()
        self.model, self.output = model, output

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_features, attention_mask=attention_mask, return_dict=True)[self.output]


@torch.no_grad()
def export_onnx(model: BeatsModel | BeatsForAudioClassification, file: str | os.PathLike) -> Path:
    """
    Writes a BEATs as an ONNX file, in float32.

    Its inputs are `input_features` `(clips, frames, num_mel_bins)`, what [`BeatsFeatureExtractor`] gives, and
    `attention_mask` `(clips, frames)` of int64; its output is `logits` `(clips, labels)` of a classifier, or
    `last_hidden_state` `(clips, tokens, hidden_size)` of an encoder. Numbers of clips and frames are free.

    Args:
        model ([`BeatsModel`] or [`BeatsForAudioClassification`]): the model, in float32 on a CPU.
        file (`str` or `os.PathLike`): the file to write; it appears complete or not at all.

    Returns:
        `Path`: `file`.

    Raises:
        TypeError: if `model` is no BEATs.
        ValueError: if it is not in float32.
        ImportError: if `onnx` or `onnxscript` is missing: `pip install "salmonn-transformers[onnx]"`.
    """
    if not isinstance(model, (BeatsModel, BeatsForAudioClassification)):
        raise TypeError(f"`model` must be a BEATs, got {type(model).__name__}.")
    if model.dtype != torch.float32:
        raise ValueError(f"`model` must be in float32, got {model.dtype}: call `model.float()`.")
    with needs_extra("onnx"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

    output = "logits" if isinstance(model, BeatsForAudioClassification) else "last_hidden_state"
    was_training = model.training
    features = torch.zeros(2, EXAMPLE_FRAMES, model.config.num_mel_bins)
    mask = torch.ones(2, EXAMPLE_FRAMES, dtype=torch.long)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        program = torch.onnx.export(
            _Plain(model.eval(), output),
            (features, mask),
            input_names=["input_features", "attention_mask"],
            output_names=[output],
            dynamic_shapes=(free, free),
            dynamo=True,
            verbose=False,
        )
    finally:
        model.train(was_training)
    with whole_file(Path(file)) as unfinished:
        program.save(str(unfinished), external_data=False)
    return Path(file)


__all__ = ["export_onnx"]
