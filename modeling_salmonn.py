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
from transformers.generation import GenerationConfig, GenerationMixin, SuppressTokensLogitsProcessor
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    ModelOutput,
)
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.processing_utils import Unpack
from transformers.utils import (
    TransformersKwargs,
    auto_docstring,
    can_return_tuple,
    logging,
    torch_compilable_check,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


try:
    from .adapter_salmonn import BaseFingerprintMixin, FingerprintedModule, SalmonnAdapterMixin
    from .configuration_salmonn import SalmonnConfig, count_windows
    from .connectors_salmonn import CONNECTORS, SalmonnQFormerConnector
    from .modeling_beats import BeatsModel
except ImportError:
    from adapter_salmonn import BaseFingerprintMixin, FingerprintedModule, SalmonnAdapterMixin
    from configuration_salmonn import SalmonnConfig, count_windows
    from connectors_salmonn import CONNECTORS, SalmonnQFormerConnector
    from modeling_beats import BeatsModel


logger = logging.get_logger(__name__)


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
        Scores of the next token, the lowest there is for the audio placeholder.
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
        hidden_states = hidden_states + self.embed_positions.weight[: hidden_states.shape[1]]
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
    main_input_name = "input_features"  # for callers that carry one tensor, such as the ASR pipeline
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = False  # BEATs adds a position bias to its scores, and `blip_2_qformer` has none either
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, FingerprintedModule):
            init.zeros_(module.base_fingerprint)
        if isinstance(module, SalmonnQFormerConnector):
            init.normal_(module.query_tokens, mean=0.0, std=self.config.initializer_range)

    def save_pretrained(self, save_directory, *args, **kwargs):
        # a class registers for one Auto class only; a checkpoint should load through all that fit
        self.config.auto_map = {
            "AutoConfig": "configuration_salmonn.SalmonnConfig",
            "AutoModel": "modeling_salmonn.SalmonnModel",
            "AutoModelForMultimodalLM": "modeling_salmonn.SalmonnForConditionalGeneration",
            "AutoModelForSpeechSeq2Seq": "modeling_salmonn.SalmonnForConditionalGeneration",
        }
        super().save_pretrained(save_directory, *args, **kwargs)


