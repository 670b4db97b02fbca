# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A SALMONN on frozen encoders: each segment is encoded alone, once and without gradients, or not at all where a cache has
what its encoders gave. Features are cut before the first trained part, the layer norms.
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput


class FrozenEncodersMixin:
    """
    Goes before `SalmonnAudioEncoder`: encodes each segment alone and without gradients, or takes what the encoders gave.

    `input_features` are then either features, or encoder outputs `(segments, encoder_width, frames)`: the speech
    encoder's rows, then BEATs', zero where BEATs gave no vector. These have half as many columns as
    `input_features_mask`, which comes with both.
    """

    def check_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None = None,
    ) -> list[int] | None:
        if not _are_states(input_features, input_features_mask):
            return super().check_features(input_features, input_features_mask, segment_ids)
        width = self.config.encoder_width
        if input_features.shape[1] != width:
            raise ValueError(
                f"`input_features` from a cache must have the {width} rows of the encoders, got "
                f"{input_features.shape[1]}: the cache belongs to another model."
            )
        self._check_segments(len(input_features), 2 * input_features.shape[-1], input_features_mask, segment_ids)
        return self._check_values(input_features, input_features_mask)

    def plan_passes(self, real_frames: list[int], device: torch.device) -> list[list[int]]:
        # encoded alone, no segment is padded
        return [rows.tolist() for rows in torch.arange(len(real_frames)).split(self.config.max_segments_at_once)]

    def cut_padding(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None, real_frames: list[int]
    ):
        if not _are_states(input_features, input_features_mask) or self.config.fixed_length:
            return super().cut_padding(input_features, input_features_mask, real_frames)
        frames = max(real_frames) // 2 + 1
        return input_features[..., :frames], input_features_mask[:, : 2 * frames]

    def forward(self, input_features: torch.Tensor, *args, **kwargs):
        check_frozen(self)
        return super().forward(input_features, *args, **kwargs)

    def _run_encoders(
        self, input_features: torch.Tensor, is_real: torch.BoolTensor, real_frames: list[int] | None, **kwargs
    ):
        states = input_features
        if not _are_states(input_features, is_real):
            states = pack_states(self.encode_segments(input_features, is_real), is_real.shape[1] // 2)
        states = states.transpose(1, 2)  # (segments, frames, encoder_width)
        outputs = states.split(
            [self.config.speech_width, self.config.encoder_width - self.config.speech_width], dim=-1
        )
        encoders = self.speech_encoder, self.beats
        return [
            None if encoder is None else BaseModelOutput(last_hidden_state=output)
            for encoder, output in zip(encoders, outputs)
        ]

    @torch.no_grad()
    def encode_segments(
        self, input_features: torch.Tensor, is_real: torch.BoolTensor
    ) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
        """
        Runs the encoders, which are frozen, on each segment alone.

        Args:
            input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, columns)`): As for the model.
            is_real (`torch.BoolTensor` of shape `(segments, columns)`): Which filter bank frames are not padding.

        Returns:
            For each segment the speech encoder's output `(frames, d_speech)`, without padding unless the model has a
            fixed length, and BEATs' `(tokens, d_beats)`; `None` for the one that the model lacks.
        """
        real_frames = is_real.sum(-1).tolist()
        if min(real_frames) == 0:
            raise ValueError("`input_features_mask` must mark real frames in every segment, got one of padding only.")
        segments = []
        for features, real, frames in zip(input_features, is_real, real_frames):
            features, real = super().cut_padding(features[None], real[None], [frames])
            outputs = super()._run_encoders(features, real, [frames])
            segments.append(tuple(None if output is None else output.last_hidden_state[0] for output in outputs))
        return segments


def _are_states(input_features: torch.Tensor, input_features_mask: torch.Tensor | None) -> bool:
    return input_features_mask is not None and 2 * input_features.shape[-1] == input_features_mask.shape[-1]


def find_salmonn(model: nn.Module) -> nn.Module:
    """The `SalmonnModel` in `model`, whatever it is wrapped in. Raises a `ValueError` if there is none."""
    for module in model.modules():
        # not `hasattr`, which wrappers such as PEFT's answer for what they wrap
        if {"language_model", "connector"} <= module._modules.keys():
            return module
    raise ValueError(f"`model` must be a SALMONN, got {type(model).__name__}.")


def freeze_encoders(model: nn.Module) -> nn.Module:
    """
    Makes `model` encode each segment by itself, in eval mode and without gradients, and take cached features too.

    Sums in a different order round differently, so what an encoder gives for a clip depends, in its last bits, on the
    clips beside it in the batch. Encoded alone a clip always gives the same numbers: training with a cache, without
    one, and with any size of batch then start from equal features.

    The class of the audio encoder of `model` changes to one that derives from it, as `fully_shard` does it.
    [`unfreeze_encoders`] undoes that. Weights and names of weights stay as they are.
    """
    salmonn = find_salmonn(model)
    encoder = salmonn.audio_encoder
    if not isinstance(encoder, FrozenEncodersMixin):
        original = type(encoder)
        names = {"__module__": original.__module__, "__qualname__": original.__qualname__}
        encoder.__class__ = type(original.__name__, (FrozenEncodersMixin, original), names)
    salmonn.freeze_encoders()
    return model


def unfreeze_encoders(model: nn.Module) -> nn.Module:
    """Undoes [`freeze_encoders`], apart from `requires_grad`."""
    encoder = find_salmonn(model).audio_encoder
    if isinstance(encoder, FrozenEncodersMixin):
        encoder.__class__ = type(encoder).__mro__[2]
    return model


def check_frozen(hearing: nn.Module) -> None:
    """
    Raises a `ValueError` if an encoder of `hearing`, a `SalmonnModel` or its audio encoder, is trained, by name of its first
    parameter that is.
    """
    for prefix, encoder in encoders_of(hearing).items():
        trained = next((name for name, parameter in encoder.named_parameters() if parameter.requires_grad), None)
        if trained is not None:
            raise ValueError(
                f"The encoders must be frozen to be computed once, but {prefix}.{trained} has `requires_grad`. Undo "
                "`freeze_encoders` to train them."
            )


def encoders_of(hearing: nn.Module) -> dict[str, nn.Module]:
    """The encoders that a `SalmonnModel`, or its audio encoder, has, by name."""
    encoders = {"speech_encoder": hearing.speech_encoder, "beats": hearing.beats}
    return {name: encoder for name, encoder in encoders.items() if encoder is not None}


def pack_states(states: list[tuple[torch.Tensor | None, torch.Tensor | None]], num_frames: int) -> torch.Tensor:
    """
    Outputs of the encoders, a pair for each segment, as one tensor `(segments, encoder_width, num_frames)` that is zero
    where there is none. Its dtype holds both exactly.
    """
    parts = [[part for part in pair if part is not None] for pair in states]
    dtype = parts[0][0].dtype
    for part in parts[0][1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    width = sum(part.shape[1] for part in parts[0])
    packed = parts[0][0].new_zeros(len(states), num_frames, width, dtype=dtype)
    for row, pair in zip(packed, parts):
        column = 0
        for part in pair:
            row[: len(part), column : column + part.shape[1]] = part
            column += part.shape[1]
    return packed.transpose(1, 2)
