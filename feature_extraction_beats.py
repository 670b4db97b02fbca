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

"""Feature extraction of BEATs: 16 kHz waveforms to normalised Kaldi filter banks (arXiv 2212.09058, section 4.1)."""

import math
from functools import lru_cache
from numbers import Real

import numpy as np
import torch
from transformers import AutoFeatureExtractor
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import PaddingStrategy, TensorType


try:
    from .audio_reading_salmonn import MAX_AMPLITUDE, MAX_RATE, MIN_RATE
    from .configuration_beats import FBANK_MEAN, FBANK_STD, BeatsConfig
except ImportError:
    from audio_reading_salmonn import MAX_AMPLITUDE, MAX_RATE, MIN_RATE
    from configuration_beats import FBANK_MEAN, FBANK_STD, BeatsConfig


# Kaldi's defaults, which BEATs was trained with.
FRAME_LENGTH_MS = 25
HOP_LENGTH_MS = 10
PREEMPHASIS = 0.97
LOWEST_FREQUENCY = 20.0
ENERGY_FLOOR = torch.finfo(torch.float32).eps
INT16_SCALE = 2.0**15  # Kaldi reads 16-bit integers

# Of arguments: beyond them features would not be finite.
MAX_BINS = 1024
MAX_PADDING = 1e6
MIN_STD = 1e-6

CPU_BATCH_SIZE = 8  # waveforms at a time


def validate_waveform(name: str, clip) -> np.ndarray:
    """
    Check one clip and return it as a 1-D float64 array.

    Args:
        name (`str`):
            The argument to name in errors.
        clip (`np.ndarray`, `torch.Tensor` or sequence of `float`):
            Samples of one channel, shape `(samples,)`, floating point and scaled to [-1, 1).

    Raises:
        TypeError: if the samples are not floating-point numbers (16-bit integers would be taken for a scaled signal).
        ValueError: if there is more than one axis, no sample at all, or a sample that is not finite or far beyond 1.
    """
    if isinstance(clip, torch.Tensor):
        # bfloat16 does not exist in numpy
        clip = clip.detach().to("cpu", torch.float64 if clip.is_floating_point() else clip.dtype)
    elif not isinstance(clip, (np.ndarray, list, tuple)):
        raise TypeError(f"`{name}` must be an array, a tensor or a list of floats, got {type(clip).__name__}.")
    try:
        samples = np.asarray(clip)
    except ValueError as error:
        raise ValueError(f"`{name}` must be one mono clip of shape (samples,), got rows of unequal length.") from error
    if samples.size == 0:
        raise ValueError(f"`{name}` is empty: expected at least one sample, got shape {samples.shape}.")
    if samples.dtype.kind != "f":
        hint = " Divide 16-bit PCM by 32768." if samples.dtype.kind in "iu" else ""
        raise TypeError(f"`{name}` must hold floating-point samples in [-1, 1), got dtype {samples.dtype}.{hint}")
    if samples.ndim != 1:
        raise ValueError(f"`{name}` must be one mono clip of shape (samples,), got shape {samples.shape}.")
    if not np.isfinite(samples).all():
        count = np.count_nonzero(~np.isfinite(samples))
        raise ValueError(f"`{name}` must hold finite samples, got NaN or inf in {count} of {samples.size}.")
    loudest = float(np.abs(samples).max())
    if loudest > MAX_AMPLITUDE:
        raise ValueError(f"`{name}` must hold samples in [-1, 1), got {loudest:g}. Divide 16-bit PCM by 32768.")
    return samples.astype(np.float64, copy=False)


def check_device(device: str | torch.device) -> torch.device:
    """`device` as torch has it. Raises `ValueError` if it is none, or not there."""
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"`device` must be one that torch has here, got {device!r}: {reason}") from error
    return device


def check_number(name: str, value, least: float, most: float = math.inf, whole: bool = True) -> None:
    """Raises `ValueError` unless the argument `name` of a feature extractor is a number, or a `whole` one, in a range."""
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or math.isinf(value):
        kind = "an integer" if whole else "a finite number"
        raise ValueError(
            f"`{name}` must be {kind} of at least {least:g}{f' and at most {most:g}' * (most < math.inf)}, got {value!r}."
        )


def validate_waveforms(name: str, raw_speech) -> list[np.ndarray]:
    """
    Split one clip or a batch into checked clips, see [`validate_waveform`].

    Args:
        name (`str`):
            The argument to name in errors.
        raw_speech (`np.ndarray`, `torch.Tensor` or sequence):
            One clip of shape `(samples,)` or `(1, samples)`, or a list of clips.

    Returns:
        `list[np.ndarray]`: float64 clips of shape `(samples,)`.
    """
    if isinstance(raw_speech, (np.ndarray, torch.Tensor)):
        # two rows could be two clips or the two channels of one, and would be taken for the wrong one in silence
        if raw_speech.ndim != 1 and not (raw_speech.ndim == 2 and len(raw_speech) == 1):
            raise ValueError(
                f"`{name}` must be one mono clip of shape (samples,) or a list of clips, got an array of shape "
                f"{tuple(raw_speech.shape)}."
            )
        is_batch = raw_speech.ndim == 2
    elif isinstance(raw_speech, (list, tuple)):
        is_batch = len(raw_speech) > 0 and not isinstance(raw_speech[0], (Real, str))
    else:
        is_batch = False
    if is_batch and len(raw_speech) == 0:
        raise ValueError(f"`{name}` is empty: expected at least one clip, got shape {tuple(raw_speech.shape)}.")
    if not is_batch:
        return [validate_waveform(name, raw_speech)]
    return [validate_waveform(f"{name}[{index}]", clip) for index, clip in enumerate(raw_speech)]


