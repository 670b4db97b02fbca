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

import numpy as np
import torch
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoProcessor
from transformers.audio_utils import AudioInput, make_audio_chat_template_content, make_list_of_audio_chat_template
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.tokenization_utils_base import AddedToken, PreTrainedTokenizerBase, TextInput
from transformers.utils import auto_docstring


try:
    from .configuration_salmonn import SalmonnConfig, count_windows, seconds_to_frames
    from .feature_extraction_salmonn import SalmonnFeatureExtractor
except ImportError:
    from configuration_salmonn import SalmonnConfig, count_windows, seconds_to_frames
    from feature_extraction_salmonn import SalmonnFeatureExtractor


# What is raised on files that are no audio. Transformers says what to install where a library is missing.
LOADING_ERRORS: tuple[type[Exception], ...] = (OSError,)
try:
    from soundfile import SoundFileError

    LOADING_ERRORS += (SoundFileError,)
    from audioread import DecodeError  # used by Transformers before 5.23, where installed

    LOADING_ERRORS += (DecodeError,)
except ImportError:
    pass

AUDIO_TOKEN = "<|audio|>"

# How the released models were trained to find a clip in a message.
TAGGED_CLIP = f"<Speech>{AUDIO_TOKEN}</Speech>"

# Turns the parts of a message into one string: templates of text LLMs know nothing else. Parts are separated by a space.
_JOIN_PARTS = """
{%- set joined = namespace(messages=[], text='') -%}
{%- for message in messages -%}
    {%- if message['content'] is string or message['content'] is not iterable -%}
        {%- set joined.messages = joined.messages + [message] -%}
    {%- else -%}
        {%- set joined.text = '' -%}
        {%- for part in message['content'] -%}
            {%- set text = 'CLIP' if part['type'] == 'audio' else part['text'] -%}
            {%- set joined.text = joined.text + ('' if loop.first else ' ') + text -%}
        {%- endfor -%}
        {%- set joined.messages = joined.messages + [dict(message, content=joined.text)] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = joined.messages -%}
"""

# `USER: ...\nASSISTANT: ...</s>`, the format of the released models.
_USER_ASSISTANT = """
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        {{- 'ASSISTANT:' -}}
        {%- generation -%}{{- ' ' + message['content'] + eos_token -}}{%- endgeneration -%}
    {%- elif message['role'] == 'user' -%}
        {{- 'USER: ' + message['content'] + '\\n' -}}
    {%- else -%}
        {{- message['content'] + '\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


def wrap_chat_template(chat_template: str, clip: str = TAGGED_CLIP) -> str:
    """
    Makes a chat template that takes clips of one, as it comes with an LLM, that takes text. `clip` is what a clip is
    written as.
    """
    return _JOIN_PARTS.strip().replace("CLIP", clip) + chat_template


SALMONN_CHAT_TEMPLATE = wrap_chat_template(_USER_ASSISTANT.strip())


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, audio_token: str = AUDIO_TOKEN) -> PreTrainedTokenizerBase:
    """
    Readies an LLM's tokenizer for SALMONN: adds `audio_token` where it is missing, pads on the left, and with an
    existing token where the LLM has none for padding (`<unk>`, as Vicuna does, or else the end of the text).

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
    tokenizer.padding_side = "left"
    return tokenizer


