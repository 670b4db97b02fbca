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

"""Feature extraction of SALMONN: waveforms to one tensor that carries the input of both encoders."""

import numpy as np
import torch
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import TensorType


try:
    from .configuration_salmonn import SalmonnConfig
    from .feature_extraction_beats import BeatsFeatureExtractor, validate_waveforms
except ImportError:
    from configuration_salmonn import SalmonnConfig
    from feature_extraction_beats import BeatsFeatureExtractor, validate_waveforms


class SalmonnFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Constructs a SALMONN feature extractor.

    A clip becomes segments of at most 30 s, and a segment becomes one matrix of 100 columns a second: Whisper's log-mel
    rows above BEATs' filter bank rows. One tensor for both encoders passes through everything that carries one.

    This feature extractor inherits from [`~feature_extraction_sequence_utils.SequenceFeatureExtractor`] which contains
    most of the main methods. Users should refer to this superclass for more information regarding those methods.

    Args:
        feature_size (`int`, *optional*, defaults to 80):
            Number of log-mel bins of the speech encoder (Whisper large-v3 has 128).
        num_fbank_bins (`int`, *optional*, defaults to 128):
            Number of filter banks of BEATs; 0 for speech-only models.
        sampling_rate (`int`, *optional*, defaults to 16000):
            The sampling rate of the waveforms in hertz (Hz).
        hop_length (`int`, *optional*, defaults to 160):
            Samples from one column to the next.
        chunk_length (`int`, *optional*, defaults to 30):
            Length of a whole segment in seconds.
        n_fft (`int`, *optional*, defaults to 400):
            Size of the Fourier transform of the log-mel rows.
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of the samples, and of the filter bank columns, that pad a segment.
        padding_side (`str`, *optional*, defaults to `"left"`):
            The tokenizer's, for pipelines that want both to agree. Segments are always padded at their end.
        fixed_length (`bool`, *optional*, defaults to `True`):
            Whether the encoders read segments padded to `chunk_length`, or as long as they are.
    """

    model_input_names = ["input_features", "input_features_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        num_fbank_bins: int = 128,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        chunk_length: int = 30,
        n_fft: int = 400,
        padding_value: float = 0.0,
        padding_side: str = "left",
        fixed_length: bool = True,
        **kwargs,
    ):
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            padding_side=padding_side,
            **kwargs,
        )
        self.num_fbank_bins = num_fbank_bins
        self.hop_length = hop_length
        self.chunk_length = chunk_length
        self.n_fft = n_fft
        self.fixed_length = fixed_length
        self._whisper = WhisperFeatureExtractor(feature_size, sampling_rate, hop_length, chunk_length, n_fft)
        self._beats = BeatsFeatureExtractor(num_fbank_bins or 128, sampling_rate)

    def to_dict(self):
        output = super().to_dict()
        del output["_whisper"], output["_beats"]  # made anew from the rest
        return output

    @property
    def segment_samples(self) -> int:
        """Samples in a whole segment: 480,000."""
        return self.chunk_length * self.sampling_rate

    def segment_lengths(self, num_samples: int) -> list[int]:
        """
        Samples in each segment of a clip of `num_samples`, padding included that every segment gets: to one second, as
        the released code does, and to whole encoder frames (20 ms) where only the real length is encoded.
        """
        whole, rest = divmod(num_samples, self.segment_samples)
        lengths = [self.segment_samples] * whole
        if rest:
            frame = 1 if self.fixed_length else 2 * self.hop_length
            lengths.append(-(-max(rest, self.sampling_rate) // frame) * frame)
        return lengths

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list[float] | list[np.ndarray] | list[torch.Tensor],
        sampling_rate: int | None = None,
        padding: bool | str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
        device: str | torch.device = "cpu",
        **kwargs,
    ) -> BatchFeature:
        """
        Featurise one clip or a list of clips, of any length. Audio is never cut off: arguments that pad or truncate
        text (`max_length`, `truncation`, ...) may come along and have no effect here.

        Args:
            raw_speech (`np.ndarray`, `torch.Tensor`, `list[float]` or a list of these):
                Mono clips of shape `(samples,)`, floating point, in [-1, 1).
            sampling_rate (`int`, *optional*):
                The sampling rate of `raw_speech`. Needed: at another rate features would be wrong without any error.
            padding (`bool` or `str`, *optional*):
                `"longest"` for features as long as the longest segment, to save memory, where `fixed_length=False`.
                Otherwise all features are of a whole segment, so that pipelines can put them together. Models of real
                length read no padding either way.
            return_attention_mask (`bool`, *optional*):
                Whether to call the mask `attention_mask` instead of `input_features_mask`: the ASR pipeline, which asks
                for it, forwards a mask of that name only.
            return_tensors (`str` or [`~utils.TensorType`], *optional*):
                `"pt"` for `torch.Tensor`, `"np"` or nothing for `np.ndarray`.
            device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
                Where to compute. Features are returned on the CPU.

        Returns:
            [`BatchFeature`] with `input_features` of shape `(segments, feature_size + num_fbank_bins, frames)`, float32,
            and `input_features_mask` of shape `(segments, frames)`, int64: 0 where the filter bank columns are padding,
            and n where those of the n-th segment of a clip are real. The segments of all clips follow each other.

        Raises:
            ValueError: on a wrong or missing `sampling_rate`, an empty clip, several channels, or NaN and inf.
            TypeError: on samples that are not floating-point numbers.
        """
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` must be {self.sampling_rate}, the rate {self.__class__.__name__} works at, got "
                f"{sampling_rate}. Resample `raw_speech` first, and say at which rate it is."
            )
        segments, lengths, numbers = self._split(validate_waveforms("raw_speech", raw_speech))

        with torch.autocast(torch.device(device).type, enabled=False):  # the caller's is the model's
            mel = self._whisper._torch_extract_fbank_features(segments.astype(np.float32), device)
        mel = mel.reshape(
            len(segments), self.feature_size, -1
        )  # (segments, mel bins, frames), 3000 of a whole segment
        only_real = padding == "longest" and not self.fixed_length
        num_frames = (max(lengths) if only_real else self.segment_samples) // self.hop_length
        mel = mel[..., :num_frames]
        input_features = np.full(
            (len(segments), self.feature_size + self.num_fbank_bins, num_frames), self.padding_value, dtype=np.float32
        )
        input_features[:, : self.feature_size, : mel.shape[-1]] = mel
        if not self.fixed_length:
            # the speech encoder's first convolution looks one column ahead: let it see the zeros that it pads with
            ends = np.array(lengths) // self.hop_length
            input_features[:, : self.feature_size] *= (np.arange(num_frames) < ends[:, None])[:, None]

        real_frames = np.array([self._beats.num_frames(length) for length in lengths])
        is_real = np.arange(num_frames) < real_frames[:, None]
        if self.num_fbank_bins:
            fbank = self._beats.extract_fbank(segments[:, : max(lengths)], device)  # (segments, frames, fbank bins)
            fbank[~is_real[:, : fbank.shape[1]]] = self.padding_value
            input_features[:, self.feature_size :, : fbank.shape[1]] = fbank.transpose(0, 2, 1)

        mask_name = "attention_mask" if return_attention_mask else "input_features_mask"
        data = {"input_features": input_features, mask_name: is_real * np.array(numbers)[:, None]}
        return BatchFeature(data, tensor_type=return_tensors)

    def _split(self, clips: list[np.ndarray]) -> tuple[np.ndarray, list[int], list[int]]:
        """Padded segments, `(segments, samples)` of float64; their lengths; and their numbers in their clip."""
        lengths = [self.segment_lengths(len(clip)) for clip in clips]
        size = self.segment_samples
        if not self.fixed_length:
            # the silence up to 30 s changes nothing before it, apart from the columns whose windows reach into it
            size = min(size, max(map(max, lengths)) + self.n_fft)
        segments = np.full((sum(map(len, lengths)), size), self.padding_value)
        numbers = [number for clip_lengths in lengths for number in range(1, len(clip_lengths) + 1)]
        first = 0
        for clip, clip_lengths in zip(clips, lengths):
            # the segments of a clip lie behind each other, so the whole clip is one copy
            segments[first : first + len(clip_lengths)].reshape(-1)[: len(clip)] = clip
            first += len(clip_lengths)
        return segments, sum(lengths, []), numbers


SalmonnFeatureExtractor.register_for_auto_class()
# A copy that travels in a checkpoint must not register itself: it would then run for every other checkpoint too.
if not __package__:
    AutoFeatureExtractor.register(SalmonnConfig, SalmonnFeatureExtractor, exist_ok=True)

__all__ = ["SalmonnFeatureExtractor"]
