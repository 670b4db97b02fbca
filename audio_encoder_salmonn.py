# Copyright 2026 The SALMONN for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""
The ears of SALMONN: Whisper, BEATs or both, their layer norms, and the one stream that they give the connector (arXiv
2310.13289, section 3.1).
"""

from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


try:
    from .configuration_salmonn import SalmonnConfig
except ImportError:
    from configuration_salmonn import SalmonnConfig


# On a CPU, how much of the longest segment a shorter one must fill to be read with it. Two passes then take less than one.
LEAST_SHARE_OF_AUDIO = 0.9

_REAL_FRAMES: ContextVar[list[int] | None] = ContextVar("real_frames", default=None)


@contextmanager
def known_frames(real_frames: list[int] | None):
    """
    Context in which the encoders know the real filter bank frames of each segment, and need not wait for the device to say
    them. No argument of theirs, which would be an input of the encoders when they are exported.
    """
    token = _REAL_FRAMES.set(real_frames)
    try:
        yield
    finally:
        _REAL_FRAMES.reset(token)


class SalmonnSpeechEncoder(WhisperEncoder):
    """Whisper's encoder, which also takes less than 30 s and then neither hears nor attends to padding."""

    def _init_weights(self, module):
        super()._init_weights(module)
        # Whisper fills its positions in a branch for its own class, which code outside of Transformers never reaches.
        if module is self.embed_positions:
            init.copy_(module.weight, sinusoids(*module.weight.shape))

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """
        `input_features`: `(segments, mel_bins, 2 * frames)`; `attention_mask`: `(segments, frames)`, 1 is real. Where nothing
        is padding it is best left out.
        """
        hidden_states = nn.functional.gelu(self.conv1(input_features))
        hidden_states = nn.functional.gelu(self.conv2(hidden_states)).transpose(1, 2)  # (segments, frames, d_speech)
        positions = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        hidden_states = hidden_states + self.embed_positions(positions)
        hidden_states = nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)
        if attention_mask is not None:
            attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden_states,
                attention_mask=attention_mask,
                allow_is_bidirectional_skip=False,  # to look whether it could be left out waits for the device
            )
        for layer in self.layers:
            if self.training and torch.rand([]) < self.layerdrop:
                continue
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden_states))


