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
    Goes before `SalmonnModel`: encodes each segment alone and without gradients, or takes what the encoders gave.

    `input_features` are then either features, or encoder outputs `(segments, encoder_width, frames)`: the speech
    encoder's rows, then BEATs', zero where BEATs gave no vector. These have half as many columns as
    `input_features_mask`, which comes with both.
    """

    def _check_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None = None,
    ):
        if not _are_states(input_features, input_features_mask):
            return super()._check_features(input_features, input_features_mask, segment_ids)
        width = self.config.encoder_width
        if input_features.shape[1] != width:
            raise ValueError(
                f"`input_features` from a cache must have the {width} rows of the encoders, got "
                f"{input_features.shape[1]}: the cache belongs to another model."
            )
        self._check_segments(len(input_features), 2 * input_features.shape[-1], input_features_mask, segment_ids)

    def _encode(self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None, segment_ids, **kwargs):
        check_frozen(self)
        if input_features_mask is None:
            input_features_mask = self._find_real_frames(input_features, None).long()
        return super()._encode(input_features, input_features_mask, segment_ids, **kwargs)

    def _run_encoders(
        self, input_features: torch.Tensor, is_real: torch.BoolTensor, lengths: torch.Tensor | None, **kwargs
    ):
        states = input_features
        if not _are_states(input_features, is_real):
            states = pack_states(encode_segments(self, input_features, is_real), is_real.shape[1] // 2)
        states = states.transpose(1, 2)  # (segments, frames, encoder_width)
        d_speech = self.config.speech_config.d_model
        beats_states = None if self.beats is None else states[..., d_speech:]
        return BaseModelOutput(last_hidden_state=states[..., :d_speech]), beats_states


def _are_states(input_features: torch.Tensor, input_features_mask: torch.Tensor | None) -> bool:
    return input_features_mask is not None and 2 * input_features.shape[-1] == input_features_mask.shape[-1]


def find_salmonn(model: nn.Module) -> nn.Module:
    """The `SalmonnModel` in `model`, whatever it is wrapped in. Raises a `ValueError` if there is none."""
    for module in model.modules():
        # not `hasattr`, which wrappers such as PEFT's answer for what they wrap
        if {"speech_encoder", "connector"} <= module._modules.keys():
            return module
    raise ValueError(f"`model` must be a SALMONN, got {type(model).__name__}.")


def freeze_encoders(model: nn.Module) -> nn.Module:
    """
    Makes `model` encode each segment by itself, in eval mode and without gradients, and take cached features too.

    Sums in a different order round differently, so what an encoder gives for a clip depends, in its last bits, on the
    clips beside it in the batch. Encoded alone a clip always gives the same numbers: training with a cache, without
    one, and with any size of batch then start from equal features.

    The class of the `SalmonnModel` in `model` changes to one that derives from it, as `fully_shard` does it.
    [`unfreeze_encoders`] undoes that. Weights and names of weights stay as they are.
    """
    salmonn = find_salmonn(model)
    if not isinstance(salmonn, FrozenEncodersMixin):
        original = type(salmonn)
        # saved code and configurations name the class and its module: both stay those of the model
        names = {"__module__": original.__module__, "__qualname__": original.__qualname__}
        salmonn.__class__ = type(original.__name__, (FrozenEncodersMixin, original), names)
    salmonn.freeze_encoders()
    return model


def unfreeze_encoders(model: nn.Module) -> nn.Module:
    """Undoes [`freeze_encoders`], apart from `requires_grad`."""
    salmonn = find_salmonn(model)
    if isinstance(salmonn, FrozenEncodersMixin):
        salmonn.__class__ = type(salmonn).__mro__[2]
    return model


def check_frozen(salmonn: nn.Module) -> None:
    """Raises a `ValueError` if an encoder is trained, by name of its first parameter that is."""
    for prefix, encoder in encoders_of(salmonn).items():
        trained = next((name for name, parameter in encoder.named_parameters() if parameter.requires_grad), None)
        if trained is not None:
            raise ValueError(
                f"The encoders must be frozen to be computed once, but {prefix}.{trained} has `requires_grad`. Undo "
                "`freeze_encoders` to train them."
            )


def encoders_of(salmonn: nn.Module) -> dict[str, nn.Module]:
    """The encoders that a model has, by name."""
    encoders = {"speech_encoder": salmonn.speech_encoder, "beats": salmonn.beats}
    return {name: encoder for name, encoder in encoders.items() if encoder is not None}


@torch.no_grad()
def encode_segments(
    salmonn: nn.Module, input_features: torch.Tensor, is_real: torch.BoolTensor
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """
    Runs the encoders, which are frozen, on each segment alone.

    Args:
        salmonn (`SalmonnModel`): The model.
        input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`): As for the model.
        is_real (`torch.BoolTensor` of shape `(segments, frames)`): Which filter bank frames are not padding.

    Returns:
        For each segment the speech encoder's output `(frames, d_speech)`, without padding unless the model has a fixed
        length, and BEATs' `(tokens, d_beats)`, or `None` without BEATs.
    """
    outputs = []
    for features, real, length in zip(input_features, is_real, salmonn._count_frames(is_real).tolist()):
        features, real = features[None, :, : 2 * length], real[None, : 2 * length]
        outputs.append((_run_speech_encoder(salmonn, features), _run_beats(salmonn, features, real)))
    return outputs


def _run_speech_encoder(salmonn: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """`features`: `(1, mel_bins + fbank_bins, 2 * frames)` -> `(frames, d_speech)`."""
    mel = features[:, : salmonn.config.speech_config.num_mel_bins]
    encoder, mask = salmonn.speech_encoder, None
    if not salmonn.config.fixed_length:
        mask = torch.ones(1, mel.shape[-1] // 2, dtype=torch.bool, device=mel.device)
    return encoder(mel.to(encoder.conv1.weight.dtype), attention_mask=mask, return_dict=True).last_hidden_state[0]


def _run_beats(salmonn: nn.Module, features: torch.Tensor, real: torch.BoolTensor) -> torch.Tensor | None:
    """`features`: `(1, mel_bins + fbank_bins, frames)`, of which `real` `(1, frames)` -> `(tokens, d_beats)`."""
    if salmonn.beats is None:
        return None
    if not real.any():
        raise ValueError("`input_features_mask` must mark real frames in every segment, got one of padding only.")
    longest = max(int(real.nonzero()[:, 1].max()) + 1, salmonn.config.beats_config.patch_size)
    fbank = features[:, salmonn.config.speech_config.num_mel_bins :, :longest].transpose(1, 2)
    return salmonn.beats(fbank, attention_mask=real[:, :longest], return_dict=True).last_hidden_state[0]


def pack_states(states: list[tuple[torch.Tensor, torch.Tensor | None]], num_frames: int) -> torch.Tensor:
    """
    Outputs of both encoders, a pair for each segment, as one tensor `(segments, encoder_width, num_frames)` that is zero
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