@lru_cache
def povey_window(length: int) -> torch.Tensor:
    """Kaldi's own window, a Hann window to the power 0.85 that does not quite reach zero twice. Shape `(length,)`."""
    return torch.hann_window(length, periodic=False, dtype=torch.float64, device="cpu").pow(0.85)


@lru_cache
def kaldi_mel_filters(num_mel_bins: int, sampling_rate: int, fft_length: int) -> torch.Tensor:
    """
    Triangles on Kaldi's mel scale from 20 Hz to the Nyquist frequency, shape `(fft_length // 2, num_mel_bins)`.

    They are built in float32, as Kaldi does, and only then widened: the rounding of their edges is part of the model's
    training data. The Nyquist bin itself belongs to no filter.
    """

    def hertz_to_mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    lowest = hertz_to_mel(LOWEST_FREQUENCY)
    spacing = (hertz_to_mel(sampling_rate / 2) - lowest) / (num_mel_bins + 1)
    index = torch.arange(num_mel_bins, dtype=torch.float32, device="cpu")
    left, center, right = (lowest + (index + offset) * spacing for offset in range(3))

    hertz = sampling_rate / fft_length * torch.arange(fft_length // 2, dtype=torch.float32, device="cpu")
    mel = (1127.0 * (1.0 + hertz / 700.0).log())[:, None]
    rising = (mel - left) / (center - left)
    falling = (right - mel) / (right - center)
    return torch.minimum(rising, falling).clamp(min=0.0).to(torch.float64)


class BeatsFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Constructs a BEATs feature extractor: mono waveforms to normalised log-mel filter banks as Kaldi computes them.

    Everything is computed in float64 and rounded once at the end: in float32 single bins of silent frames are off by
    up to 3e-3. A clip's features never depend on the other clips of its batch.

    This feature extractor inherits from [`~feature_extraction_sequence_utils.SequenceFeatureExtractor`] which contains
    most of the main methods. Users should refer to this superclass for more information regarding those methods.

    Args:
        num_mel_bins (`int`, *optional*, defaults to 128):
            Number of mel filter banks, also known as `feature_size`.
        sampling_rate (`int`, *optional*, defaults to 16000):
            The sampling rate of the waveforms in hertz (Hz).
        padding_value (`float`, *optional*, defaults to 0.0):
            The value of all bins of a padded frame.
        fbank_mean (`float`, *optional*, defaults to 15.41663):
            Mean of the log energies on AudioSet, subtracted.
        fbank_std (`float`, *optional*, defaults to 6.55582):
            Standard deviation of the log energies on AudioSet; features are divided by twice this value.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        num_mel_bins: int = 128,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        fbank_mean: float = FBANK_MEAN,
        fbank_std: float = FBANK_STD,
        **kwargs,
    ):
        # a saved file names both
        feature_size = kwargs.pop("feature_size", num_mel_bins)
        if feature_size != num_mel_bins:
            raise ValueError(f"`feature_size` ({feature_size}) must equal `num_mel_bins` ({num_mel_bins}).")
        check_number("num_mel_bins", num_mel_bins, 1, MAX_BINS)
        check_number("sampling_rate", sampling_rate, MIN_RATE, MAX_RATE)
        check_number("padding_value", padding_value, -MAX_PADDING, MAX_PADDING, whole=False)
        check_number("fbank_mean", fbank_mean, -MAX_PADDING, MAX_PADDING, whole=False)
        check_number("fbank_std", fbank_std, MIN_STD, whole=False)
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.num_mel_bins = num_mel_bins
        self.fbank_mean = fbank_mean
        self.fbank_std = fbank_std

    @classmethod
    def from_model_config(cls, config: BeatsConfig):
        """The feature extractor that goes with a model."""
        return cls(config.num_mel_bins, fbank_mean=config.fbank_mean, fbank_std=config.fbank_std)

    @property
    def frame_length(self) -> int:
        """Samples in one frame: 400 at 16 kHz."""
        return self.sampling_rate * FRAME_LENGTH_MS // 1000

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next: 160 at 16 kHz, that is 100 frames per second."""
        return self.sampling_rate * HOP_LENGTH_MS // 1000

    def num_frames(self, num_samples: int) -> int:
        """Number of whole frames in a clip; the remainder at its end is dropped, as Kaldi does by default."""
        return max(0, 1 + (num_samples - self.frame_length) // self.hop_length)

    def extract_fbank(self, waveforms: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
        """
        Compute the normalised filter banks of equally long waveforms. Inputs are not checked.

        Args:
            waveforms (`np.ndarray` of shape `(batch_size, samples)`):
                float64 or float32 samples in [-1, 1), at least one frame of them.
            device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
                Where to compute; it must support float64.

        Returns:
            `np.ndarray` of shape `(batch_size, num_frames, num_mel_bins)` and dtype float32.
        """
        samples = torch.as_tensor(waveforms, device=device)
        # a few at a time on a CPU: the frames of many, in float64, leave its caches
        parts = samples.split(CPU_BATCH_SIZE if samples.device.type == "cpu" else len(samples))
        return torch.cat([self._extract(part) for part in parts]).numpy()

    def _extract(self, samples: torch.Tensor) -> torch.Tensor:
        """`(batch_size, samples)` -> `(batch_size, num_frames, num_mel_bins)`, float32, on the CPU."""
        fft_length = 2 ** (self.frame_length - 1).bit_length()
        window = povey_window(self.frame_length).to(samples.device)
        mel_filters = kaldi_mel_filters(self.num_mel_bins, self.sampling_rate, fft_length).to(samples.device)

        frames = (samples.to(torch.float64) * INT16_SCALE).unfold(-1, self.frame_length, self.hop_length)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        # the first sample of each frame stands in for the one before it
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((frames - PREEMPHASIS * previous) * window, n=fft_length)[..., :-1]
        energies = (spectrum.real.square() + spectrum.imag.square()) @ mel_filters
        fbank = energies.clamp(min=ENERGY_FLOOR).log()
        fbank = (fbank - self.fbank_mean) / (2 * self.fbank_std)
        return fbank.to("cpu", torch.float32)

    def __call__(
        self,
        raw_speech: np.ndarray
        | torch.Tensor
        | list[float]
        | list[np.ndarray]
        | list[torch.Tensor]
        | list[list[float]],
        sampling_rate: int | None = None,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
        device: str | torch.device = "cpu",
        **kwargs,
    ) -> BatchFeature:
        """
        Featurise one clip or a batch of clips.

        Args:
            raw_speech (`np.ndarray`, `torch.Tensor`, `list[float]` or a list of these):
                One mono clip of shape `(samples,)` or `(1, samples)`, or a list of clips of any lengths. Floating
                point, in [-1, 1), at least one frame (25 ms) long.
            sampling_rate (`int`, *optional*):
                The sampling rate of `raw_speech`. Needed: at another rate features would be wrong without any error.
            padding (`bool`, `str` or [`~utils.PaddingStrategy`], *optional*, defaults to `True`):
                `True` or `"longest"` pads to the longest clip, `"max_length"` to `max_length`, `False` not at all.
            max_length (`int`, *optional*):
                Length in frames to pad or truncate to.
            truncation (`bool`, *optional*, defaults to `False`):
                Whether to cut clips longer than `max_length` frames.
            pad_to_multiple_of (`int`, *optional*):
                Pad the number of frames to a multiple of this value.
            return_attention_mask (`bool`, *optional*):
                Whether to return the `attention_mask`; the default is the extractor's own, `True`.
            return_tensors (`str` or [`~utils.TensorType`], *optional*):
                `"pt"` for `torch.Tensor`, `"np"` or nothing for `np.ndarray`.
            device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
                Where to compute the filter banks. They are returned on the CPU.

        Returns:
            [`BatchFeature`] with `input_features` of shape `(batch_size, frames, num_mel_bins)`, float32, and
            `attention_mask` of shape `(batch_size, frames)`, int32, 1 for real frames and 0 for padded ones.

        Raises:
            ValueError: on a wrong or missing `sampling_rate`, an empty or too short clip, several channels, or NaN and
                inf.
            TypeError: on samples that are not floating-point numbers.
        """
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` must be {self.sampling_rate}, the rate {self.__class__.__name__} works at, got "
                f"{sampling_rate}. Resample `raw_speech` first, and say at which rate it is."
            )

        if max_length is not None:
            check_number("max_length", max_length, 1)
        device = check_device(device)
        clips = validate_waveforms("raw_speech", raw_speech)
        lengths = [len(clip) for clip in clips]
        if min(lengths) < self.frame_length:
            raise ValueError(
                f"`raw_speech` must hold at least one frame of {self.frame_length} samples ({FRAME_LENGTH_MS} ms) per "
                f"clip, got {min(lengths)} in clip {lengths.index(min(lengths))}. The first of two axes is the batch."
            )

        # No frame that is kept reaches into the zeros behind a clip, so one computation serves clips of all lengths.
        waveforms = np.zeros((len(clips), max(lengths)))
        for row, clip in zip(waveforms, clips):
            row[: len(clip)] = clip
        fbank = self.extract_fbank(waveforms, device=device)
        features = [rows[: self.num_frames(length)] for rows, length in zip(fbank, lengths)]

        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )


BeatsFeatureExtractor.register_for_auto_class()
# Code that arrives with a checkpoint has a package; it must not answer for other checkpoints of this model type.
if not __package__:
    AutoFeatureExtractor.register(BeatsConfig, BeatsFeatureExtractor, exist_ok=True)


__all__ = ["BeatsFeatureExtractor"]
