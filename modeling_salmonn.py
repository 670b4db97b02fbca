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
SALMONN: Whisper and BEATs hear a clip, a connector turns windows of their joint stream into LLM embeddings, and an
LLM, with LoRA on its attention, answers (arXiv 2310.13289 and 2309.13963).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    ModelOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.processing_utils import Unpack
from transformers.utils import (
    TransformersKwargs,
    auto_docstring,
    can_return_tuple,
    torch_compilable_check,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


try:
    from transformers.modeling_utils import slice_logits_to_keep
except ImportError:  # before 5.21, with which engines come that pin Transformers

    def slice_logits_to_keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return hidden_states[:, kept, :]


try:
    from .adapter_salmonn import SalmonnAdapterMixin
    from .configuration_salmonn import SalmonnConfig, count_windows
    from .connectors_salmonn import CONNECTORS, SalmonnQFormerConnector
    from .generation_salmonn import SalmonnGenerationMixin
    from .modeling_beats import BeatsModel
except ImportError:
    from adapter_salmonn import SalmonnAdapterMixin
    from configuration_salmonn import SalmonnConfig, count_windows
    from connectors_salmonn import CONNECTORS, SalmonnQFormerConnector
    from generation_salmonn import SalmonnGenerationMixin
    from modeling_beats import BeatsModel


# The placeholder is an input only. So low a score has no probability in any dtype and at any temperature, and yet its
# logarithm is finite, as label smoothing needs it.
PLACEHOLDER_SCORE = -1e4

AUDIO_ARGS = r"""
input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`, *optional*):
    Whisper's log-mel rows, then BEATs' filter bank rows, 100 frames a second.
input_features_mask (`torch.Tensor` of shape `(segments, frames)`, *optional*):
    1 for the filter bank frames that are real, 0 for padding.
segment_ids (`torch.LongTensor` of shape `(segments,)`, *optional*):
    Place of each segment in its clip, from 0. Left out, each segment is a clip.
mel_features (`torch.Tensor` of shape `(segments, mel_bins, frames)`, *optional*):
    Whisper's input by itself, with `fbank_features` in place of `input_features`.
fbank_features (`torch.Tensor` of shape `(segments, frames, fbank_bins)`, *optional*):
    BEATs' input by itself, with `mel_features` in place of `input_features`; frames beyond its end are padding.
"""
AUDIO_EMBEDS_ARGS = r"""
audio_embeds (`torch.Tensor` of shape `(total_audio_tokens, hidden_size)`, *optional*):
    `pooler_output` of [`~SalmonnModel.get_audio_features`], to ask again about clips that are encoded already.
mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*):
    Output of [`~SalmonnModel.get_audio_features`] by the name of "audio", as `generate` hands it on.
"""


@auto_docstring(
    custom_intro="""
    Base class for SALMONN outputs, with hidden states of the LLM.
    """
)
@dataclass
class SalmonnModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    audio_hidden_states (`torch.Tensor` of shape `(total_audio_tokens, hidden_size)`, *optional*):
        Embeddings of the clips, as they stand in the prompt. Can be passed back in as `audio_embeds`.
    """

    audio_hidden_states: torch.Tensor | None = None


@auto_docstring(
    custom_intro="""
    Base class for SALMONN causal language model outputs.
    """
)
@dataclass
class SalmonnCausalLMOutputWithPast(ModelOutput):
    r"""
    loss (`torch.Tensor` of shape `(1,)`, *optional*, returned when `labels` is provided):
        Mean cross entropy of the next token over all labels that are not -100.
    logits (`torch.Tensor` of shape `(batch_size, sequence_length, vocab_size)`):
        Scores of the next token, -1e4 for the audio placeholder, which is an input only.
    past_key_values (`Cache`, *optional*, returned when `use_cache=True` is passed or when `config.use_cache=True`):
        Keys and values of the LLM, to speed up generation.
    audio_hidden_states (`torch.Tensor` of shape `(total_audio_tokens, hidden_size)`, *optional*):
        Embeddings of the clips, as they stand in the prompt. Can be passed back in as `audio_embeds`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor] | None = None
    attentions: tuple[torch.Tensor] | None = None
    audio_hidden_states: torch.Tensor | None = None


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
        """`input_features`: `(segments, mel_bins, 2 * frames)`; `attention_mask`: `(segments, frames)`, 1 is real."""
        hidden_states = nn.functional.gelu(self.conv1(input_features))
        hidden_states = nn.functional.gelu(self.conv2(hidden_states)).transpose(1, 2)  # (segments, frames, d_speech)
        positions = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        hidden_states = hidden_states + self.embed_positions(positions)
        hidden_states = nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)
        if attention_mask is not None:
            attention_mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
            )
        for layer in self.layers:
            if self.training and torch.rand([]) < self.layerdrop:
                continue
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden_states))