class SalmonnProcessorKwargs(ProcessingKwargs, total=False):
    """Arguments of [`SalmonnProcessor`]; a class of its own because of `_defaults`, below."""


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
        speech_config, beats_config = config.speech_config, config.beats_config
        feature_extractor = SalmonnFeatureExtractor(
            feature_size=speech_config.num_mel_bins,
            num_fbank_bins=0 if beats_config is None else beats_config.num_mel_bins,
            chunk_length=speech_config.max_source_positions // 50,
            fixed_length=config.fixed_length,
            max_audio_seconds=config.max_audio_seconds,
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
            Whether to return `labels` for training: the answers and their end tokens, and -100 elsewhere.

        Returns:
            [`BatchFeature`]: `input_ids` and `attention_mask` of shape `(batch_size, sequence_length)`, with
            `input_features` and `input_features_mask` of all segments if there is audio. Without `text`, the features
            alone, which `generate` transcribes.
        """
        # speech recognition servers give the audio as the first argument
        if audio is None and text is not None and not _is_text(text):
            text, audio = None, text
        if output_labels and text is None:
            raise ValueError("`output_labels=True` needs `text` with answers, got none.")
        if text is None:
            # to be transcribed: long clips piece by piece
            kwargs = {"cut_at_silence": True, **kwargs}
        if not output_labels:
            return super().__call__(text=text, audio=audio, **kwargs)

        texts = [text] if isinstance(text, str) else list(text)
        kwargs = {**kwargs, "return_offsets_mapping": True, "return_text_replacement_offsets": True}
        inputs = super().__call__(text=texts, audio=audio, **kwargs)
        offsets, replacements = inputs.pop("offset_mapping"), inputs.pop("text_replacement_offsets")
        masks = [self._find_answers(*row) for row in zip(texts, offsets, replacements)]
        input_ids = inputs["input_ids"]
        labels = [[i if keep else -100 for i, keep in zip(ids, mask)] for ids, mask in zip(input_ids, masks)]
        inputs["labels"] = torch.tensor(labels) if isinstance(input_ids, torch.Tensor) else np.array(labels)
        return inputs

    def _find_answers(self, text: str, offsets, replacements: list[dict]) -> list[bool]:
        """For each token, whether it belongs to an answer of the assistant or ends one."""
        header, end = re.escape(self._answer_header()), re.escape(self.tokenizer.eos_token)
        spans = [match.span(1) for match in re.finditer(rf"{header}(.*?(?:{end}|\Z))", text, re.DOTALL)]
        if not any(start < stop for start, stop in spans):
            raise ValueError(
                f"`output_labels=True` needs an answer after {self._answer_header()!r} to train on, got {text!r}."
            )

        def shift(position: int) -> int:
            """The place in the text that is tokenized, where placeholders have become longer."""
            before = [replacement for replacement in replacements if replacement["span"][1] <= position]
            return position + sum(len(replacement["replacement"]) - len(replacement["text"]) for replacement in before)

        spans = [(shift(start), shift(stop)) for start, stop in spans]
        # padding has the empty span (0, 0)
        return [any(start < stop and a <= start and stop <= b for a, b in spans) for start, stop in offsets]

    def _answer_header(self) -> str:
        """What the chat template writes before an answer."""
        question = [{"role": "user", "content": "?"}]
        without = super().apply_chat_template(question, tokenize=False)
        return super().apply_chat_template(question, tokenize=False, add_generation_prompt=True)[len(without) :]

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        with _errors_of_loading():
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
        extractor = self.feature_extractor
        window = stride = None
        if self.window_seconds is not None:
            window, stride = seconds_to_frames(self.window_seconds), seconds_to_frames(self.stride_seconds)
        windows = 0
        for length in extractor.segment_lengths(num_samples):
            length = extractor.segment_samples if extractor.fixed_length else length
            windows += count_windows(length // (2 * extractor.hop_length), window, stride, self.pad_last_window)
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

    def apply_chat_template(self, conversation, *args, **kwargs):
        """
        Like [`~ProcessorMixin.apply_chat_template`], for conversations with any number of `{"type": "audio"}` parts.
        Raises a `ValueError` if a user's text holds the audio placeholder, or a clip cannot be read.
        """
        conversations = [conversation] if conversation and isinstance(conversation[0], dict) else conversation
        forbidden = {"user": [self.audio_token], "assistant": [self.audio_token]}
        if {**kwargs, **(kwargs.get("processor_kwargs") or {})}.get("output_labels"):
            forbidden["user"].append(self._answer_header())  # what follows it would be trained on as an answer
        for message in (message for messages in conversations for message in messages):
            content = message.get("content") or []
            texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
            for word in forbidden["assistant" if message.get("role") == "assistant" else "user"]:
                if any(word in text for text in texts):
                    raise ValueError(
                        f"`conversation` must not hold {word!r} in its text: clips are parts of type 'audio', and "
                        f"answers are messages of their own. Got {message!r}."
                    )
        with _errors_of_loading():
            return super().apply_chat_template(conversation, *args, **kwargs)

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
                Clips: paths, URLs, base64 or waveforms of 16 kHz.
            prompt (`str` or `list[str]`, *optional*):
                What to ask instead of `transcription_prompt`, for all clips or for each.
            tokenize (`bool`, *optional*, defaults to `True`):
                Whether to return model inputs, or the prompts as text.
            kwargs (`dict`, *optional*):
                Passed on to [`~SalmonnProcessor.apply_chat_template`].

        Returns:
            [`BatchFeature`] for `generate`, or a `list[str]`.
        """
        clips = list(make_list_of_audio_chat_template(audio))
        clips = [clip.cpu().numpy() if isinstance(clip, torch.Tensor) else clip for clip in clips]
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
            conversations.append([{"role": "user", "content": [make_audio_chat_template_content(clip), text]}])
        return self.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=tokenize, return_dict=tokenize, **kwargs
        )

    def transcription_prompt_ids(self) -> list[int]:
        """Ids of the transcription prompt with one placeholder, for `SalmonnConfig.transcription_prompt_ids`."""
        clip = np.zeros(1, dtype=np.float32)  # not looked at: the prompt is rendered only
        return self.tokenizer(self.apply_transcription_request(clip, tokenize=False)[0]).input_ids


@contextmanager
def _errors_of_loading():
    """Turns what loaders of files raise, each its own, into a `ValueError`."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise ValueError(f"`audio` must be a readable audio file: {error}") from error


def _is_text(text) -> bool:
    return isinstance(text, str) or (isinstance(text, (list, tuple)) and all(isinstance(part, str) for part in text))


# Transformers before 5.23 has no defaults on the processor itself, and looks for them here.
SalmonnProcessorKwargs._defaults = {
    "text_kwargs": SalmonnProcessor.text_kwargs,
    "audio_kwargs": SalmonnProcessor.audio_kwargs,
}

SalmonnProcessor.register_for_auto_class()
# A copy that travels in a checkpoint must not register itself: it would then run for every other checkpoint too.
if not __package__:
    AutoProcessor.register(SalmonnConfig, SalmonnProcessor, exist_ok=True)

__all__ = ["SalmonnProcessor"]
