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

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    ModelOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import (
    TransformersKwargs,
    auto_docstring,
    can_return_tuple,
    torch_compilable_check,
)


try:
    from transformers.modeling_utils import slice_logits_to_keep
except ImportError:  # before 5.21, with which engines come that pin Transformers

    def slice_logits_to_keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return hidden_states[:, kept, :]


try:
    from .adapter_salmonn import SalmonnAdapterMixin
    from .audio_encoder_salmonn import SalmonnAudioEncoder, SalmonnSpeechEncoder, is_trained, known_frames, length_mask
    from .configuration_salmonn import SalmonnConfig, count_windows
    from .connectors_salmonn import CONNECTORS, SalmonnQFormerConnector
    from .generation_salmonn import SalmonnGenerationMixin
    from .input_checks_salmonn import check_audio_embeds, check_labels, check_prompt
    from .modeling_beats import BeatsModel
except ImportError:
    from adapter_salmonn import SalmonnAdapterMixin
    from audio_encoder_salmonn import SalmonnAudioEncoder, SalmonnSpeechEncoder, is_trained, known_frames, length_mask
    from configuration_salmonn import SalmonnConfig, count_windows
    from connectors_salmonn import CONNECTORS, SalmonnQFormerConnector
    from generation_salmonn import SalmonnGenerationMixin
    from input_checks_salmonn import check_audio_embeds, check_labels, check_prompt
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


def _concatenate(outputs: list[torch.Tensor | tuple], order: list[int]) -> torch.Tensor | tuple:
    """An output of several passes, or several of each (hidden states of all layers), padded and with its rows in order."""
    if not isinstance(outputs[0], torch.Tensor):
        return tuple(_concatenate(layer, order) for layer in zip(*outputs))
    longest = [max(sizes) for sizes in zip(*(output.shape[1:] for output in outputs))]
    padded = []
    for output in outputs:
        missing = [most - size for most, size in zip(longest, output.shape[1:])]
        # pairs from the last axis to the first: nothing before, what is missing behind
        padded.append(nn.functional.pad(output, [number for size in missing[::-1] for number in (0, size)]))
    return torch.cat(padded)[order]


