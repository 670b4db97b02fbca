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

"""Processing for SALMONN: text and clips to model inputs, and chat templates that take clips."""

import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jinja2 import TemplateError
from tokenizers import decoders
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoProcessor
from transformers.audio_utils import AudioInput
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import AudioKwargs, MultiModalData, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.tokenization_utils_base import AddedToken, PreTrainedTokenizerBase, TextInput
from transformers.utils import auto_docstring


try:
    from .audio_reading_salmonn import load_clip, shorten, to_mono
    from .chat_template_salmonn import (
        AUDIO_TOKEN,
        SALMONN_CHAT_TEMPLATE,
        check_text,
        has_generation_tags,
        keep_as_text,
        list_conversations,
        wrap_chat_template,
    )
    from .configuration_salmonn import COLUMNS_PER_SECOND, SalmonnConfig, count_windows, seconds_to_frames
    from .feature_extraction_salmonn import SalmonnFeatureExtractor
except ImportError:
    from audio_reading_salmonn import load_clip, shorten, to_mono
    from chat_template_salmonn import (
        AUDIO_TOKEN,
        SALMONN_CHAT_TEMPLATE,
        check_text,
        has_generation_tags,
        keep_as_text,
        list_conversations,
        wrap_chat_template,
    )
    from configuration_salmonn import COLUMNS_PER_SECOND, SalmonnConfig, count_windows, seconds_to_frames
    from feature_extraction_salmonn import SalmonnFeatureExtractor


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, audio_token: str = AUDIO_TOKEN) -> PreTrainedTokenizerBase:
    """
    Readies an LLM's tokenizer for SALMONN: adds `audio_token` where it is missing, pads on the left, and with an
    existing token where the LLM has none for padding (`<unk>`, as Vicuna does, or else the end of the text). Decoded
    text does not begin with a space.

    A LLaMA tokenizer is put into its `legacy` form, in which every piece of text between special tokens begins with
    a space of its own: the released code tokenizes the text before and after a clip by itself.
    """
    is_llama = getattr(tokenizer, "legacy", None) is False
    if is_llama and isinstance(tokenizer.backend_tokenizer.pre_tokenizer, Metaspace):
        tokenizer.legacy = tokenizer.init_kwargs["legacy"] = True
        tokenizer.backend_tokenizer.pre_tokenizer.prepend_scheme = "always"
    if audio_token not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(audio_token, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    # among the arguments too, or else it would not be saved, and pipelines would pad on the other side
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    # an answer that begins with a space, as the words of such a vocabulary do, is decoded as LLaMA's are: without it
    if isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel):
        strip = decoders.Strip(content=" ", left=1, right=0)
        tokenizer.backend_tokenizer.decoder = decoders.Sequence([tokenizer.backend_tokenizer.decoder, strip])
    return tokenizer


class SalmonnAudioKwargs(AudioKwargs, total=False):
    """
    cut_at_silence (`bool`, *optional*):
        Whether long clips are cut where they are quiet, see [`SalmonnFeatureExtractor`].
    """

    cut_at_silence: bool


class SalmonnProcessorKwargs(ProcessingKwargs, total=False):
    """Arguments of [`SalmonnProcessor`]."""

    audio_kwargs: SalmonnAudioKwargs