class SalmonnAudioEncoder(nn.Module):
    """
    Both encoders, their layer norms and their concatenation as one module.

    It is a view: the parts are those of [`SalmonnModel`], under whose names weights and adapters are kept, and which
    hands them on whenever one of them is replaced. A model has either encoder or both; what it lacks is `None`.
    """

    PARTS = ("speech_encoder", "speech_layer_norm", "beats", "beats_layer_norm")

    def __init__(
        self,
        config: SalmonnConfig,
        speech_encoder: SalmonnSpeechEncoder | None,
        speech_layer_norm: nn.LayerNorm | None,
        beats: nn.Module | None,
        beats_layer_norm: nn.LayerNorm | None,
    ):
        super().__init__()
        self.config = config
        self.speech_encoder = speech_encoder
        self.speech_layer_norm = speech_layer_norm
        self.beats = beats
        self.beats_layer_norm = beats_layer_norm

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutput:
        """
        `input_features`: `(segments, mel_bins + fbank_bins, columns)`, see [`~SalmonnModel.get_audio_features`].

        Returns a [`BaseModelOutput`]: `last_hidden_state` is the joint stream `(segments, frames, encoder_width)`, zero
        beyond the end of a segment; `hidden_states` and `attentions` are the speech encoder's, or those of BEATs alone.
        """
        is_real = self.find_real_frames(input_features, input_features_mask)
        lengths = self.find_lengths(is_real.sum(-1))
        real_frames = None
        if not torch.compiler.is_compiling():
            real_frames = _REAL_FRAMES.get() or is_real.sum(-1).tolist()
        speech_output, beats_output = self._run_encoders(input_features, is_real, real_frames, **kwargs)

        streams, num_frames = [], self.config.count_frames(is_real.shape[1])
        if speech_output is not None:
            norm = self.speech_layer_norm
            streams.append(norm(speech_output.last_hidden_state.to(norm.weight.dtype)))
            num_frames = streams[0].shape[1]
        if beats_output is not None:
            states = self._fit_beats(beats_output.last_hidden_state, is_real, num_frames)
            streams.append(states.to(streams[0]) if streams else states)
        stream = torch.cat(streams, dim=-1)
        # CODEPATH: Seg-QF (2309.13963, section 2.3) tells the connector which part of a long clip it reads
        if self.config.segment_position_embeddings:
            places = torch.zeros_like(is_real[:, 0], dtype=torch.long) if segment_ids is None else segment_ids
            stream = stream + self.segment_positions(places, stream)
        if lengths is not None:
            stream = stream * length_mask(lengths, stream.shape[1])[..., None].to(stream.device)
        first = beats_output if speech_output is None else speech_output
        return BaseModelOutput(
            last_hidden_state=stream, hidden_states=first.hidden_states, attentions=first.attentions
        )

    def _run_encoders(
        self, input_features: torch.Tensor, is_real: torch.BoolTensor, real_frames: list[int] | None, **kwargs
    ) -> tuple[BaseModelOutput | None, BaseModelOutput | None]:
        """
        The speech encoder's output, `(segments, frames, d_speech)`, and BEATs', `(segments, tokens, d_beats)` as far as
        the longest segment reaches; `None` for the one that is not there. Frozen encoders run without gradients.
        """
        mel_bins = self.config.num_mel_bins
        mel, fbank = input_features[:, :mel_bins], input_features[:, mel_bins:].transpose(1, 2)
        speech_output = beats_output = None
        if self.speech_encoder is not None:
            lengths, num_frames = self.find_lengths(is_real.sum(-1)), mel.shape[-1] // 2
            if real_frames is not None and self.config.count_frames(min(real_frames) + 2) >= num_frames:
                lengths = None  # no segment is padded
            with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(self.speech_encoder)):
                speech_output = self.speech_encoder(
                    mel.to(self.speech_encoder.conv1.weight.dtype),
                    attention_mask=None if lengths is None else length_mask(lengths, num_frames),
                    return_dict=True,
                    **kwargs,
                )
        if self.beats is not None:
            longest = is_real.shape[1]
            if self.speech_encoder is None:
                longest -= 2  # columns that no segment has a filter bank frame for
            elif real_frames is not None:
                # BEATs, unlike Whisper, need not hear 30 s: stop where the longest clip does
                longest = max(*real_frames, self.config.beats_config.patch_size)
            fbank, is_real = fbank[:, :longest], is_real[:, :longest]
            kwargs = kwargs if self.speech_encoder is None else {}  # only the first encoder's layers are asked for
            with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(self.beats)):
                beats_output = self.beats(fbank, attention_mask=is_real, return_dict=True, **kwargs)
        return speech_output, beats_output

    def _fit_beats(self, beats_states: torch.Tensor, is_real: torch.BoolTensor, num_frames: int) -> torch.Tensor:
        """`(segments, tokens, d_beats)` -> `(segments, num_frames, d_beats)`, normed, and zero where there is padding."""
        num_tokens = beats_states.shape[1]
        beats_states = self.beats_layer_norm(beats_states.to(self.beats_layer_norm.weight.dtype))
        token_mask = self.beats._get_feature_vector_attention_mask(is_real)
        token_mask = nn.functional.pad(token_mask, (0, num_tokens - token_mask.shape[1]))  # cuts if negative
        # masked after the norm: padding is 0, not the bias of the norm
        beats_states = beats_states * token_mask[..., None].to(beats_states.device)
        return nn.functional.pad(beats_states, (0, 0, 0, num_frames - num_tokens))

    def find_real_frames(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None
    ) -> torch.BoolTensor:
        """Which filter bank frames are real, `(segments, columns)`. Without a mask, padding is what is 0 in every bin."""
        if input_features_mask is not None:
            return input_features_mask != 0
        if self.beats is None:  # no filter banks to tell padding by; a whole segment has two frames less than columns
            columns = torch.arange(input_features.shape[2], device=input_features.device)
            return columns.expand(input_features.shape[0], -1) >= 2
        return (input_features[:, self.config.num_mel_bins :] != 0).any(1)

    def find_lengths(self, real_frames: torch.Tensor) -> torch.LongTensor | None:
        """Encoder frames of segments of so many real filter bank frames, `(segments,)`, or `None` if all are whole."""
        # CODEPATH: the released models, for which every segment is whole
        if self.config.fixed_length:
            return None
        return self.config.count_frames(real_frames + 2)  # a segment has two filter bank frames less than columns

    def count_audio_tokens(self, real_frames: list[int], num_columns: int) -> list[int]:
        """Audio tokens of segments of so many real filter bank frames, in features of `num_columns`."""
        columns = [num_columns if self.config.fixed_length else frames + 2 for frames in real_frames]
        return [self.config.num_audio_tokens(self.config.count_frames(number)) for number in columns]

    @staticmethod
    def segment_positions(segment_ids: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Sinusoid of the segment's place in its clip: `(segments, 1, encoder_width)`."""
        index = segment_ids.to(hidden_states.device, torch.float32)
        # frequencies of 1 to 1/10,000, as in Whisper
        angles = index[:, None] * torch.logspace(0, -4, hidden_states.shape[-1] // 2, device=index.device)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None].to(hidden_states.dtype)

    def pack_features(
        self, mel_features: torch.Tensor | None, fbank_features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The inputs of the encoders, `(segments, mel_bins, columns)` and `(segments, frames, fbank_bins)`, as the one
        tensor `input_features`. Filter banks that end before the segment does are padded with zeros.
        """
        given = mel_features is not None, fbank_features is not None
        if given != (self.speech_encoder is not None, self.beats is not None):
            raise ValueError(
                "Audio is either `input_features`, or `mel_features` with `fbank_features`, each where the model has its "
                f"encoder, got mel_features={given[0]} and fbank_features={given[1]}."
            )
        if fbank_features is None:
            return mel_features
        columns = self.config.segment_columns
        if mel_features is not None:
            columns = mel_features.shape[-1]
        elif not self.config.fixed_length:
            columns = min((fbank_features.shape[1] + 3) // 2 * 2, columns)
        missing = columns - fbank_features.shape[1]
        segments = fbank_features.shape[0] if mel_features is None else mel_features.shape[0]
        if fbank_features.shape[0] != segments or missing < 0:
            beside = f"at most {columns} frames" if mel_features is None else f"{tuple(mel_features.shape)}"
            raise ValueError(
                "`fbank_features` must have the segments of `mel_features` and no more frames than a segment, got "
                f"{tuple(fbank_features.shape)} and {beside}."
            )
        fbank_features = nn.functional.pad(fbank_features, (0, 0, 0, missing)).transpose(1, 2)
        if mel_features is None:
            return fbank_features
        return torch.cat([mel_features, fbank_features.to(mel_features)], dim=1)

    def plan_passes(self, real_frames: list[int], device: torch.device) -> list[list[int]]:
        """
        Which segments are read at once, of so many real frames: at most `config.max_segments_at_once`, those of like lengths
        together. A CPU works on padding as long as on audio and reads few at once for that; elsewhere many at once are best.
        """
        at_once = self.config.max_segments_at_once
        least_share = LEAST_SHARE_OF_AUDIO if device.type == "cpu" else 0.0
        passes: list[list[int]] = []
        for row in sorted(range(len(real_frames)), key=real_frames.__getitem__, reverse=True):
            is_like = bool(passes) and real_frames[row] >= least_share * real_frames[passes[-1][0]]
            if is_like and len(passes[-1]) < at_once:
                passes[-1].append(row)
            else:
                passes.append([row])
        return [sorted(rows) for rows in passes]

    def cut_padding(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None, real_frames: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features and mask as far as the longest segment reaches."""
        # CODEPATH: the released models, for which every segment is whole
        if self.config.fixed_length:
            return input_features, input_features_mask
        columns = max(real_frames) // 2 * 2 + 2
        return input_features[..., :columns], None if input_features_mask is None else input_features_mask[:, :columns]

    def check_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None = None,
    ) -> list[int] | None:
        """
        Raises a `ValueError` or `TypeError` that names what is wrong with the features of clips. Returns the real filter
        bank frames of each segment, or `None` in a program that is being compiled.
        """
        mel_bins, fbank_bins = self.config.num_mel_bins, self.config.num_fbank_bins
        rows, columns = mel_bins + fbank_bins, self.config.segment_columns
        if not isinstance(input_features, torch.Tensor):
            raise TypeError(f"`input_features` must be a tensor, got {type(input_features).__name__}.")
        # shapes rather than lengths below: `len` would fix the number of segments in an exported model
        if input_features.ndim != 3 or input_features.shape[1] != rows or input_features.shape[0] == 0:
            raise ValueError(
                f"`input_features` must have shape (segments, {rows} rows, frames): {mel_bins} of log-mel and "
                f"{fbank_bins} of filter banks, got {tuple(input_features.shape)}."
            )
        found = input_features.shape[2]
        # CODEPATH: the released models, for which every segment is whole
        if self.config.fixed_length and found != columns:
            raise ValueError(f"`input_features` must have {columns} frames, got {found}.")
        if found % 2 or not 0 < found <= columns:
            raise ValueError(f"`input_features` must have an even number of at most {columns} frames, got {found}.")
        self._check_segments(input_features.shape[0], found, input_features_mask, segment_ids)
        if torch.compiler.is_compiling():
            return None
        real_frames = self._check_values(input_features, input_features_mask)
        # BEATs alone makes nothing of less than a patch
        if self.speech_encoder is None and min(real_frames) < self.config.beats_config.patch_size:
            raise ValueError(
                f"`input_features` must have at least {self.config.beats_config.patch_size} real frames in every "
                f"segment, got {min(real_frames)}."
            )
        return real_frames

    def _check_values(self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None) -> list[int]:
        """As `check_features`: all that waits for the device, at once."""
        frames = self.find_real_frames(input_features, input_features_mask).sum(-1)
        highest = frames.new_ones(1) if input_features_mask is None else input_features_mask.max().long()[None]
        is_finite = input_features.isfinite().all().long()[None]
        *real_frames, highest, is_finite = torch.cat([frames, highest, is_finite]).tolist()
        if not is_finite:
            raise ValueError("`input_features` must be finite, got NaN or inf.")
        if input_features_mask is not None and min(real_frames) == 0:
            raise ValueError("`input_features_mask` must mark real frames in every segment, got one of padding only.")
        if highest > 1:
            raise ValueError(
                f"`input_features_mask` must hold 0 and 1, got {highest}: the places of segments in their clips are "
                "`segment_ids`."
            )
        return real_frames

    @staticmethod
    def _check_segments(segments: int, columns: int, input_features_mask, segment_ids):
        """Checks what comes with `input_features` of shape `(segments, rows, columns)`."""
        if segment_ids is not None and segment_ids.shape != (segments,):
            raise ValueError(
                f"`segment_ids` must have shape (segments,) = ({segments},) to go with `input_features`, got "
                f"{tuple(segment_ids.shape)}. Pipelines batch the first segment of a clip only: chats about longer clips need "
                "`batch_size=1`."
            )
        if input_features_mask is not None and input_features_mask.shape != (segments, columns):
            raise ValueError(
                f"`input_features_mask` must have shape (segments, frames) = {(segments, columns)} to go with "
                f"`input_features`, got {tuple(input_features_mask.shape)}."
            )


def is_trained(module: nn.Module) -> bool:
    """Whether any parameter of `module` is."""
    return any(parameter.requires_grad for parameter in module.parameters())


def length_mask(lengths: torch.Tensor, num_frames: int) -> torch.BoolTensor:
    """Which frames, or windows, of a segment are within its length: `(segments,)` -> `(segments, num_frames)`."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]