@auto_docstring(
    custom_intro="""
    The SALMONN model: speech encoder and BEATs, or either, connector and LLM, without a language modeling head.
    """
)
class SalmonnModel(SalmonnPreTrainedModel):
    def __init__(self, config: SalmonnConfig):
        super().__init__(config)
        speech_config, beats_config = config.speech_config, config.beats_config
        # CODEPATH: models that hear with BEATs alone, such as NatureLM-audio, have no Whisper
        self.speech_encoder = None if speech_config is None else SalmonnSpeechEncoder(speech_config)
        self.speech_layer_norm = None if speech_config is None else nn.LayerNorm(speech_config.d_model)
        # CODEPATH: speech-only models (2309.13963) have no BEATs
        self.beats = None if beats_config is None else BeatsModel(beats_config)
        self.beats_layer_norm = None if beats_config is None else nn.LayerNorm(beats_config.hidden_size)
        # one dtype for the whole model, whatever the LLM's own configuration says of its files
        self.language_model = AutoModel.from_config(config.text_config, dtype=torch.get_default_dtype())
        self.connector = CONNECTORS[config.connector_type](config)
        # not among the modules: weights are named after the parts, as in all checkpoints and adapters
        self.__dict__["_audio_encoder"] = SalmonnAudioEncoder(config, **self._audio_parts())
        self.post_init()

    def _audio_parts(self) -> dict[str, nn.Module | None]:
        return {name: getattr(self, name) for name in SalmonnAudioEncoder.PARTS}

    @property
    def audio_encoder(self) -> SalmonnAudioEncoder:
        """The encoders and their norms as one module, which `get_encoder("audio")` returns."""
        parts = self._audio_parts()
        # an adapter that trains the norms puts others in their places
        if any(getattr(self._audio_encoder, name) is not part for name, part in parts.items()):
            self.__dict__["_audio_encoder"] = type(self._audio_encoder)(self.config, **parts)
        return self._audio_encoder

    @property
    def encoders(self) -> list[PreTrainedModel]:
        """Those of the speech encoder and BEATs that there are."""
        return [encoder for encoder in (self.speech_encoder, self.beats) if encoder is not None]

    def train(self, mode: bool = True):
        super().train(mode)
        for encoder in self.encoders:
            if not is_trained(encoder):
                encoder.eval()
        return self

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
            `hidden_states` and `attentions` are the speech encoder's, or those of BEATs alone.
        """
        encoder = self.audio_encoder
        if input_features is None:
            input_features = encoder.pack_features(mel_features, fbank_features)
        elif mel_features is not None or fbank_features is not None:
            raise ValueError(
                "`input_features` hold `mel_features` and `fbank_features`: only one of both can be given."
            )
        input_features, input_features_mask, segment_ids = self.split_clips(
            input_features, input_features_mask, segment_ids
        )
        real_frames = encoder.check_features(input_features, input_features_mask, segment_ids)
        if real_frames is None:  # compiled: all in one pass
            return self._hear(input_features, input_features_mask, segment_ids, **kwargs)
        passes = encoder.plan_passes(real_frames, input_features.device)
        parts, kept = [], {}
        for rows in passes:
            inputs = (input_features, input_features_mask, segment_ids)
            if len(passes) > 1:
                inputs = [None if x is None else x[rows] for x in inputs]
            frames = [real_frames[row] for row in rows]
            features, mask = encoder.cut_padding(*inputs[:2], frames)
            parts.append(self._hear(features, mask, inputs[2], frames, kept, **kwargs))
        if len(parts) == 1:
            return parts[0]
        columns = (input_features if input_features_mask is None else input_features_mask).shape[-1]
        return self._join_passes(parts, passes, encoder.count_audio_tokens(real_frames, columns))

    def _join_passes(
        self, parts: list[BaseModelOutputWithPooling], passes: list[list[int]], counts: list[int]
    ) -> BaseModelOutputWithPooling:
        """Outputs of several passes, in the order in which the segments came, each of so many audio tokens."""
        rows = [row for rows in passes for row in rows]
        order = sorted(range(len(rows)), key=rows.__getitem__)
        joined = {
            name: _concatenate([part[name] for part in parts], order) for name in parts[0] if name != "pooler_output"
        }
        audio_embeds = torch.cat([part.pooler_output for part in parts]).split([counts[row] for row in rows])
        return BaseModelOutputWithPooling(pooler_output=torch.cat([audio_embeds[place] for place in order]), **joined)

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
        whole = self.config.segment_columns
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

    def _hear(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None,
        real_frames: list[int] | None = None,
        kept: dict[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """
        Encodes segments and reads them in one pass: what [`~SalmonnModel.get_audio_features`] returns. `kept` is what the
        connector keeps for the next pass.
        """
        encoder = self.audio_encoder
        audio = {"input_features_mask": input_features_mask, "segment_ids": segment_ids}
        audio = {name: x for name, x in audio.items() if x is not None}
        with nullcontext() if real_frames is None else known_frames(real_frames):
            output = encoder(input_features, **audio, return_dict=True, **kwargs)
        if real_frames is None:
            frames = encoder.find_real_frames(input_features, input_features_mask).sum(-1)
        else:  # on the host, where windows are chosen without waiting for the device
            frames = torch.tensor(real_frames)
        lengths = encoder.find_lengths(frames)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=self._connect(output.last_hidden_state, lengths, kept),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _connect(
        self, stream: torch.Tensor, lengths: torch.Tensor | None, kept: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Reads the joint stream window by window: `(segments, frames, encoder_width)` -> `(audio_tokens, hidden_size)`."""
        window, stride = self.config.window_frames, self.config.stride_frames
        num_frames = stream.shape[1]
        beside = {}  # what the connector reads beside its windows
        # CODEPATH: the Q-Former of 2309.13963 reads each segment as one window
        if window is None:
            windows = stream
            if lengths is not None:
                beside["attention_mask"] = length_mask(lengths, num_frames).to(stream.device)
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
                chosen = length_mask(counts, num_windows).nonzero(as_tuple=True)
                windows = windows[tuple(places.to(windows.device) for places in chosen)]
        # CODEPATH: this connector attends to the LLM's embeddings, which only their module can read when offloaded
        if self.config.connector_type == "cross_attention":
            ids = torch.arange(self.config.text_config.vocab_size, device=windows.device)
            beside = {"text_embeddings": None if kept else self.get_input_embeddings()(ids), "kept": kept}
        # a selection keeps the order of axes in memory, with which linear layers are slow
        audio_embeds = self.connector(windows.contiguous(), **beside)
        return audio_embeds.flatten(0, 1)  # window by window, the queries of a window side by side

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

        check_prompt(input_ids, attention_mask, past_key_values is not None, self.config.text_config.vocab_size)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if audio_embeds is not None:
            check_audio_embeds(audio_embeds, inputs_embeds.shape[-1])
        if has_features:
            audio = (input_features, input_features_mask, segment_ids, mel_features, fbank_features)
            audio_embeds = self.get_audio_features(*audio, return_dict=True).pooler_output
        elif mm_encoder_outputs:
            audio_embeds = mm_encoder_outputs["audio"].pooler_output.flatten(0, -2)
        # The head refuses prompts without their audio. Trainers with a loss of their own, as TRL has one, leave it out.
        if audio_embeds is not None or (self.training and input_ids is not None):
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, audio_embeds, attention_mask)
        if audio_embeds is not None:
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
        is_prefill = (
            isinstance(input_ids, torch.Tensor)
            and input_ids.ndim == 2
            and (past_key_values is None or input_ids.shape[1] > 1)
        )
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
            check_labels(
                labels, logits, self.config.text_config.vocab_size, kwargs.get("num_items_in_batch") is not None
            )
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