@auto_docstring(
    custom_intro="""
    Constructs a SALMONN processor, which wraps a [`SalmonnFeatureExtractor`] and the LLM's tokenizer.
    """
)
class SalmonnProcessor(ProcessorMixin):
    valid_processor_kwargs = SalmonnProcessorKwargs
    text_kwargs = {"padding": True, "return_tensors": "pt"}
    audio_kwargs = {"sampling_rate": 16000}

    def __init__(
        self,
        feature_extractor,
        tokenizer,
        chat_template=None,
        audio_token=AUDIO_TOKEN,
        window_seconds=0.333333,
        stride_seconds=0.333333,
        num_query_tokens=1,
        pad_last_window=False,
        transcription_prompt="Transcribe the speech.",
    ):
        r"""
        audio_token (`str`, *optional*, defaults to `"<|audio|>"`):
            Token that stands for a clip in the text, once a clip; added to the tokenizer where it is missing.
        window_seconds (`float`, *optional*, defaults to 0.333333):
            Length of the windows that the model's connector reads; `None` for whole segments.
        stride_seconds (`float`, *optional*, defaults to 0.333333):
            Distance between the starts of two windows.
        num_query_tokens (`int`, *optional*, defaults to 1):
            Audio tokens that the connector writes for each window.
        pad_last_window (`bool`, *optional*, defaults to `False`):
            Whether frames that do not fill a window get one nevertheless.
        transcription_prompt (`str`, *optional*, defaults to `"Transcribe the speech."`):
            What `apply_transcription_request` asks.
        """
        _check_settings(
            tokenizer,
            audio_token,
            window_seconds,
            stride_seconds,
            num_query_tokens,
            pad_last_window,
            transcription_prompt,
        )
        tokenizer = prepare_tokenizer(tokenizer, audio_token)
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.window_seconds = window_seconds
        self.stride_seconds = stride_seconds
        self.num_query_tokens = num_query_tokens
        self.pad_last_window = pad_last_window
        self.transcription_prompt = transcription_prompt
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or SALMONN_CHAT_TEMPLATE)

    @classmethod
    def from_model_config(cls, config: SalmonnConfig, tokenizer, chat_template: str | None = None, **kwargs):
        """
        The processor that goes with a model: features and numbers of audio tokens as `config` has them.

        `chat_template` is the released models' format unless given; see [`wrap_chat_template`] for that of an LLM.
        """
        beats = config.beats_config
        normalisation = {} if beats is None else {"fbank_mean": beats.fbank_mean, "fbank_std": beats.fbank_std}
        feature_extractor = SalmonnFeatureExtractor(
            feature_size=config.num_mel_bins,
            num_fbank_bins=config.num_fbank_bins,
            chunk_length=config.segment_columns // COLUMNS_PER_SECOND,
            fixed_length=config.fixed_length,
            max_audio_seconds=config.max_audio_seconds,
            **normalisation,
        )
        return cls(
            feature_extractor,
            tokenizer,
            chat_template=chat_template,
            window_seconds=config.window_seconds,
            stride_seconds=config.stride_seconds,
            num_query_tokens=config.num_query_tokens,
            pad_last_window=config.pad_last_window,
            **kwargs,
        )

    @auto_docstring
    def __call__(
        self,
        text: TextInput | list[TextInput] | None = None,
        audio: AudioInput | None = None,
        output_labels: bool | None = None,
        **kwargs: Unpack[SalmonnProcessorKwargs],
    ) -> BatchFeature:
        r"""
        output_labels (`bool`, *optional*):
            Only for [`~SalmonnProcessor.apply_chat_template`], as one of its `processor_kwargs`: of text alone nobody
            can tell what is an answer.

        Returns:
            [`BatchFeature`]: `input_ids` and `attention_mask` of shape `(batch_size, sequence_length)`, with
            `input_features`, `input_features_mask` and `segment_ids` of all segments if there is audio. Without `text`,
            the features alone, which `generate` transcribes. With `return_text_replacement_offsets=True`, by which
            inference engines ask, features and masks are lists with an entry for each clip, of shape `(frames, rows)` and
            `(frames,)`, its segments one behind the other.
        """
        for name in ("images", "videos"):
            if kwargs.get(name) is not None:
                raise TypeError(f"`{name}` must be left out: this processor takes text and audio.")
        # speech recognition servers give the audio as the first argument
        if audio is None and text is not None and not _is_text(text):
            text, audio = None, text
        _check_texts(text)
        if output_labels:
            raise ValueError(
                "`output_labels=True` needs a conversation, whose template says what is an answer: call "
                '`apply_chat_template(..., tokenize=True, return_dict=True, processor_kwargs={"output_labels": True})`.'
            )
        if text is None:
            # to be transcribed: long clips piece by piece
            kwargs["audio_kwargs"] = {"cut_at_silence": True, **kwargs.get("audio_kwargs", {})}
        elif self._has_special_tokens(text if isinstance(text, str) else text[:1]):
            kwargs.setdefault("add_special_tokens", False)
        inputs = super().__call__(text=text, audio=audio, **kwargs)
        # chat templates, which look for answers by it, ask for the offsets of tokens too
        if "text_replacement_offsets" in inputs and "segment_ids" in inputs and "offset_mapping" not in inputs:
            self._join_segments(inputs)
        return inputs

    def _join_segments(self, inputs: BatchFeature) -> None:
        """
        Puts the segments of each clip one behind the other, each of whole length: engines carry clips, whatever their
        number of segments, and [`~SalmonnModel.get_audio_features`] takes them apart.
        """
        extractor = self.feature_extractor
        features, mask, places = (torch.as_tensor(inputs[name]) for name in extractor.model_input_names)
        padding = (0, extractor.segment_samples // extractor.hop_length - features.shape[-1])
        features = torch.nn.functional.pad(features, padding, value=extractor.padding_value).transpose(1, 2)
        mask = torch.nn.functional.pad(mask, padding)
        starts = (places == 0).nonzero().flatten().tolist()[1:]
        inputs["input_features"] = [clip.flatten(0, 1) for clip in features.tensor_split(starts)]
        inputs["input_features_mask"] = [clip.flatten() for clip in mask.tensor_split(starts)]
        del inputs["segment_ids"]

    def _has_special_tokens(self, text: str | list[str]) -> bool:
        """Whether a template has begun the text as the tokenizer begins one, which should not happen twice."""
        texts = [text] if isinstance(text, str) else text
        bos_token = self.tokenizer.bos_token
        return bos_token is not None and any(sample.startswith(bos_token) for sample in texts)

    def _check_special_mm_tokens(self, text, text_inputs, modalities):
        for row, (sample, ids) in enumerate(zip(text, text_inputs["input_ids"])):
            wanted, found = sample.count(self.audio_token), list(ids).count(self.audio_token_id)
            if wanted > found:
                length = len(self.tokenizer(sample, add_special_tokens=False).input_ids)
                raise ValueError(
                    f"`text` must not be cut within a clip: row {row} has {length} tokens, of them {wanted} of audio, and "
                    f"truncation left {len(ids)}, of them {found} of audio. Increase `max_length`."
                )
        super()._check_special_mm_tokens(text, text_inputs, modalities)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if audio is not None:
            audio = [_read_clip(clip, self.feature_extractor.sampling_rate) for clip in _list_clips(audio)]
        with _errors_of_templates():
            return super().prepare_inputs_layout(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def validate_inputs(
        self, images=None, text=None, videos=None, audio=None, **kwargs: Unpack[SalmonnProcessorKwargs]
    ):
        if audio is not None and len(audio) == 0:
            raise ValueError("`audio` must hold at least one clip, got none.")
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)
        # Transformers counts placeholders from 5.23 on
        placeholders = sum(sample.count(self.audio_token) for sample in text or [])
        if text is not None and placeholders != len(audio or []):
            raise ValueError(
                f"`text` must hold one {self.audio_token} for each clip, got {placeholders} {self.audio_token} tokens and "
                f"{len(audio or [])} audio inputs."
            )

    def _process_audio(self, audio: AudioInput, **kwargs):
        audio_inputs = self.feature_extractor(audio, **kwargs)
        audio_inputs["num_audio_tokens"] = [self._count_audio_tokens(len(clip)) for clip in audio]
        return audio_inputs, [self.replace_audio_token(audio_inputs, audio_idx=i) for i in range(len(audio))]

    def _count_audio_tokens(self, num_samples: int) -> int:
        """Audio tokens for a clip of `num_samples`."""
        window = stride = None
        if self.window_seconds is not None:
            window, stride = seconds_to_frames(self.window_seconds), seconds_to_frames(self.stride_seconds)
        frames = self.feature_extractor.num_encoder_frames(num_samples)
        windows = sum(count_windows(count, window, stride, self.pad_last_window) for count in frames)
        return windows * self.num_query_tokens

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs) -> str:
        return self.audio_token * audio_inputs["num_audio_tokens"][audio_idx]

    def _get_num_multimodal_tokens(self, audio_lengths: list[int] | None = None, **kwargs) -> MultiModalData:
        """Audio tokens for clips of so many samples each, for inference engines."""
        if audio_lengths is None:
            return MultiModalData()
        return MultiModalData(num_audio_tokens=[self._count_audio_tokens(length) for length in audio_lengths])

    @property
    def unused_input_names(self) -> list[str]:
        return ["num_audio_tokens"]

    def apply_chat_template(self, conversation, chat_template=None, tools=None, **kwargs):
        """
        Like [`~ProcessorMixin.apply_chat_template`], for conversations with any number of parts
        `{"type": "audio", "audio": clip}` (or `"path"`, `"url"`), or OpenAI's `"input_audio"` and `"audio_url"`.

        `processor_kwargs={"output_labels": True}` returns `labels` for training, with `tokenize=True` and
        `return_dict=True`: what the template tags with `{% generation %}`, which are the answers and the ends of their
        turns, and -100 elsewhere.

        Raises:
            ValueError: if a text holds the audio placeholder, a clip cannot be read, a part is of another type, or the
                template takes no `tools`; with labels, if the template has no tags or a row has no answer.
        """
        batch = list_conversations(conversation)
        template = self._find_template(chat_template)
        reads = bool(kwargs.get("tokenize"))
        batch = [[self._convert_message(message, template, reads) for message in messages] for messages in batch]
        conversation = batch[0] if isinstance(conversation[0], dict) else batch
        if not isinstance(tools, (list, tuple, type(None))):
            raise TypeError(f"`tools` must be a list, got {shorten(tools)}.")
        if tools and not re.search(r"\btools\b", template):
            raise ValueError(f"`tools` must be left out, the chat template does not write them, got {len(tools)}.")
        kwargs = {**kwargs, "chat_template": chat_template, "tools": tools}
        processor_kwargs = kwargs.pop("processor_kwargs", None) or {}
        if not isinstance(processor_kwargs, dict):
            raise TypeError(f"`processor_kwargs` must be a dict, got {shorten(processor_kwargs)}.")
        processor_kwargs = dict(processor_kwargs)
        output_labels = kwargs.pop("output_labels", False) or processor_kwargs.pop("output_labels", False)
        with _errors_of_templates():
            if not output_labels:
                return super().apply_chat_template(conversation, processor_kwargs=processor_kwargs, **kwargs)
            if not (kwargs.get("tokenize") and kwargs.get("return_dict")):
                raise ValueError("`output_labels=True` needs `tokenize=True` and `return_dict=True`.")
            if not has_generation_tags(template):
                raise ValueError(
                    "`output_labels=True` needs a chat template that says what the assistant writes: put "
                    "`{% generation %}` and `{% endgeneration %}` around it, with what ends its turn, or make the "
                    "template of the LLM's with `wrap_chat_template`, which adds them where it can."
                )
            wants_masks = kwargs.pop("return_assistant_tokens_mask", False)
            inputs = super().apply_chat_template(
                conversation, return_assistant_tokens_mask=True, processor_kwargs=processor_kwargs, **kwargs
            )
        inputs["labels"] = self._find_labels(inputs, batch, chat_template)
        if not wants_masks:
            del inputs["assistant_masks"]
        return inputs

    def _adjust_assistant_masks_indices(self, processed_dict, generation_indices):
        # walked through token by token, which is slow for a tensor
        offsets = processed_dict["offset_mapping"]
        processed_dict["offset_mapping"] = offsets.tolist() if hasattr(offsets, "tolist") else offsets
        return super()._adjust_assistant_masks_indices(processed_dict, generation_indices)

    def _find_template(self, chat_template: str | None) -> str:
        """The text of a chat template that is given, or named. Raises `TypeError` or `ValueError` if it is none."""
        named = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        if not isinstance(chat_template, (str, type(None))):
            raise TypeError(f"`chat_template` must be a string, got {shorten(chat_template)}.")
        template = named.get(chat_template or "default", chat_template)
        if not isinstance(template, str):
            raise TypeError(f"`chat_template` must be a string, got {shorten(template)}.")
        if "{" not in template:
            raise ValueError(
                f"`chat_template` must be a Jinja template, or the name of one of {sorted(named)}, got {shorten(template)!r}."
            )
        return template

    def _convert_message(self, message: dict, template: str, reads: bool) -> dict:
        """
        A message whose parts are text, and clips under the one name that is read here. Not the caller's own. Where
        nothing `reads` the clips, they stay as they are.
        """
        content = message.get("content")
        if content is None:
            return message
        headers = "'ASSISTANT:'" in template and message["role"] != "assistant"
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else [*map(_convert_part, content)]
        for part in parts:
            if part["type"] == "audio":
                part["audio"] = _read_clip(part["audio"], self.feature_extractor.sampling_rate, reads)
                continue
            check_text("conversation", part["text"])
            if self.audio_token in part["text"]:
                raise ValueError(
                    f"`conversation` must not hold {self.audio_token!r} in its text: clips are parts of type 'audio'. Got "
                    f"{shorten(part['text'])!r}."
                )
            part["text"] = keep_as_text(part["text"], self._control_tokens(), headers)
        return {**message, "content": parts[0]["text"] if isinstance(content, str) else parts}

    def _control_tokens(self) -> list[str]:
        """What only the template may write: the tokenizer's special tokens."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return sorted(added | set(self.tokenizer.all_special_tokens), key=len, reverse=True)

    def _find_labels(self, inputs: BatchFeature, conversations: list[list[dict]], chat_template: str | None):
        """`input_ids` where `assistant_masks` says so, -100 elsewhere, in the type of `input_ids`."""
        input_ids = inputs["input_ids"]
        rows, masks = (
            [getattr(row, "tolist", lambda row=row: row)() for row in inputs[name]]
            for name in ("input_ids", "assistant_masks")
        )
        labels = []
        for number, (ids, mask) in enumerate(zip(rows, masks)):
            labels.append([i if keep and i != self.audio_token_id else -100 for i, keep in zip(ids, mask)])
            if not any(mask):
                whole = super().apply_chat_template(conversations[number], chat_template, tokenize=True)
                raise ValueError(
                    f"`output_labels=True` needs an answer to train on, row {number} of `conversation` has none in its "
                    f"{len(ids)} tokens, of {len(whole[0])} before any truncation."
                )
        if isinstance(input_ids, torch.Tensor):
            return torch.tensor(labels)
        return np.array(labels) if isinstance(input_ids, np.ndarray) else labels

    def apply_transcription_request(
        self,
        audio: str | list[str] | AudioInput,
        prompt: str | list[str] | None = None,
        tokenize: bool = True,
        **kwargs: Unpack[SalmonnProcessorKwargs],
    ) -> BatchFeature | list[str]:
        """
        Prepares inputs that ask for a transcription of each clip.

        Args:
            audio (`str`, `list[str]`, `np.ndarray`, `torch.Tensor` or a list of these):
                Clips: paths, URLs, base64, waveforms of 16 kHz, or rows of the column `audio` of `datasets`.
            prompt (`str` or `list[str]`, *optional*):
                What to ask instead of `transcription_prompt`, for all clips or for each.
            tokenize (`bool`, *optional*, defaults to `True`):
                Whether to return model inputs, or the prompts as text.
            kwargs (`dict`, *optional*):
                Passed on to [`~SalmonnProcessor.apply_chat_template`].

        Returns:
            [`BatchFeature`] for `generate`, or a `list[str]`.
        """
        clips = _list_clips(audio)
        if not clips:
            raise ValueError("`audio` must hold at least one clip, got none.")
        if not isinstance(prompt, (str, list, tuple, type(None))):
            raise TypeError(f"`prompt` must be a string or a list of strings, got {type(prompt).__name__}.")
        prompts = [prompt] * len(clips) if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(clips):
            raise ValueError(
                f"`prompt` must hold one prompt for each clip, got {len(prompts)} for {len(clips)} clips."
            )
        conversations = []
        for clip, question in zip(clips, prompts):
            if question is not None and not isinstance(question, str):
                raise TypeError(f"`prompt` must be a string or a list of strings, got {type(question).__name__}.")
            text = {"type": "text", "text": self.transcription_prompt if question is None else question}
            conversations.append([{"role": "user", "content": [{"type": "audio", "audio": clip}, text]}])
        return self.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=tokenize, return_dict=tokenize, **kwargs
        )

    def transcription_prompt_ids(self) -> list[int]:
        """Ids of the transcription prompt with one placeholder, for `SalmonnConfig.transcription_prompt_ids`."""
        clip = np.zeros(1, dtype=np.float32)  # not looked at: the prompt is rendered only
        text = self.apply_transcription_request(clip, tokenize=False)[0]
        return self.tokenizer(text, add_special_tokens=not self._has_special_tokens(text)).input_ids

    def transcription_separator_ids(self) -> list[int]:
        """Ids between two transcripts, for `SalmonnConfig.transcription_separator_ids`: a space, if decoding adds none."""
        word, space = (self.tokenizer(text, add_special_tokens=False).input_ids for text in ("a", " "))
        return [] if self.tokenizer.decode(word + word) == "a a" else space


def _check_settings(
    tokenizer, audio_token, window_seconds, stride_seconds, num_query_tokens, pad_last_window, transcription_prompt
) -> None:
    """Raises `ValueError` or `TypeError` for arguments that no model can have."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"`tokenizer` must be a tokenizer, got {type(tokenizer).__name__}.")
    for name, value in (("audio_token", audio_token), ("transcription_prompt", transcription_prompt)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"`{name}` must be a string that is not empty, got {value!r}.")
    if audio_token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token):
        raise ValueError(f"`audio_token` must be a token of its own, got {audio_token!r}, which has another meaning.")
    if not isinstance(num_query_tokens, int) or isinstance(num_query_tokens, bool) or num_query_tokens < 1:
        raise ValueError(f"`num_query_tokens` must be an integer of at least 1, got {num_query_tokens!r}.")
    if not isinstance(pad_last_window, bool):
        raise TypeError(f"`pad_last_window` must be True or False, got {pad_last_window!r}.")
    if window_seconds is None:
        return
    for name, value in (("window_seconds", window_seconds), ("stride_seconds", stride_seconds)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 < value < float("inf") or seconds_to_frames(value) < 1:
            raise ValueError(f"`{name}` must be a number of seconds, of at least one frame of 0.02 s, got {value!r}.")
    if seconds_to_frames(stride_seconds) > seconds_to_frames(window_seconds):
        raise ValueError(
            f"`stride_seconds` must be at most `window_seconds`, or what is between windows is never heard, got "
            f"{stride_seconds} and {window_seconds}."
        )


@contextmanager
def _errors_of_templates():
    """Turns what Jinja raises into a `ValueError`."""
    try:
        yield
    except (TemplateError, OverflowError, RecursionError) as error:  # its sandbox bounds ranges
        raise ValueError(f"`chat_template` cannot write this conversation: {error}") from error


def _check_texts(text) -> None:
    if text is None:
        return
    if isinstance(text, (list, tuple)) and not len(text):
        raise ValueError("`text` must hold at least one string, got none.")
    for sample in [text] if isinstance(text, str) else text if isinstance(text, (list, tuple)) else ():
        if isinstance(sample, str):
            check_text("text", sample)


def _is_text(text) -> bool:
    return isinstance(text, str) or (isinstance(text, (list, tuple)) and all(isinstance(part, str) for part in text))


def _list_clips(audio) -> list:
    """One clip, a list of clips or a list of lists as one list. A list of numbers is one clip."""
    if not isinstance(audio, (list, tuple)) or (audio and isinstance(audio[0], (int, float))):
        return [audio]
    return [clip for item in audio for clip in _list_clips(item)]


def _convert_part(part: dict) -> dict:
    """A part of a message as `{"type": "text", "text"}` or `{"type": "audio", "audio"}`, from each way to write it."""
    kind, source = part.get("type"), None
    if kind == "text" and isinstance(part.get("text"), str):
        return dict(part)
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        data = part["input_audio"].get("data")
        source = f"data:audio/{part['input_audio'].get('format', 'wav')};base64,{data}" if _is_given(data) else None
    elif kind == "audio_url":
        source = part.get("audio_url")
        source = source.get("url") if isinstance(source, dict) else source
        source = source if isinstance(source, str) else None
    elif kind == "audio":
        source = next((part[name] for name in ("audio", "url", "path", "base64") if part.get(name) is not None), None)
    if source is None:
        raise ValueError(
            "`conversation` must have parts of type 'text' with a text, 'audio' with a clip, 'input_audio' with its data or "
            f"'audio_url' with its URL, got {shorten(part)}."
        )
    return {"type": "audio", "audio": source}


def _is_given(data) -> bool:
    return isinstance(data, str) and bool(data)


def _read_clip(clip, sampling_rate: int, reads: bool = True):
    """
    The samples of a clip: of what [`load_clip`] reads, if anything `reads` them, and of each form in which `datasets` has
    clips, `{"array", "sampling_rate"}`, `{"bytes", "path"}`, torchcodec's `AudioDecoder`. Arrays alone stay as they are.
    """
    if isinstance(clip, torch.Tensor):
        return clip.detach().cpu().numpy()
    if isinstance(clip, np.ndarray) or _is_samples(clip):
        return clip
    if hasattr(clip, "get_all_samples"):
        samples = clip.get_all_samples()
        clip = {"array": samples.data.numpy(), "sampling_rate": samples.sample_rate}
    if isinstance(clip, (str, Path, bytes)):
        return load_clip(clip, sampling_rate) if reads else clip
    if not isinstance(clip, dict):
        raise TypeError(f"`audio` must be a path, an address, base64 or samples, got {shorten(clip)}.")
    for name in ("bytes", "path"):
        source = clip.get(name)
        if source is not None and clip.get("array") is None:
            return _read_clip(source, sampling_rate, reads)
    array = clip.get("array", clip.get("raw"))
    if array is None or clip.get("sampling_rate") is None:
        raise ValueError(
            "`audio` must be a path, samples, or a dict of `array` and `sampling_rate`, or of `bytes` or `path`, got a "
            f"dict of {', '.join(map(repr, clip)) or 'nothing'}."
        )
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[0] < array.shape[1]:  # there are more samples than channels
        array = array.T
    return to_mono(array, clip["sampling_rate"], sampling_rate)


def _is_samples(clip) -> bool:
    return isinstance(clip, (list, tuple)) and len(clip) > 0 and isinstance(clip[0], (int, float))


# Transformers before 5.23 has no defaults on the processor itself, and looks for them here.
SalmonnProcessorKwargs._defaults = {
    "text_kwargs": SalmonnProcessor.text_kwargs,
    "audio_kwargs": SalmonnProcessor.audio_kwargs,
}

SalmonnProcessor.register_for_auto_class()
# A copy that travels in a checkpoint must not register itself: it would then run for every other checkpoint too.
if not __package__:
    AutoProcessor.register(SalmonnConfig, SalmonnProcessor, exist_ok=True)

__all__ = ["SalmonnProcessor", "wrap_chat_template"]