@auto_docstring(
    custom_intro="""
    The SALMONN model: speech encoder, BEATs, connector and LLM, without a language modeling head.
    """
)
class SalmonnModel(BaseFingerprintMixin, SalmonnPreTrainedModel):
    def __init__(self, config: SalmonnConfig):
        super().__init__(config)
        self.speech_encoder = SalmonnSpeechEncoder(config.speech_config)
        self.speech_layer_norm = nn.LayerNorm(config.speech_config.d_model)
        # CODEPATH: speech-only models (2309.13963) have no BEATs
        self.beats = None if config.beats_config is None else BeatsModel(config.beats_config)
        self.beats_layer_norm = None if self.beats is None else nn.LayerNorm(config.beats_config.hidden_size)
        # one dtype for the whole model, whatever the LLM's own configuration says of its files
        self.language_model = AutoModel.from_config(config.text_config, dtype=torch.get_default_dtype())
        self.connector = CONNECTORS[config.connector_type](config, len(self._base_parameters()))
        self._register_fingerprint_hooks()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def _encode(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None, **kwargs
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
            stream = stream + self._segment_positions(input_features_mask, stream)
        if lengths is not None:
            stream = stream * self._length_mask(lengths, stream.shape[1])[..., None]
        return speech_output, stream, lengths

    def _run_encoders(
        self, input_features: torch.Tensor, is_real: torch.BoolTensor, lengths: torch.Tensor | None, **kwargs
    ) -> tuple[BaseModelOutput, torch.Tensor | None]:
        """
        The frozen part: the speech encoder's output, `(segments, frames, d_speech)`, and BEATs' last hidden state,
        `(segments, tokens, d_beats)`, as far as the longest segment reaches.
        """
        mel_bins = self.config.speech_config.num_mel_bins
        if lengths is not None and not torch.compiler.is_compiling():
            # nothing is heard beyond the end of the longest segment
            longest = 2 * int(lengths.max())
            input_features, is_real = input_features[..., :longest], is_real[:, :longest]
        mel, fbank = input_features[:, :mel_bins], input_features[:, mel_bins:].transpose(1, 2)
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
            real_columns = is_real.any(0).nonzero()
            if real_columns.numel() == 0:
                raise ValueError("`input_features_mask` must mark real frames, got none but padding.")
            longest = max(int(real_columns.max()) + 1, self.config.beats_config.patch_size)
            fbank, is_real = fbank[:, :longest], is_real[:, :longest]
        return speech_output, self.beats(fbank, attention_mask=is_real, return_dict=True).last_hidden_state

    def _fit_beats(self, beats_states: torch.Tensor, is_real: torch.BoolTensor, stream: torch.Tensor) -> torch.Tensor:
        """`(segments, tokens, d_beats)` -> `(segments, frames, d_beats)` to stand beside `stream`, zero where padded."""
        num_tokens = beats_states.shape[1]
        beats_states = self.beats_layer_norm(beats_states.to(self.beats_layer_norm.weight.dtype))
        token_mask = self.beats._get_feature_vector_attention_mask(is_real)
        token_mask = nn.functional.pad(token_mask, (0, num_tokens - token_mask.shape[1]))  # cuts if negative
        # masked after the norm: padding is 0, not the bias of the norm
        beats_states = beats_states * token_mask[..., None]
        return nn.functional.pad(beats_states, (0, 0, 0, stream.shape[1] - num_tokens)).to(stream.dtype)

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
            return torch.arange(input_features.shape[2], device=fbank.device).expand(len(fbank), -1) >= 2
        return (fbank != 0).any(1)

    def _count_frames(self, is_real: torch.BoolTensor) -> torch.LongTensor:
        """Encoder frames of each segment, `(segments,)`: n frames of 20 ms hold 2n - 2 filter bank frames."""
        # CODEPATH: the released models, for which every segment is whole
        if self.config.fixed_length:
            return torch.full_like(is_real[:, 0], is_real.shape[1] // 2, dtype=torch.long)
        return is_real.sum(-1) // 2 + 1

    @staticmethod
    def _segment_positions(input_features_mask: torch.Tensor | None, hidden_states: torch.Tensor) -> torch.Tensor:
        """Sinusoid of the segment's place in its clip: `(segments, 1, encoder_width)`."""
        width = hidden_states.shape[-1]
        # the mask numbers a clip's segments: 1 in the frames of the first, 2 in those of the second, ...
        index = hidden_states.new_zeros(hidden_states.shape[0], dtype=torch.float32)
        if input_features_mask is not None:
            index = input_features_mask.amax(-1).float() - 1
        frequencies = torch.logspace(0, -4, width // 2, device=index.device)  # 1 to 1/10,000, as in Whisper
        angles = index[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None].to(hidden_states.dtype)

    @can_return_tuple
    @auto_docstring(
        custom_intro="Encodes clips to embeddings for the LLM. Needs no prompt, so a clip can be encoded once and asked often."
    )
    def get_audio_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`):
            Whisper's log-mel rows, then BEATs' filter bank rows, 100 frames a second.
        input_features_mask (`torch.Tensor` of shape `(segments, frames)`, *optional*):
            Which filter bank frames are real: 0 for padding, and n for the frames of the n-th segment of a clip.

        Returns:
            [`BaseModelOutputWithPooling`]: `pooler_output` of shape `(total_audio_tokens, hidden_size)` is what stands
            in the prompt; `last_hidden_state` of shape `(segments, frames, encoder_width)` is the joint stream;
            `hidden_states` and `attentions` are the speech encoder's.
        """
        self._check_features(input_features, input_features_mask)
        speech_output, stream, lengths = self._encode(input_features, input_features_mask, **kwargs)

        window, stride = self.config.window_frames, self.config.stride_frames
        num_frames = stream.shape[1]
        num_windows = count_windows(num_frames, window, stride, self.config.pad_last_window)
        # CODEPATH: the Q-Former of 2309.13963 reads each segment as one window
        if window is None:
            windows = stream[:, None]  # (segments, 1, frames, encoder_width)
        else:
            padding = window + (num_windows - 1) * stride - num_frames
            if padding > 0:
                stream = nn.functional.pad(stream, (0, 0, 0, padding))
            windows = stream.unfold(1, window, stride).transpose(2, 3)  # (segments, windows, window, encoder_width)

        attention_mask = None
        # CODEPATH: models trained on the real length of their clips
        if lengths is None:
            windows = windows.flatten(0, 1)
        elif window is None:
            windows = windows.flatten(0, 1)
            attention_mask = self._length_mask(lengths, num_frames)
        else:
            counts = count_windows(lengths, window, stride, self.config.pad_last_window)
            windows = windows[self._length_mask(counts, num_windows)]
        # a selection keeps the order of axes in memory, with which linear layers are slow
        windows = windows.contiguous()
        audio_embeds = self.connector(
            windows, attention_mask=attention_mask, text_embeddings=self.get_input_embeddings().weight
        )
        return BaseModelOutputWithPooling(
            last_hidden_state=stream[:, :num_frames],
            pooler_output=audio_embeds.flatten(0, 1),  # window by window, the queries of a window side by side
            hidden_states=speech_output.hidden_states,
            attentions=speech_output.attentions,
        )

    def _check_features(self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None):
        speech_config, beats_config = self.config.speech_config, self.config.beats_config
        rows = speech_config.num_mel_bins + (0 if beats_config is None else beats_config.num_mel_bins)
        frames = 2 * speech_config.max_source_positions
        if input_features.ndim != 3 or input_features.shape[1] != rows:
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
        if input_features_mask is not None and input_features_mask.shape != (input_features.shape[0], found):
            raise ValueError(
                f"`input_features_mask` must have shape (segments, frames) = {(input_features.shape[0], found)} to go "
                f"with `input_features`, got {tuple(input_features_mask.shape)}."
            )

    def find_placeholders(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor | None = None
    ) -> torch.BoolTensor:
        """Where audio goes in the prompt, `(batch_size, sequence_length)`: by id, or by embedding without ids."""
        if input_ids is not None and input_ids.numel() > 0:
            return input_ids == self.config.audio_token_id
        audio_token = torch.full((), self.config.audio_token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(audio_token)).all(-1)

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor, audio_features: torch.Tensor
    ) -> torch.BoolTensor:
        """
        Mask of the audio placeholders, expanded to the shape of `inputs_embeds`. Raises a `ValueError` if there are not
        as many as rows in `audio_features`.
        """
        mask = self.find_placeholders(input_ids, inputs_embeds)
        count = mask.sum()
        mask = mask.unsqueeze(-1).expand_as(inputs_embeds)
        torch_compilable_check(
            inputs_embeds[mask].numel() == audio_features.numel(),
            f"The prompt must hold one placeholder for each audio token, got {count} placeholders for "
            f"{audio_features.shape[0]} audio tokens.",
        )
        return mask

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SalmonnModelOutputWithPast:
        r"""
        input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`, *optional*):
            Whisper's log-mel rows, then BEATs' filter bank rows, 100 frames a second.
        input_features_mask (`torch.Tensor` of shape `(segments, frames)`, *optional*):
            Which filter bank frames are real: 0 for padding, and n for the frames of the n-th segment of a clip.
        audio_embeds (`torch.Tensor` of shape `(total_audio_tokens, hidden_size)`, *optional*):
            Output of [`~SalmonnModel.get_audio_features`], to ask again about clips that are encoded already.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Exactly one of `input_ids` and `inputs_embeds` must be given.")
        if input_features is not None and audio_embeds is not None:
            raise ValueError("At most one of `input_features` and `audio_embeds` can be given, got both.")

        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if input_features is not None:
            audio_embeds = self.get_audio_features(input_features, input_features_mask, return_dict=True).pooler_output
        if audio_embeds is not None:
            audio_embeds = audio_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, audio_embeds)
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
class SalmonnForConditionalGeneration(SalmonnPreTrainedModel, GenerationMixin):
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

    @auto_docstring(custom_intro="Encodes clips to embeddings for the LLM, see [`SalmonnModel.get_audio_features`].")
    def get_audio_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`):
            Whisper's log-mel rows, then BEATs' filter bank rows, 100 frames a second.
        input_features_mask (`torch.Tensor` of shape `(segments, frames)`, *optional*):
            Which filter bank frames are real: 0 for padding, and n for the frames of the n-th segment of a clip.
        """
        return self.model.get_audio_features(input_features, input_features_mask, **kwargs)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
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
        input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`, *optional*):
            Whisper's log-mel rows, then BEATs' filter bank rows, 100 frames a second.
        input_features_mask (`torch.Tensor` of shape `(segments, frames)`, *optional*):
            Which filter bank frames are real: 0 for padding, and n for the frames of the n-th segment of a clip.
        audio_embeds (`torch.Tensor` of shape `(total_audio_tokens, hidden_size)`, *optional*):
            Output of [`~SalmonnModel.get_audio_features`], to ask again about clips that are encoded already.
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Tokens to predict, -100 where none is: the processor makes them with `output_labels=True`.

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
        outputs = self.model(
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            audio_embeds=audio_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        # contiguous: a linear layer makes a copy of its weight for each row of a slice
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep).contiguous())
        # The placeholder, an input only, has a row of zeros in the head of a converted model. Its score is then not 0 but
        # the lowest, so that all probability is the LLM's own vocabulary's.
        placeholder = logits[..., self.config.audio_token_id :][..., :1]
        placeholder.masked_fill_(placeholder == 0, torch.finfo(logits.dtype).min)

        loss = None
        if labels is not None:
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

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        **kwargs,
    ):
        r"""
        Generates answers, as [`~GenerationMixin.generate`] does, whose arguments are all accepted.

        Args:
            inputs (`torch.Tensor`, *optional*):
                `input_ids`, or `input_features` if floating point.
            input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`, *optional*):
                Clips. Without `input_ids` they are transcribed, each clip by itself.
            input_features_mask (`torch.Tensor` of shape `(segments, frames)`, *optional*):
                Which filter bank frames are real, and which segments make one clip.
            audio_embeds (`torch.Tensor` of shape `(total_audio_tokens, hidden_size)`, *optional*):
                Output of `get_audio_features`, in place of `input_features`.
            lora_scale (`float`, *optional*):
                Factor on the LoRA scaling during this call: below 1 the LLM follows its instruction more and its
                audio training less (2310.13289, section 4.2), and 0 turns LoRA off.

        Returns:
            Prompt and continuation if there was a prompt; new tokens only if audio came without `input_ids`.
        """
        if inputs is not None and inputs.is_floating_point():
            input_features, inputs = inputs, None
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        prompt_length = None
        has_prompt = input_ids is not None or kwargs.get("inputs_embeds") is not None
        if audio_embeds is not None and not has_prompt:
            raise ValueError("`audio_embeds` needs `input_ids`, which say what belongs to which prompt, got none.")
        if input_features is not None and not has_prompt:
            # the ASR pipeline knows the mask of the features under the name of all masks
            attention_mask = kwargs.pop("attention_mask", None)
            input_features_mask = attention_mask if input_features_mask is None else input_features_mask
            input_ids, kwargs["attention_mask"] = self._transcription_prompts(input_features, input_features_mask)
            prompt_length = input_ids.shape[1]
        if input_features is not None:
            if audio_embeds is not None:
                raise ValueError("At most one of `input_features` and `audio_embeds` can be given, got both.")
            # encoded here, once: beams and samples of a prompt then share its audio
            audio_embeds = self.get_audio_features(input_features, input_features_mask, return_dict=True).pooler_output

        with self._scale_lora(lora_scale):
            outputs = super().generate(
                generation_config=generation_config, input_ids=input_ids, audio_embeds=audio_embeds, **kwargs
            )
        if prompt_length is None:
            return outputs
        if isinstance(outputs, torch.Tensor):
            return outputs[:, prompt_length:]
        outputs.sequences = outputs.sequences[:, prompt_length:]
        return outputs

    def _transcription_prompts(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """The prompt of `config.transcription_prompt_ids` around each clip, left-padded: ids and attention mask."""
        prompt = self.config.transcription_prompt_ids
        if prompt is None:
            logger.warning_once("This model has no `transcription_prompt_ids`: transcribing without an instruction.")
            bos = self.config.text_config.bos_token_id
            prompt = ([] if bos is None else [bos]) + [self.config.audio_token_id]
        position = prompt.index(self.config.audio_token_id)
        prompts = [
            prompt[:position] + [self.config.audio_token_id] * count + prompt[position + 1 :]
            for count in self._count_audio_tokens(input_features, input_features_mask)
        ]
        pad, longest = self.generation_config.pad_token_id or 0, max(map(len, prompts))
        input_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=input_features.device)
        lengths = torch.tensor([len(ids) for ids in prompts], device=input_features.device)
        attention_mask = torch.arange(longest, 0, -1, device=input_features.device) <= lengths[:, None]
        return input_ids, attention_mask.long()

    def _count_audio_tokens(self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None) -> list[int]:
        """Audio tokens of each clip, whose segments `input_features_mask` numbers from 1."""
        numbers = [1] * len(input_features)
        if input_features_mask is not None:
            numbers = input_features_mask.amax(-1).tolist()
            if len(numbers) != len(input_features):
                raise ValueError(
                    f"`input_features_mask` numbers {len(numbers)} segments but `input_features` holds "
                    f"{len(input_features)}. A pipeline that batches clips keeps one segment of each: set "
                    "`batch_size=1` or `chunk_length_s=30` for clips of more than 30 s."
                )
        self.model._check_features(input_features, input_features_mask)
        num_frames = self.model._count_frames(self.model._find_real_frames(input_features, input_features_mask))

        counts = []
        for i, (number, frames) in enumerate(zip(numbers, num_frames.tolist())):
            if number == 1:
                counts.append(0)
            elif i == 0 or number != numbers[i - 1] + 1:
                raise ValueError(f"`input_features_mask` must number the segments of a clip 1, 2, ..., got {numbers}.")
            counts[-1] += self.config.num_audio_tokens(frames)
        return counts

    def _prepare_model_inputs(self, inputs=None, bos_token_id=None, model_kwargs=None):
        # Generation runs on `input_ids`, though `main_input_name` says otherwise to those who carry one tensor.
        inputs_embeds = model_kwargs.get("inputs_embeds")
        known = {} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        input_ids = self._maybe_initialize_input_ids_for_generation(
            model_kwargs.pop("input_ids", inputs), bos_token_id, known
        )
        if inputs_embeds is None:
            return input_ids, "input_ids", model_kwargs
        model_kwargs["input_ids"] = input_ids
        return inputs_embeds, "inputs_embeds", model_kwargs

    def _get_logits_processor(self, *args, **kwargs):
        # The placeholder is an input only. Decoding with drafts takes them of the prompt, and asks here what may follow.
        processors = super()._get_logits_processor(*args, **kwargs)
        processors.append(SuppressTokensLogitsProcessor([self.config.audio_token_id], device=self.device))
        return processors

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, audio_embeds=None, is_first_iteration=False, **kwargs
    ):
        if is_first_iteration or not kwargs.get("use_cache", True):
            kwargs["audio_embeds"] = audio_embeds
        return super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids=None, **model_kwargs
    ):
        audio_embeds = model_kwargs.pop("audio_embeds", None)
        if audio_embeds is not None and expand_size > 1:
            # rows of audio belong to prompts: copies of a prompt need all of its rows, in order
            counts = self.model.find_placeholders(input_ids, model_kwargs.get("inputs_embeds")).sum(-1).tolist()
            if sum(counts) != len(audio_embeds):
                raise ValueError(
                    f"The prompt must hold one placeholder for each audio token, got {sum(counts)} placeholders for "
                    f"{len(audio_embeds)} audio tokens."
                )
            audio_embeds = torch.cat([rows.repeat(expand_size, 1) for rows in audio_embeds.split(counts)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, "audio_embeds": audio_embeds}


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