@auto_docstring(
    custom_intro="""
    An abstract class to handle weights initialisation and a simple interface for loading SALMONN models.
    """
)
class SalmonnPreTrainedModel(SalmonnAdapterMixin, PreTrainedModel):
    config: SalmonnConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["SalmonnQFormerConnector", "SalmonnLinearConnector", "SalmonnCrossAttentionConnector"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = False  # BEATs adds a position bias to its scores, and `blip_2_qformer` has none either
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keys_to_ignore_on_load_unexpected = [r"\.base_fingerprint$"]  # a record that checkpoints once held

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, SalmonnQFormerConnector):
            init.normal_(module.query_tokens, mean=0.0, std=self.config.initializer_range)

    def freeze_encoders(self):
        """
        Freezes both encoders. An encoder without any parameter that is trained always runs in eval mode, without dropout
        and LayerDrop, and without gradients. Returns the model.
        """
        for encoder in self.base_model.encoders:
            encoder.requires_grad_(False)
        return self.train(self.training)

    def save_pretrained(self, save_directory, *args, **kwargs):
        # a class registers for one Auto class only; a checkpoint should load through all that fit
        self.config.auto_map = {
            "AutoConfig": "configuration_salmonn.SalmonnConfig",
            "AutoModel": "modeling_salmonn.SalmonnModel",
            "AutoModelForMultimodalLM": "modeling_salmonn.SalmonnForConditionalGeneration",
            "AutoModelForSpeechSeq2Seq": "modeling_salmonn.SalmonnForConditionalGeneration",
        }
        return super().save_pretrained(save_directory, *args, **kwargs)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _concatenate(outputs: list[torch.Tensor] | list[tuple[torch.Tensor]]) -> torch.Tensor | tuple[torch.Tensor]:
    """An output of several batches, or several of each (hidden states of all layers)."""
    if isinstance(outputs[0], torch.Tensor):
        return torch.cat(outputs)
    return tuple(torch.cat(layer) for layer in zip(*outputs))


