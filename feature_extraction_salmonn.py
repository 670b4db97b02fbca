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

"""Feature extraction of SALMONN: waveforms to one tensor that carries the input of its encoders."""

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import TensorType


try:
    from .audio_reading_salmonn import MAX_RATE, MIN_RATE
    from .configuration_beats import FBANK_MEAN, FBANK_STD
    from .configuration_salmonn import SalmonnConfig, count_frames
    from .feature_extraction_beats import (
        MAX_BINS,
        MAX_PADDING,
        BeatsFeatureExtractor,
        check_device,
        check_number,
        validate_waveforms,
    )
except ImportError:
    from audio_reading_salmonn import MAX_RATE, MIN_RATE
    from configuration_beats import FBANK_MEAN, FBANK_STD
    from configuration_salmonn import SalmonnConfig, count_frames
    from feature_extraction_beats import (
        MAX_BINS,
        MAX_PADDING,
        BeatsFeatureExtractor,
        check_device,
        check_number,
        validate_waveforms,
    )


MAX_SEGMENT_SECONDS = 3600


class SalmonnFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Constructs a SALMONN feature extractor.

    A clip becomes segments of at most 30 s, and a segment becomes one matrix of 100 columns a second: Whisper's log-mel
    rows above BEATs' filter bank rows. One tensor for both encoders passes through everything that carries one. A model
    with one encoder has its rows only.

    This feature extractor inherits from [`~feature_extraction_sequence_utils.SequenceFeatureExtractor`] which contains
    most of the main methods. Users should refer to this superclass for more information regarding those methods.

    Args:
        feature_size (`int`, *optional*, defaults to 80):
            Number of log-mel bins of the speech encoder (Whisper large-v3 has 128); 0 for models with BEATs alone.
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
            Whether the encoders read segments padded to `chunk_length`, or as long as they are. BEATs beside Whisper
            never hears the silence that pads a segment; BEATs alone, as it was trained so, does with `fixed_length`.
        fbank_mean (`float`, *optional*, defaults to 15.41663):
            Mean of the filter banks' log energies, see [`BeatsFeatureExtractor`].
        fbank_std (`float`, *optional*, defaults to 6.55582):
            Standard deviation of the filter banks' log energies.
        max_audio_seconds (`float`, *optional*, defaults to 30):
            Longest audio that the model was trained on. To be transcribed, longer clips are cut into pieces of at most
            so much, where they are quiet. `None` is any length.
    """

    model_input_names = ["input_features", "input_features_mask", "segment_ids"]

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
        fbank_mean: float = FBANK_MEAN,
        fbank_std: float = FBANK_STD,
        max_audio_seconds: float | None = 30,
        **kwargs,
    ):
        check_number("sampling_rate", sampling_rate, MIN_RATE, MAX_RATE)
        for name, value, least, most in (
            ("feature_size", feature_size, 0, MAX_BINS),
            ("num_fbank_bins", num_fbank_bins, 0, MAX_BINS),
            ("hop_length", hop_length, 1, MAX_SEGMENT_SECONDS * sampling_rate),
            ("chunk_length", chunk_length, 1, MAX_SEGMENT_SECONDS),
            ("n_fft", n_fft, 1, MAX_SEGMENT_SECONDS * sampling_rate),
        ):
            check_number(name, value, least, most)
        check_number("padding_value", padding_value, -MAX_PADDING, MAX_PADDING, whole=False)
        if max_audio_seconds is not None:
            check_number("max_audio_seconds", max_audio_seconds, 1, whole=False)
        if not isinstance(fixed_length, bool):
            raise TypeError(f"`fixed_length` must be True or False, got {fixed_length!r}.")
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
        self.fbank_mean = fbank_mean
        self.fbank_std = fbank_std
        self.max_audio_seconds = max_audio_seconds
        if feature_size < 1 and num_fbank_bins < 1:
            raise ValueError("One of `feature_size` and `num_fbank_bins` must be at least 1, got 0 for both.")
        self._whisper = WhisperFeatureExtractor(feature_size or 80, sampling_rate, hop_length, chunk_length, n_fft)
        self._beats = BeatsFeatureExtractor(
            num_fbank_bins or 128, sampling_rate, fbank_mean=fbank_mean, fbank_std=fbank_std
        )

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
        the released code does, and to whole encoder frames (20 ms) where only the real length is encoded; or to a whole
        segment, where BEATs alone hears the silence too.
        """
        starts = range(0, num_samples, self.segment_samples)
        return [self._padded_length(min(self.segment_samples, num_samples - start)) for start in starts]

    def num_encoder_frames(self, num_samples: int) -> list[int]:
        """Encoder frames of each segment of a clip of `num_samples`."""
        lengths = self.segment_lengths(num_samples)
        if self.fixed_length:
            lengths = [self.segment_samples] * len(lengths)
        return [count_frames(length // self.hop_length, self.feature_size > 0) for length in lengths]

    def _padded_length(self, num_samples: int) -> int:
        # CODEPATH: BEATs alone, in a model for which every segment is whole
        if self.fixed_length and self.feature_size == 0:
            return self.segment_samples
        frame = 1 if self.fixed_length else 2 * self.hop_length
        return -(-max(num_samples, self.sampling_rate) // frame) * frame

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list[float] | list[np.ndarray] | list[torch.Tensor],
        sampling_rate: int | None = None,
        padding: bool | str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
        device: str | torch.device = "cpu",
        cut_at_silence: bool = False,
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
                Whether to return what the ASR pipeline asks for and can carry: `input_features` of shape `(clips,
                frames, feature_size + num_fbank_bins)`, one row for each clip with its segments one behind the other,
                and their mask of shape `(clips, frames)` by the name of `attention_mask`. Clips are cut at silence.
            return_tensors (`str` or [`~utils.TensorType`], *optional*):
                `"pt"` for `torch.Tensor`, `"np"` or nothing for `np.ndarray`.
            device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
                Where to compute. Features are returned on the CPU.
            cut_at_silence (`bool`, *optional*, defaults to `False`):
                Whether clips of more than `max_audio_seconds` are cut where they are quiet, to be transcribed piece by
                piece, rather than every `chunk_length` seconds.

        Returns:
            [`BatchFeature`] with `input_features` of shape `(segments, feature_size + num_fbank_bins, frames)`, float32;
            `input_features_mask` of shape `(segments, frames)`, int64: 1 where the filter bank columns are real, 0 where
            they are padding; and `segment_ids` of shape `(segments,)`, int64: the place of a segment in its clip, from
            0. The segments of a clip follow each other, and so do the clips.

        Raises:
            ValueError: on a wrong or missing `sampling_rate`, an empty clip, several channels, or NaN and inf.
            TypeError: on samples that are not floating-point numbers.
        """
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` must be {self.sampling_rate}, the rate {self.__class__.__name__} works at, got "
                f"{sampling_rate}. Resample `raw_speech` first, and say at which rate it is."
            )
        device = check_device(device)
        clips = validate_waveforms("raw_speech", raw_speech)
        pieces = [self._cut(clip, cut_at_silence or bool(return_attention_mask)) for clip in clips]
        segments, lengths = self._pad(sum(pieces, []))

        only_real = padding == "longest" and not self.fixed_length
        num_frames = (max(lengths) if only_real else self.segment_samples) // self.hop_length
        input_features = np.full(
            (len(segments), self.feature_size + self.num_fbank_bins, num_frames), self.padding_value, dtype=np.float32
        )
        if self.feature_size:
            mel = self._extract_log_mel(segments, device)[..., :num_frames]
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

        counts = [len(clip_pieces) for clip_pieces in pieces]
        if return_attention_mask:
            data = self._join_segments(input_features, is_real, counts)
        else:
            segment_ids = np.concatenate([np.arange(count) for count in counts])
            data = {
                "input_features": input_features,
                "input_features_mask": is_real.astype(np.int64),
                "segment_ids": segment_ids,
            }
        return BatchFeature(data, tensor_type=return_tensors)

    def _extract_log_mel(self, segments: np.ndarray, device: str | torch.device) -> np.ndarray:
        """`(segments, samples)` -> `(segments, feature_size, frames)`: 3000 frames of a whole segment of 30 s."""
        with torch.autocast(torch.device(device).type, enabled=False):  # the caller's is the model's
            mel = self._whisper._torch_extract_fbank_features(segments.astype(np.float32), device)
        return mel.reshape(len(segments), self.feature_size, -1)

    def split_for_transcription(self, clip: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """
        The pieces in which a clip is transcribed, none of which is lost: the clip itself, unless it is longer than
        `max_audio_seconds`, and then pieces of a segment at most, cut where it is quiet.

        `clip` is its samples, `(samples,)`, or blocks of them in their order, of which no more are taken than the next piece
        needs.
        """
        blocks = iter([clip] if isinstance(clip, np.ndarray) else clip)
        # CODEPATH: models that were trained on long audio read all of it at once
        most = math.inf if self.max_audio_seconds is None else self.max_audio_seconds * self.sampling_rate
        head, num_samples = [], 0
        for block in blocks:
            head.append(block)
            num_samples += len(block)
            if num_samples > most:
                longest = min(self.segment_samples, int(most))
                yield from cut_at_silence(itertools.chain(head, blocks), longest, self.sampling_rate)
                return
        yield head[0] if len(head) == 1 else np.concatenate(head)

    def _cut(self, clip: np.ndarray, at_silence: bool) -> list[np.ndarray]:
        """The segments of a clip `(samples,)`, none of which is lost."""
        pieces, longest = list(self.split_for_transcription(clip)) if at_silence else [clip], self.segment_samples
        return [piece[start : start + longest] for piece in pieces for start in range(0, len(piece), longest)]

    def _pad(self, pieces: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """Padded segments, `(segments, samples)` of float64, and their lengths."""
        lengths = [self._padded_length(len(piece)) for piece in pieces]
        size = self.segment_samples
        if not self.fixed_length:
            # the silence up to 30 s changes nothing before it, apart from the columns whose windows reach into it
            size = min(size, max(lengths) + self.n_fft)
        segments = np.full((len(pieces), size), self.padding_value)
        for row, piece in zip(segments, pieces):
            row[: len(piece)] = piece
        return segments, lengths

    def _join_segments(self, features: np.ndarray, is_real: np.ndarray, counts: list[int]) -> dict[str, np.ndarray]:
        """
        One row for each clip, `(clips, frames, rows)`: its segments, of whole length, one behind the other, and then, up
        to the longest clip, segments of padding only. Time is the axis that pipelines pad, to batch clips of any length.
        """
        whole = self.segment_samples // self.hop_length
        shape = (len(counts), max(counts))
        joint = np.full((*shape, whole, features.shape[1]), self.padding_value, dtype=np.float32)
        mask = np.zeros((*shape, whole), dtype=np.int64)
        exists = np.arange(max(counts)) < np.array(counts)[:, None]
        joint[exists, : features.shape[2]] = features.transpose(0, 2, 1)
        mask[exists, : features.shape[2]] = is_real
        joint = joint.reshape(len(counts), -1, features.shape[1])
        return {"input_features": joint, "attention_mask": mask.reshape(len(counts), -1)}


def cut_at_silence(blocks: Iterable[np.ndarray], longest: int, sampling_rate: int) -> Iterator[np.ndarray]:
    """
    Cuts a clip, which comes in blocks `(samples,)`, into as few pieces of at most `longest` samples as its silences allow: each
    ends in the quietest fifth of a second of its last third. Together the pieces are the clip. Where it is cut does not
    depend on the blocks, and no more of them are taken than the next piece needs.
    """
    hop, width = sampling_rate // 100, 20  # energies of 10 ms, and of 200 ms around each
    blocks, rest = iter(blocks), None
    while True:
        while rest is None or len(rest) <= longest + width * hop:
            block = next(blocks, None)
            if block is None:
                break
            rest = block if rest is None or not len(rest) else np.concatenate([rest, block])
        if rest is None or len(rest) <= longest:
            break
        end = hop * _find_silence(rest, hop, width, longest * 2 // 3 // hop, longest // hop)
        yield rest[:end]
        rest = rest[end:]
    if rest is not None:
        yield rest


def _find_silence(samples: np.ndarray, hop: int, width: int, first: int, last: int) -> int:
    """Which hop from `first` on and before `last` is the quietest, by the energy of `width` hops around it."""
    before, behind = width // 2, width - width // 2 - 1
    start = max(0, first - before)
    part = samples[start * hop : (last + behind) * hop]
    energy = np.add.reduceat(np.square(part, dtype=np.float64), np.arange(0, len(part), hop))
    # beyond its ends a clip is as loud as there
    energy = np.pad(energy, (start - (first - before), last + behind - start - len(energy)), mode="edge")
    energy = np.convolve(energy, np.ones(width), mode="valid")  # of the hops from `first` to `last`
    # the last of equals, so that pieces of digital silence are long
    return last - 1 - int(energy[::-1].argmin())


SalmonnFeatureExtractor.register_for_auto_class()
# A copy that travels in a checkpoint must not register itself: it would then run for every other checkpoint too.
if not __package__:
    AutoFeatureExtractor.register(SalmonnConfig, SalmonnFeatureExtractor, exist_ok=True)

__all__ = ["SalmonnFeatureExtractor"]
