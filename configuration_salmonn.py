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

"""Configuration of SALMONN, and the one place where lengths of audio become numbers of tokens."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto import modeling_auto
from transformers.utils import auto_docstring


try:
    from .configuration_beats import MAX_LAYERS, MAX_WIDTH, BeatsConfig, plain_errors
except ImportError:
    from configuration_beats import MAX_LAYERS, MAX_WIDTH, BeatsConfig, plain_errors


# Features have 100 columns a second. Both encoders make 50 vectors of them: Whisper one of two log-mel frames, BEATs 8
# tokens of 16 filter bank frames.
COLUMNS_PER_SECOND = 100
FRAMES_PER_SECOND = 50
BEATS_PATCH_SIZE = 16
DEFAULT_SEGMENT_SECONDS = 30
CONNECTOR_TYPES = ("qformer", "linear", "cross_attention")

# `transformers serve`, the speech pipelines and Trainer (which shifts the labels that it smooths) look these class names
# up in plain dicts that `register` does not fill.
for _names in (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
):
    _names.setdefault("salmonn", "SalmonnForConditionalGeneration")

# SALMONN's Q-Former is a BERT of two layers that cross-attends in each of them and reads no text.
_QFORMER_DEFAULTS = {"num_hidden_layers": 2, "cross_attention_frequency": 1}
_WHISPER_LARGE_V2 = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
_VICUNA_13B = {
    "vocab_size": 32001,  # the LLM's own 32,000 and the audio placeholder
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "pad_token_id": 0,
}


def seconds_to_frames(seconds: float) -> int:
    """Encoder frames in a duration of `seconds`, rounded to even halves as the released code does (12.5 -> 12)."""
    return round(1500 * seconds / 30)


def count_frames(num_columns, has_speech: bool):
    """
    Encoder frames of a segment of `num_columns` feature columns (an int or a tensor of ints).

    Whisper gives one for two columns. BEATs alone gives its tokens: it drops what does not fill a patch, and the last
    filter bank window of 25 ms begins more than two columns before the end.
    """
    # CODEPATH: models without Whisper
    if not has_speech:
        return (num_columns - 2) // BEATS_PATCH_SIZE * (BEATS_PATCH_SIZE // 2)
    return num_columns // 2


def count_windows(num_frames, window: int | None, stride: int | None, pad_last_window: bool = False):
    """
    Number of windows of `window` frames, `stride` apart, in `num_frames` encoder frames (an int or a tensor of ints).

    The remainder is dropped, as the released code drops the last 4 of 1500 frames (88 windows of 17), unless
    `pad_last_window` asks for the papers' rounding up (89). A segment always has one window, and exactly one when
    `window` is `None`.
    """
    if window is None:
        return 1
    missing = num_frames - window
    further = -(-missing // stride) if pad_last_window else missing // stride
    return further * (further > 0) + 1  # a `max` that takes tensors too


@auto_docstring(
    custom_intro="""
    Configuration of a SALMONN model: a Whisper encoder, a BEATs encoder or both, a connector and an LLM. The defaults
    are those of the released SALMONN-13B (arXiv 2310.13289).
    """
)
@plain_errors
@strict
class SalmonnConfig(PreTrainedConfig):
    r"""
    speech_config (`dict` or `WhisperConfig`, *optional*):
        Configuration of the Whisper model whose encoder hears speech. Defaults to Whisper large-v2. `None` makes a
        model that hears with BEATs alone, such as NatureLM-audio (arXiv 2411.07186).
    beats_config (`dict` or `BeatsConfig`, *optional*):
        Configuration of the BEATs encoder, which hears everything else. `None` makes the speech-only model of
        arXiv 2309.13963.
    segment_seconds (`int`, *optional*):
        Length of a whole segment. With Whisper, that of its positions; with BEATs alone, 30 unless given.
    qformer_config (`dict` or `Blip2QFormerConfig`, *optional*):
        Configuration of the Q-Former. Its `encoder_hidden_size` is derived from the encoders.
    text_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the LLM: any decoder that `AutoModel` knows. Defaults to Vicuna-13B.
    audio_token_id (`int`, *optional*, defaults to 32000):
        Id of the placeholder that stands in the prompt, once for each audio token.
    connector_type (`str`, *optional*, defaults to `"qformer"`):
        What turns encoder frames into LLM embeddings: `"qformer"`, `"linear"` or `"cross_attention"`.
    num_query_tokens (`int`, *optional*, defaults to 1):
        Audio tokens that the Q-Former writes for each window. The other connectors write one.
    window_seconds (`float`, *optional*, defaults to 0.333333):
        Length of a window. `None` lets the Q-Former read each segment as a whole.
    stride_seconds (`float`, *optional*, defaults to 0.333333):
        Distance between the starts of two windows.
    pad_last_window (`bool`, *optional*, defaults to `False`):
        Whether frames that do not fill a window are padded with zeros to one more window rather than dropped.
    fixed_length (`bool`, *optional*, defaults to `True`):
        Whether every segment is encoded as a whole one, silence included, as the released weights need it.
        `False` encodes the real length only, for models trained so.
    segment_position_embeddings (`bool`, *optional*, defaults to `False`):
        Whether the sinusoid of the segment's place in its clip is added to the encoders' output (Seg-QF).
    connector_hidden_size (`int`, *optional*, defaults to 2048):
        Inner width of the linear and the cross-attention connector.
    connector_num_attention_heads (`int`, *optional*, defaults to 8):
        Attention heads of the cross-attention connector.
    max_audio_seconds (`float`, *optional*, defaults to 30):
        Longest audio that the model was trained on. Longer clips are transcribed piece by piece, and `generate` warns of
        them. `None` is any length.
    max_segments_at_once (`int`, *optional*, defaults to 16):
        Segments that the encoders read at once, which bounds their memory: more are read in several passes.
    transcription_prompt_ids (`list[int]`, *optional*):
        Prompt that `generate` uses for audio without `input_ids`; holds `audio_token_id` once.
    transcription_separator_ids (`list[int]`, *optional*):
        What stands between the transcripts of two pieces of a clip, such as a space, where the LLM's tokenizer needs it.

    Example:

    ```python
    >>> from configuration_salmonn import SalmonnConfig
    >>> from modeling_salmonn import SalmonnForConditionalGeneration

    >>> configuration = SalmonnConfig(text_config={"model_type": "qwen2", "vocab_size": 151936}, audio_token_id=151666)
    >>> model = SalmonnForConditionalGeneration(configuration)
    ```"""

    model_type = "salmonn"
    keys_to_ignore_at_inference = ["past_key_values", "audio_hidden_states"]
    sub_configs_defaults = {
        "speech_config": SubConfigSpec(
            config_class=AutoConfig, model_type="whisper", init_kwargs=_WHISPER_LARGE_V2, optional=True
        ),
        "beats_config": SubConfigSpec(config_class=BeatsConfig, optional=True),
        "qformer_config": SubConfigSpec(
            config_class=AutoConfig, model_type="blip_2_qformer", init_kwargs=_QFORMER_DEFAULTS
        ),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama", init_kwargs=_VICUNA_13B),
    }

    # `None` means: without this encoder. The class comes first, since a type that does not fit costs a text of the value.
    speech_config: PreTrainedConfig | dict | None = field(default_factory=lambda: dict(_WHISPER_LARGE_V2))
    beats_config: PreTrainedConfig | dict | None = field(default_factory=dict)
    segment_seconds: int | None = None
    qformer_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    audio_token_id: int = 32000
    connector_type: str = "qformer"
    num_query_tokens: int = 1
    window_seconds: float | int | None = 0.333333
    stride_seconds: float | int | None = 0.333333
    pad_last_window: bool = False
    fixed_length: bool = True
    segment_position_embeddings: bool = False
    connector_hidden_size: int = 2048
    connector_num_attention_heads: int = 8
    max_audio_seconds: float | int | None = 30
    max_segments_at_once: int = 16
    transcription_prompt_ids: list[int] | None = None
    transcription_separator_ids: list[int] | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if isinstance(self.qformer_config, dict):
            self.qformer_config = {**_QFORMER_DEFAULTS, **self.qformer_config}
        super().__post_init__(**kwargs)
        if self.speech_config is not None and self.speech_config.model_type != "whisper":
            raise ValueError(f"`speech_config` must be of a Whisper, got one of {self.speech_config.model_type!r}.")
        if self.speech_config is None and self.segment_seconds is None:
            self.segment_seconds = DEFAULT_SEGMENT_SECONDS
        self.qformer_config.encoder_hidden_size = self.encoder_width
        self.validate_architecture()  # `@strict` does so too, but raises an error of its own kind

    @property
    def encoder_width(self) -> int:
        """Width of the joint stream: Whisper's and BEATs' vectors side by side."""
        return self.speech_width + (0 if self.beats_config is None else self.beats_config.hidden_size)

    @property
    def speech_width(self) -> int:
        """Width of Whisper's vectors; 0 without it."""
        return 0 if self.speech_config is None else self.speech_config.d_model

    @property
    def num_mel_bins(self) -> int:
        """Rows of the features that are Whisper's, the first ones; 0 without it."""
        return 0 if self.speech_config is None else self.speech_config.num_mel_bins

    @property
    def num_fbank_bins(self) -> int:
        """Rows of the features that are BEATs', the last ones; 0 without it."""
        return 0 if self.beats_config is None else self.beats_config.num_mel_bins

    @property
    def segment_columns(self) -> int:
        """Feature columns, of 10 ms, of a whole segment."""
        if self.speech_config is None:
            return COLUMNS_PER_SECOND * self.segment_seconds
        return 2 * self.speech_config.max_source_positions

    @property
    def audio_config(self) -> PreTrainedConfig:
        """Configuration of the speech encoder, or of BEATs alone, under the name that inference engines look for."""
        return self.beats_config if self.speech_config is None else self.speech_config

    @property
    def window_frames(self) -> int | None:
        """Encoder frames in a window; `None` if the Q-Former reads whole segments."""
        return None if self.window_seconds is None else seconds_to_frames(self.window_seconds)

    @property
    def stride_frames(self) -> int | None:
        """Encoder frames from the start of a window to the next."""
        return None if self.window_seconds is None else seconds_to_frames(self.stride_seconds)

    def count_frames(self, num_columns):
        """Encoder frames of a segment of `num_columns` feature columns, see the function of this name."""
        return count_frames(num_columns, self.speech_config is not None)

    def num_audio_tokens(self, num_frames: int) -> int:
        """Audio tokens for one segment of `num_frames` encoder frames."""
        windows = count_windows(num_frames, self.window_frames, self.stride_frames, self.pad_last_window)
        return windows * self.num_query_tokens

    def validate_architecture(self):
        """Checks that span several fields, also run on saving. Raises a `ValueError`."""
        self._validate_encoders()
        if self.connector_type not in CONNECTOR_TYPES:
            raise ValueError(f"`connector_type` must be one of {CONNECTOR_TYPES}, got {self.connector_type!r}.")
        for name in (
            "num_query_tokens",
            "connector_hidden_size",
            "connector_num_attention_heads",
            "max_segments_at_once",
        ):
            if not 1 <= getattr(self, name) <= MAX_WIDTH:
                raise ValueError(f"`{name}` must be at least 1 and at most {MAX_WIDTH}, got {getattr(self, name)}.")
        if self.max_audio_seconds is not None and not self.max_audio_seconds >= 1:
            raise ValueError(f"`max_audio_seconds` must be at least 1, or None, got {self.max_audio_seconds}.")
        if self.connector_type != "qformer" and (self.num_query_tokens != 1 or self.window_seconds is None):
            raise ValueError(
                f"the {self.connector_type} connector writes one token for each window: it needs `num_query_tokens=1` "
                f"and `window_seconds`, got {self.num_query_tokens} and {self.window_seconds}."
            )
        if self.window_seconds is not None:
            self._validate_windows()
        self._validate_qformer()
        ends = self.text_config.eos_token_id
        if self.audio_token_id in (ends if isinstance(ends, (list, tuple)) else [ends]):
            raise ValueError(
                f"`audio_token_id` must be another one than `eos_token_id` of `text_config`, got {self.audio_token_id} for "
                "both."
            )
        if not 0 <= self.audio_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"`audio_token_id` must be an id of the LLM's vocabulary of {self.text_config.vocab_size}, "
                f"got {self.audio_token_id}."
            )
        if (
            self.connector_type == "cross_attention"
            and self.text_config.hidden_size % self.connector_num_attention_heads
        ):
            raise ValueError(
                f"`connector_num_attention_heads` must divide the LLM's width of {self.text_config.hidden_size}, "
                f"got {self.connector_num_attention_heads}."
            )
        # these belong to the head that SALMONN has of its own
        for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
            if getattr(self.text_config, name, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"`text_config` must be of an LLM whose head is a linear layer, got one with {name}="
                    f"{getattr(self.text_config, name)}."
                )
        prompt = self.transcription_prompt_ids
        if prompt is not None and prompt.count(self.audio_token_id) != 1:
            raise ValueError(
                f"`transcription_prompt_ids` must hold `audio_token_id` ({self.audio_token_id}) exactly once, "
                f"got {prompt.count(self.audio_token_id)} times."
            )

    def _validate_encoders(self):
        speech, beats = self.speech_config, self.beats_config
        if speech is None and beats is None:
            raise ValueError("One of `speech_config` and `beats_config` must be given, got None for both.")
        if speech is not None and speech.model_type != "whisper":
            raise ValueError(f"`speech_config` must be of a Whisper, got one of {speech.model_type!r}.")
        if speech is not None and self.segment_seconds not in (None, speech.max_source_positions / FRAMES_PER_SECOND):
            raise ValueError(
                f"`segment_seconds` must be {speech.max_source_positions / FRAMES_PER_SECOND:g} with this "
                f"`speech_config`, which has {speech.max_source_positions} positions, got {self.segment_seconds}."
            )
        if speech is None and self.segment_seconds < 1:
            raise ValueError(f"`segment_seconds` must be at least 1, got {self.segment_seconds}.")
        # what gives the 50 vectors a second that windows are measured by
        if speech is None and (beats.patch_size, beats.num_mel_bins) != (BEATS_PATCH_SIZE, BEATS_PATCH_SIZE**2 // 2):
            raise ValueError(
                f"`beats_config` must have patches of {BEATS_PATCH_SIZE} and {BEATS_PATCH_SIZE**2 // 2} filter banks in "
                f"a model without `speech_config`, got {beats.patch_size} and {beats.num_mel_bins}."
            )

    def _validate_qformer(self):
        qformer = self.qformer_config
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            most = MAX_LAYERS if name == "num_hidden_layers" else MAX_WIDTH
            value = getattr(qformer, name, None)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"`{name}` of `qformer_config` must be an integer from 1 to {most}, got {value!r}.")
        if qformer.hidden_size % qformer.num_attention_heads:
            raise ValueError(
                f"`hidden_size` of `qformer_config` ({qformer.hidden_size}) must be a multiple of its "
                f"`num_attention_heads` ({qformer.num_attention_heads})."
            )

    def _validate_windows(self):
        if self.stride_seconds is None:
            raise ValueError("`stride_seconds` must be given with `window_seconds`, got None.")
        longest = self.segment_columns / COLUMNS_PER_SECOND
        for name in ("window_seconds", "stride_seconds"):
            seconds = getattr(self, name)
            if not 0 < seconds <= longest or seconds_to_frames(seconds) < 1:
                raise ValueError(
                    f"`{name}` must be between one frame of {1 / FRAMES_PER_SECOND} s and a segment of {longest} s, got "
                    f"{seconds}."
                )
        if self.stride_frames > self.window_frames:
            raise ValueError(
                f"`stride_seconds` must be at most `window_seconds`, or audio between the windows would not be heard, "
                f"got {self.stride_seconds} and {self.window_seconds}."
            )


SalmonnConfig.register_for_auto_class()
# A copy that travels in a checkpoint must not register itself: it would then run for every other checkpoint too.
if not __package__:
    AutoConfig.register("salmonn", SalmonnConfig, exist_ok=True)

__all__ = ["SalmonnConfig"]