@auto_docstring(
    custom_intro="""
    The SALMONN model: speech encoder, BEATs, connector and LLM, without a language modeling head.
    """
)
class SalmonnModel(SalmonnPreTrainedModel):
    def __init__(self, config: SalmonnConfig):
        super().__init__(config)
        self.speech_encoder = SalmonnSpeechEncoder(config.speech_config)
        self.speech_layer_norm = nn.LayerNorm(config.speech_config.d_model)
        # CODEPATH: speech-only models (2309.13963) have no BEATs
        self.beats = None if config.beats_config is None else BeatsModel(config.beats_config)
        self.beats_layer_norm = None if self.beats is None else nn.LayerNorm(config.beats_config.hidden_size)
        # one dtype for the whole model, whatever the LLM's own configuration says of its files
        self.language_model = AutoModel.from_config(config.text_config, dtype=torch.get_default_dtype())
        self.connector = CONNECTORS[config.connector_type](config)
        self.post_init()

    @property
    def encoders(self) -> list[PreTrainedModel]:
        """The speech encoder and, if there is one, BEATs."""
        return [self.speech_encoder] if self.beats is None else [self.speech_encoder, self.beats]

    def train(self, mode: bool = True):
        super().train(mode)
        for encoder in self.encoders:
            if not _is_trained(encoder):
                encoder.eval()
        return self

    def _encode(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None,
        **kwargs,
    ) -> tuple[BaseModelOutput, torch.Tensor, torch.Tensor | None]:
        """
        Returns the speech encoder's output, the joint stream `(segments, frames, encoder_width)`, zero beyond the end
        of a segment, and the number of frames of each segment `(segments,)`, or `None` if all are whole.
        """
        is_real = self._find_real_frames(input_features, input_features_mask)
        # CODEPATH: the released models, for which every segment is whole
        lengths = None if self.config.fixed_length else self._count_frames(is_real)
        speech_output, beats_states = self._run_encoders(input_features, is_real, lengths, **kwargs)

        stream = self.speech_layer_norm(speech_output.last_hidden_state.to(self.speech_layer_norm.weight.dtype))
        if beats_states is not None:
            stream = torch.cat([stream, self._fit_beats(beats_states, is_real, stream)], dim=-1)
        # CODEPATH: Seg-QF (2309.13963, section 2.3) tells the connector which part of a long clip it reads
        if self.config.segment_position_embeddings:
            places = torch.zeros_like(is_real[:, 0], dtype=torch.long) if segment_ids is None else segment_ids
            stream = stream + self._segment_positions(places, stream)
        if lengths is not None:
            stream = stream * self._length_mask(lengths, stream.shape[1])[..., None].to(stream.device)
        return speech_output, stream, lengths

    def _run_encoders(
        self, input_features: torch.Tensor, is_real: torch.BoolTensor, lengths: torch.Tensor | None, **kwargs
    ) -> tuple[BaseModelOutput, torch.Tensor | None]:
        """
        The speech encoder's output, `(segments, frames, d_speech)`, and BEATs' last hidden state, `(segments, tokens,
        d_beats)`, as far as the longest segment reaches. Frozen encoders run without gradients.
        """
        mel_bins = self.config.speech_config.num_mel_bins
        mel, fbank = input_features[:, :mel_bins], input_features[:, mel_bins:].transpose(1, 2)
        with torch.set_grad_enabled(torch.is_grad_enabled() and _is_trained(self.speech_encoder)):
            speech_output = self.speech_encoder(
                mel.to(self.speech_encoder.conv1.weight.dtype),
                attention_mask=None if lengths is None else self._length_mask(lengths, mel.shape[-1] // 2),
                return_dict=True,
                **kwargs,
            )
        if self.beats is None:
            return speech_output, None
        if not torch.compiler.is_compiling():
            # BEATs, unlike Whisper, need not hear 30 s: stop where the longest clip does
            longest = max(int(is_real.any(0).nonzero().max()) + 1, self.config.beats_config.patch_size)
            fbank, is_real = fbank[:, :longest], is_real[:, :longest]
        with torch.set_grad_enabled(torch.is_grad_enabled() and _is_trained(self.beats)):
            return speech_output, self.beats(fbank, attention_mask=is_real, return_dict=True).last_hidden_state

    def _fit_beats(self, beats_states: torch.Tensor, is_real: torch.BoolTensor, stream: torch.Tensor) -> torch.Tensor:
        """`(segments, tokens, d_beats)` -> `(segments, frames, d_beats)` to stand beside `stream`, zero where padded."""
        num_tokens = beats_states.shape[1]
        beats_states = self.beats_layer_norm(beats_states.to(self.beats_layer_norm.weight.dtype))
        token_mask = self.beats._get_feature_vector_attention_mask(is_real)
        token_mask = nn.functional.pad(token_mask, (0, num_tokens - token_mask.shape[1]))  # cuts if negative
        # masked after the norm: padding is 0, not the bias of the norm
        beats_states = beats_states * token_mask[..., None].to(beats_states.device)
        return nn.functional.pad(beats_states, (0, 0, 0, stream.shape[1] - num_tokens)).to(stream)

    @staticmethod
    def _length_mask(lengths: torch.Tensor, num_frames: int) -> torch.BoolTensor:
        """Which frames, or windows, of a segment are within its length: `(segments,)` -> `(segments, num_frames)`."""
        return torch.arange(num_frames, device=lengths.device) < lengths[:, None]

    def _find_real_frames(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None
    ) -> torch.BoolTensor:
        """Which filter bank frames are real, `(segments, frames)`. Without a mask, padding is what is 0 in every bin."""
        if input_features_mask is not None:
            return input_features_mask != 0
        fbank = input_features[:, self.config.speech_config.num_mel_bins :]
        if self.beats is None:  # no filter banks to tell padding by; a whole segment has two frames less than columns
            return torch.arange(input_features.shape[2], device=fbank.device).expand(fbank.shape[0], -1) >= 2
        return (fbank != 0).any(1)

    def _count_frames(self, is_real: torch.BoolTensor) -> torch.LongTensor:
        """Encoder frames of each segment, `(segments,)`: n frames of 20 ms hold 2n - 2 filter bank frames."""
        # CODEPATH: the released models, for which every segment is whole
        if self.config.fixed_length:
            return torch.full_like(is_real[:, 0], is_real.shape[1] // 2, dtype=torch.long)
        return is_real.sum(-1) // 2 + 1

    @staticmethod
    def _segment_positions(segment_ids: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Sinusoid of the segment's place in its clip: `(segments, 1, encoder_width)`."""
        index = segment_ids.to(hidden_states.device, torch.float32)
        # frequencies of 1 to 1/10,000, as in Whisper
        angles = index[:, None] * torch.logspace(0, -4, hidden_states.shape[-1] // 2, device=index.device)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None].to(hidden_states.dtype)

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes clips to embeddings for the LLM. Needs no prompt, so a clip can be encoded once and asked often.",
        custom_args=AUDIO_ARGS,
    )
    def get_audio_features(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        mel_features: torch.Tensor | None = None,
        fbank_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        Returns:
            [`BaseModelOutputWithPooling`]: `pooler_output` of shape `(total_audio_tokens, hidden_size)` is what stands
            in the prompt; `last_hidden_state` of shape `(segments, frames, encoder_width)` is the joint stream;
            `hidden_states` and `attentions` are the speech encoder's.
        """
        if input_features is None:
            input_features = self.pack_features(mel_features, fbank_features)
        elif mel_features is not None or fbank_features is not None:
            raise ValueError(
                "`input_features` hold `mel_features` and `fbank_features`: only one of both can be given."
            )
        input_features, input_features_mask, segment_ids = self.split_clips(
            input_features, input_features_mask, segment_ids
        )
        self._check_features(input_features, input_features_mask, segment_ids)
        # CODEPATH: models trained on the real length of their clips hear nothing beyond the longest segment's
        if not self.config.fixed_length and not torch.compiler.is_compiling():
            frames = self._count_frames(self._find_real_frames(input_features, input_features_mask))
            longest = 2 * int(frames.max())
            input_features = input_features[..., :longest]
            input_features_mask = None if input_features_mask is None else input_features_mask[:, :longest]
        at_once = self.config.max_segments_at_once
        inputs = (input_features, input_features_mask, segment_ids)
        if torch.compiler.is_compiling() or len(input_features) <= at_once:
            return self._connect(*self._encode(*inputs, **kwargs))
        parts = [
            self._connect(
                *self._encode(*(None if x is None else x[start : start + at_once] for x in inputs), **kwargs)
            )
            for start in range(0, len(input_features), at_once)
        ]
        return BaseModelOutputWithPooling(**{name: _concatenate([part[name] for part in parts]) for name in parts[0]})

    def split_clips(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | list[torch.Tensor] | None = None,
        segment_ids: torch.LongTensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.LongTensor | None]:
        """
        The segments of clips that come a row each, as pipelines and inference engines carry them: features `(clips,
        frames, rows)` and mask `(clips, frames)`, the segments of a clip one behind the other, and segments of padding on
        either side. Returns features `(segments, rows, frames)`, mask `(segments, frames)` and the place of each segment in
        its clip, `(segments,)`. What comes as segments is returned as it is.
        """
        if isinstance(input_features_mask, (list, tuple)):  # of engines, whose clips differ in length
            input_features_mask = torch.stack(list(input_features_mask))
        whole = 2 * self.config.speech_config.max_source_positions
        is_joint = (
            isinstance(input_features, torch.Tensor)
            and input_features_mask is not None
            and segment_ids is None
            and input_features.shape[:2] == input_features_mask.shape
            and input_features.shape[1] % whole == 0
        )
        if not is_joint:
            return input_features, input_features_mask, segment_ids
        features = input_features.unflatten(1, (-1, whole)).transpose(2, 3)  # (clips, segments, rows, frames)
        mask = input_features_mask.unflatten(1, (-1, whole))
        exists = (mask != 0).any(-1)  # the rest pads a clip to the longest of its batch
        exists[:, 0] |= ~exists.any(1)
        places = exists.cumsum(1) - 1
        return features[exists], mask[exists], places[exists]

    def pack_features(self, mel_features: torch.Tensor, fbank_features: torch.Tensor | None = None) -> torch.Tensor:
        """
        The inputs of both encoders, `(segments, mel_bins, frames)` and `(segments, frames, fbank_bins)`, as the one
        tensor `input_features`. Filter banks that end before the log-mel frames do are padded with zeros.
        """
        if mel_features is None or (fbank_features is None) != (self.beats is None):
            raise ValueError(
                "Audio is either `input_features`, or `mel_features` with `fbank_features` where the model has BEATs, got "
                f"mel_features={mel_features is not None} and fbank_features={fbank_features is not None}."
            )
        if fbank_features is None:
            return mel_features
        missing = mel_features.shape[-1] - fbank_features.shape[1]
        if len(fbank_features) != len(mel_features) or missing < 0:
            shapes = f"{tuple(fbank_features.shape)} and {tuple(mel_features.shape)}"
            raise ValueError(
                f"`fbank_features` must have the segments of `mel_features` and no more frames, got {shapes}."
            )
        fbank_features = nn.functional.pad(fbank_features, (0, 0, 0, missing)).transpose(1, 2)
        return torch.cat([mel_features, fbank_features.to(mel_features)], dim=1)

    def _connect(
        self, speech_output: BaseModelOutput, stream: torch.Tensor, lengths: torch.Tensor | None
    ) -> BaseModelOutputWithPooling:
        """Reads the joint stream window by window: what [`~SalmonnModel.get_audio_features`] returns."""
        window, stride = self.config.window_frames, self.config.stride_frames
        num_frames = stream.shape[1]
        beside = {}  # what the connector reads beside its windows
        # CODEPATH: the Q-Former of 2309.13963 reads each segment as one window
        if window is None:
            windows = stream
            if lengths is not None:
                beside["attention_mask"] = self._length_mask(lengths, num_frames)
        else:
            num_windows = count_windows(num_frames, window, stride, self.config.pad_last_window)
            padding = max(window + (num_windows - 1) * stride - num_frames, 0)
            windows = nn.functional.pad(stream, (0, 0, 0, padding)).unfold(1, window, stride)
            windows = windows.transpose(2, 3)  # (segments, windows, window, encoder_width)
            # CODEPATH: models trained on the real length of their clips
            if lengths is None:
                windows = windows.flatten(0, 1)
            else:
                counts = count_windows(lengths, window, stride, self.config.pad_last_window)
                windows = windows[self._length_mask(counts, num_windows).to(windows.device)]
        # CODEPATH: this connector attends to the LLM's embeddings, which only their module can read when offloaded
        if self.config.connector_type == "cross_attention":
            ids = torch.arange(self.config.text_config.vocab_size, device=windows.device)
            beside["text_embeddings"] = self.get_input_embeddings()(ids)
        # a selection keeps the order of axes in memory, with which linear layers are slow
        audio_embeds = self.connector(windows.contiguous(), **beside)
        return BaseModelOutputWithPooling(
            last_hidden_state=stream,
            pooler_output=audio_embeds.flatten(0, 1),  # window by window, the queries of a window side by side
            hidden_states=speech_output.hidden_states,
            attentions=speech_output.attentions,
        )

    def _check_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None = None,
    ):
        speech_config, beats_config = self.config.speech_config, self.config.beats_config
        rows = speech_config.num_mel_bins + (0 if beats_config is None else beats_config.num_mel_bins)
        frames = 2 * speech_config.max_source_positions
        if not isinstance(input_features, torch.Tensor):
            raise TypeError(f"`input_features` must be a tensor, got {type(input_features).__name__}.")
        # shapes rather than lengths below: `len` would fix the number of segments in an exported model
        if input_features.ndim != 3 or input_features.shape[1] != rows or input_features.shape[0] == 0:
            raise ValueError(
                f"`input_features` must have shape (segments, {rows} rows, frames): {speech_config.num_mel_bins} of "
                f"log-mel and {rows - speech_config.num_mel_bins} of filter banks, got {tuple(input_features.shape)}."
            )
        found = input_features.shape[2]
        # CODEPATH: the released models, for which every segment is whole
        if self.config.fixed_length and found != frames:
            raise ValueError(f"`input_features` must have {frames} frames, got {found}.")
        if found % 2 or not 0 < found <= frames:
            raise ValueError(f"`input_features` must have an even number of at most {frames} frames, got {found}.")
        if not torch.compiler.is_compiling() and not input_features.isfinite().all():
            raise ValueError("`input_features` must be finite, got NaN or inf.")
        self._check_segments(input_features.shape[0], found, input_features_mask, segment_ids)

    @staticmethod
    def _check_segments(segments: int, frames: int, input_features_mask, segment_ids):
        """Checks what comes with `input_features` of shape `(segments, rows, frames)`."""
        if segment_ids is not None and segment_ids.shape != (segments,):
            raise ValueError(
                f"`segment_ids` must have shape (segments,) = ({segments},) to go with `input_features`, got "
                f"{tuple(segment_ids.shape)}. Pipelines batch the first segment of a clip only: chats about longer clips need "
                "`batch_size=1`."
            )
        if input_features_mask is None:
            return
        if input_features_mask.shape != (segments, frames):
            raise ValueError(
                f"`input_features_mask` must have shape (segments, frames) = {(segments, frames)} to go with "
                f"`input_features`, got {tuple(input_features_mask.shape)}."
            )
        if torch.compiler.is_compiling():
            return
        if not (input_features_mask != 0).any(-1).all():
            raise ValueError("`input_features_mask` must mark real frames in every segment, got one of padding only.")
        if input_features_mask.max() > 1:
            raise ValueError(
                f"`input_features_mask` must hold 0 and 1, got {int(input_features_mask.max())}: the places of "
                "segments in their clips are `segment_ids`."
            )

    def find_placeholders(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.BoolTensor:
        """
        Where audio goes in the prompt, `(batch_size, sequence_length)`: by id, or by embedding without ids. If that is
        zero, as rows that pad embeddings are, what `attention_mask` leaves out is no placeholder.
        """
        if input_ids is not None and input_ids.numel() > 0:
            return input_ids == self.config.audio_token_id
        audio_token = torch.full((), self.config.audio_token_id, dtype=torch.long, device=inputs_embeds.device)
        placeholder = self.get_input_embeddings()(audio_token)
        mask = (inputs_embeds == placeholder).all(-1)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            mask = mask & (placeholder.any() | (attention_mask[:, -mask.shape[1] :] != 0))
        return mask

    def get_placeholder_mask(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor,
        audio_features: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.BoolTensor:
        """
        Mask of the audio placeholders, expanded to the shape of `inputs_embeds`. Raises a `ValueError` if there are not
        as many as rows in `audio_features`, or if there are any and `audio_features` is `None`.
        """
        mask = self.find_placeholders(input_ids, inputs_embeds, attention_mask)
        self.check_placeholders(mask.sum(), 0 if audio_features is None else audio_features.shape[0])
        return mask.unsqueeze(-1).expand_as(inputs_embeds)

    @staticmethod
    def check_placeholders(placeholders: torch.Tensor, audio_tokens: int):
        """Raises a `ValueError` if there is not one placeholder for each audio token."""
        torch_compilable_check(
            placeholders == audio_tokens,
            f"The prompt must hold one placeholder for each audio token, got {placeholders} placeholders for "
            f"{audio_tokens} audio tokens. Give the clips that it is about, prepared by the model's own processor.",
        )

    @can_return_tuple
    @auto_docstring(custom_args=AUDIO_ARGS + AUDIO_EMBEDS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        mel_features: torch.Tensor | None = None,
        fbank_features: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SalmonnModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Exactly one of `input_ids` and `inputs_embeds` must be given.")
        has_features = input_features is not None or mel_features is not None or fbank_features is not None
        if has_features and audio_embeds is not None:
            raise ValueError("At most one of `input_features` and `audio_embeds` can be given, got both.")

        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if has_features:
            audio = (input_features, input_features_mask, segment_ids, mel_features, fbank_features)
            audio_embeds = self.get_audio_features(*audio, return_dict=True).pooler_output
        elif mm_encoder_outputs:
            audio_embeds = mm_encoder_outputs["audio"].pooler_output.flatten(0, -2)
        # The head refuses prompts without their audio. Trainers with a loss of their own, as TRL has one, leave it out.
        if audio_embeds is not None or (self.training and input_ids is not None):
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, audio_embeds, attention_mask)
        if audio_embeds is not None:
            width = inputs_embeds.shape[-1]
            if audio_embeds.shape[-1] != width:
                raise ValueError(f"`audio_embeds` must have the LLM's width of {width}, got {audio_embeds.shape[-1]}.")
            audio_embeds = audio_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
            inputs_embeds = inputs_embeds.masked_scatter(mask, audio_embeds)

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return SalmonnModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            audio_hidden_states=audio_embeds,
        )


@auto_docstring(
    custom_intro="""
    The SALMONN model with a language modeling head: answers questions about speech, sounds and music.
    """
)
class SalmonnForConditionalGeneration(SalmonnPreTrainedModel, SalmonnGenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: SalmonnConfig):
        super().__init__(config)
        self.model = SalmonnModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # not every LLM calls its embeddings `embed_tokens`
        embeddings = next(name for name, m in self.named_modules() if m is self.model.get_input_embeddings())
        self._tied_weights_keys = {"lm_head.weight": f"{embeddings}.weight"}
        self.post_init()

    @auto_docstring(custom_intro="Encodes clips to embeddings for the LLM.", custom_args=AUDIO_ARGS)
    def get_audio_features(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        return self.model.get_audio_features(input_features, input_features_mask, segment_ids, **kwargs)

    @can_return_tuple
    @auto_docstring(custom_args=AUDIO_ARGS + AUDIO_EMBEDS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        mel_features: torch.Tensor | None = None,
        fbank_features: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SalmonnCausalLMOutputWithPast:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Tokens to predict, -100 where none is: the processor makes them with `output_labels=True`. Audio placeholders
            are never predicted.

        Example:

        ```python
        >>> from transformers import AutoModelForMultimodalLM, AutoProcessor

        >>> processor = AutoProcessor.from_pretrained("path/to/salmonn", trust_remote_code=True)
        >>> model = AutoModelForMultimodalLM.from_pretrained("path/to/salmonn", trust_remote_code=True)
        >>> content = [{"type": "audio", "path": "clip.wav"}, {"type": "text", "text": "What do you hear?"}]
        >>> inputs = processor.apply_chat_template(
        ...     [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        ... )
        >>> output = model.generate(**inputs, max_new_tokens=100)
        >>> processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ```"""
        # Embeddings without audio are taken as they are, and a decoding step, which would wait for the device, has nothing
        # but a new token.
        is_prefill = input_ids is not None and (past_key_values is None or input_ids.shape[1] > 1)
        audio = (input_features, mel_features, fbank_features, audio_embeds, mm_encoder_outputs)
        if is_prefill and all(value is None for value in audio):
            self.model.check_placeholders(self.model.find_placeholders(input_ids).sum(), 0)
        outputs = self.model(
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            segment_ids=segment_ids,
            mel_features=mel_features,
            fbank_features=fbank_features,
            audio_embeds=audio_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        # contiguous: a linear layer makes a copy of its weight for each row of a slice
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep).contiguous())
        logits[..., self.config.audio_token_id] = PLACEHOLDER_SCORE

        loss = None
        if labels is not None:
            labels = labels.masked_fill(labels == self.config.audio_token_id, -100)
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return SalmonnCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            audio_hidden_states=outputs.audio_hidden_states,
        )


for _model_class, _auto_class in (
    (SalmonnModel, AutoModel),
    (SalmonnForConditionalGeneration, AutoModelForSpeechSeq2Seq),
    (SalmonnForConditionalGeneration, AutoModelForMultimodalLM),
):
    _model_class.register_for_auto_class(_auto_class.__name__)
    # A copy that travels in a checkpoint must not register itself: it would then run for every other checkpoint too.
    if not __package__:
        _auto_class.register(SalmonnConfig, _model_class, exist_ok=True)

__all__ = ["SalmonnForConditionalGeneration", "SalmonnModel", "SalmonnPreTrainedModel"]
