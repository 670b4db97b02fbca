# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Filter banks of many clips in one memory-mapped file, and random, altered crops of them to train an encoder on.

A CPU that computes filter banks anew for each presentation of a clip trains at half the speed. All alterations are
therefore of filter banks: sounds add up as energies, a recording through another microphone is a curve over the bins,
faster or higher sounds are other frames and bins, and what is missing is masked.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from data_salmonn.audio import read_audio
from data_salmonn.files import create_array, whole_file
from feature_extraction_beats import ENERGY_FLOOR, BeatsFeatureExtractor
from nano_salmonn.whisper_teacher import WhisperTeacher
from training_salmonn.processes import make_once


# Where clips that are croppable stand among those for a length, and how much of a joined crop its first part is.
CROPPABLE = 0
SHARE_OF_FIRST = (0.3, 0.7)


@dataclass
class CropArguments:
    """Which crops are taken of clips, and how they are altered. Sizes of 0 and probabilities of 0 turn things off."""

    _argument_group_name = "crops"

    presentations: int = field(default=64_000, metadata={"help": "Crops in an epoch."})
    crop_frames: list[int] = field(
        default_factory=lambda: [128, 256],
        metadata={"help": "Lengths of crops in frames of 10 ms, each equally likely; one for all crops of a batch."},
    )
    mixup_probability: float = field(default=0.5, metadata={"help": "Share of crops that another one is added to."})
    mixup_db: float = field(default=6.0, metadata={"help": "Greatest difference in level of the two, in dB."})
    join_probability: float = field(
        default=0.0,
        metadata={
            "help": "Share of crops that are two, one after the other, each with the targets of its own frames."
        },
    )
    stretch: float = field(default=0.2, metadata={"help": "Greatest change of tempo, as a share."})
    mel_shift: int = field(default=6, metadata={"help": "Greatest shift in frequency, in bins."})
    gain_db: float = field(default=10.0, metadata={"help": "Standard deviation of the level, in dB."})
    equalizer_db: float = field(default=5.0, metadata={"help": "Standard deviation of the level by frequency, in dB."})
    noise_probability: float = field(default=0.5, metadata={"help": "Share of crops that coloured noise is added to."})
    noise_db: list[float] = field(
        default_factory=lambda: [-60.0, -10.0], metadata={"help": "Range of its level below that of the crop, in dB."}
    )
    time_masks: int = field(default=1, metadata={"help": "Stretches of frames that are masked."})
    time_mask_share: float = field(default=0.25, metadata={"help": "Longest of them, as a share of the crop."})
    mel_masks: int = field(default=1, metadata={"help": "Bands of bins that are masked."})
    mel_mask_bins: int = field(default=24, metadata={"help": "Widest of them, in bins."})

    def __post_init__(self):
        if self.presentations < 1:
            raise ValueError(f"`presentations` must be at least 1, got {self.presentations}.")
        if not self.crop_frames or min(self.crop_frames) < 1:
            raise ValueError(f"`crop_frames` must hold at least one length, all of them >= 1, got {self.crop_frames}.")
        if not 0 <= self.join_probability <= 1:
            raise ValueError(f"`join_probability` must be in [0, 1], got {self.join_probability}.")
        if self.join_probability and min(self.crop_frames) * SHARE_OF_FIRST[0] < 1:
            raise ValueError(f"`crop_frames` must be long enough for two parts to join, got {self.crop_frames}.")
        if not 0 <= self.stretch < 1:
            raise ValueError(f"`stretch` must be in [0, 1), got {self.stretch}.")
        if len(self.noise_db) != 2 or self.noise_db[0] > self.noise_db[1]:
            raise ValueError(f"`noise_db` must be the lowest and the highest level, got {self.noise_db}.")


class FbankFile(Sequence[np.ndarray]):
    """
    The filter banks of clips, each float16 of shape `(frames, num_mel_bins)`, in a file that is not read as a whole.

    The file in `folder` is named after the clips and the extractor's settings: it is made where it is missing, by one
    of several processes, and others stay beside it. 14 000 clips of 3.5 s need 1.3 GB of disk, and of memory only what
    the system can spare.

    Raises `ValueError` on a clip that is shorter than a frame, or that cannot be read.
    """

    def __init__(self, rows: Sequence[dict], extractor: BeatsFeatureExtractor, folder: str | Path):
        num_samples = [soundfile.info(row["path"]).frames for row in rows]
        frames = [extractor.num_frames(samples) for samples in num_samples]
        self.starts = np.concatenate([[0], np.cumsum(frames)])
        contents = [[row["path"], samples] for row, samples in zip(rows, num_samples)]
        digest = hashlib.sha256(json.dumps([extractor.to_dict(), contents]).encode()).hexdigest()
        file = Path(folder, f"fbanks-{digest[:16]}.npy")
        make_once(file, lambda: self._write(file, rows, extractor))
        self.frames = np.load(file, mmap_mode="r").view(np.ndarray)

    def _write(self, file: Path, rows: Sequence[dict], extractor: BeatsFeatureExtractor) -> None:
        shape = (int(self.starts[-1]), extractor.num_mel_bins)
        with whole_file(file) as unfinished:
            frames = create_array(unfinished, np.float16, shape)
            for start, row in zip(self.starts, tqdm(rows, desc="Filter banks", unit="clip")):
                fbank = extractor(read_audio(row["path"]), sampling_rate=extractor.sampling_rate)["input_features"][0]
                frames[start : start + len(fbank)] = fbank
            frames.flush()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.frames[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each clip, `(clips,)`."""
        return np.diff(self.starts)


class WholeClips(Dataset):
    """Clips as they are, with their targets, `(clips, labels)` of zeros and ones."""

    def __init__(self, fbanks: Sequence[np.ndarray], targets: np.ndarray):
        self.fbanks, self.targets = fbanks, targets

    def __len__(self) -> int:
        return len(self.fbanks)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"input_features": self.fbanks[index], "labels": self.targets[index]}


@dataclass
class Crop:
    """A part of a clip, altered."""

    fbank: np.ndarray  # (frames, num_mel_bins)
    targets: np.ndarray  # (labels,)
    teacher_numbers: np.ndarray  # (frames,), see `WhisperTeacher.numbers`, -1 without a teacher


class RandomCrops(Dataset):
    """
    `presentations` random crops of clips, the same for the same seed, whichever are read and in which order.

    Labels are drawn first and clips of them second, so that rare labels are heard as often as others. A crop keeps the
    targets of its clip, so it lies where the clip is loud, and clips whose sounds come in turn, those that are not
    `croppable`, are taken whole where they fit. Consecutive items `batch_size * n` to `batch_size * (n + 1)` are crops
    of one length.

    An item has `input_features` of shape `(frames, num_mel_bins)` and `labels` of shape `(labels,)`. With a
    `join_probability` it has up to two parts, one after the other: `labels` of shape `(2, labels)`, and `part_frames`
    of shape `(2,)`, of which the second is 0 where there is one part only. With a `teacher` it has `teacher_states` and
    `teacher_mask`, what [`WhisperTeacher.patches`] gives; of two sounds at once the teacher knows nothing.

    Raises `ValueError` if there is a length that no clip with a label can be taken for.
    """

    def __init__(
        self,
        fbanks: FbankFile,
        targets: np.ndarray,
        croppable: np.ndarray,
        extractor: BeatsFeatureExtractor,
        arguments: CropArguments,
        batch_size: int,
        seed: int = 0,
        teacher: WhisperTeacher | None = None,
        patch_size: int = 16,
    ):
        self.fbanks, self.targets, self.arguments = fbanks, targets, arguments
        self.batch_size, self.seed = batch_size, seed
        self.teacher, self.patch_size = teacher, patch_size
        self.alter = FbankAlteration(extractor, arguments)
        self.clips_of_labels = {}  # for each length, the clips of each label that has any; for CROPPABLE, those only
        lengths = {*arguments.crop_frames} | ({CROPPABLE} if arguments.join_probability else set())
        for length in sorted(lengths):
            fits = croppable | (fbanks.lengths <= length)
            clips = [np.flatnonzero((target > 0) & fits) for target in targets.T]
            self.clips_of_labels[length] = [of_label for of_label in clips if len(of_label)]
            if not self.clips_of_labels[length]:
                setting = f"`crop_frames` has {length}" if length else "`join_probability` is not 0"
                raise ValueError(f"{setting}, for which there are no clips with labels.")

    def __len__(self) -> int:
        return self.arguments.presentations

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        # a stream of random numbers for the batch and another for the crop
        length = np.random.default_rng((self.seed, 0, index // self.batch_size)).choice(self.arguments.crop_frames)
        rng = np.random.default_rng((self.seed, 1, index))
        if self.arguments.join_probability and rng.random() < self.arguments.join_probability:
            first = int(length * rng.uniform(*SHARE_OF_FIRST))
            parts = [self._draw_mixed(frames, CROPPABLE, rng) for frames in (first, int(length) - first)]
        else:
            parts = [self._draw_mixed(int(length), int(length), rng)]
        item = {"labels": parts[0].targets}
        if self.arguments.join_probability:
            labels, part_frames = np.zeros((2, *self.targets.shape[1:]), self.targets.dtype), np.zeros(2, np.int64)
            for number, part in enumerate(parts):
                labels[number], part_frames[number] = part.targets, len(part.fbank)
            item = {"labels": labels, "part_frames": part_frames}
        if self.teacher is not None:
            numbers = np.concatenate([part.teacher_numbers for part in parts])
            item["teacher_states"], item["teacher_mask"] = self.teacher.patches(numbers, self.patch_size)
        fbank = np.concatenate([part.fbank for part in parts])
        return {"input_features": self.alter.disturb(fbank, rng), **item}

    def _draw_mixed(self, length: int, clips: int, rng: np.random.Generator) -> Crop:
        """A crop that another one is added to with `mixup_probability`, and the targets of both."""
        crop = self._draw(length, clips, rng)
        if rng.random() < self.arguments.mixup_probability:
            other = self._draw(length, clips, rng)
            fbank = self.alter.mix(crop.fbank, other.fbank, rng)
            crop = Crop(fbank, np.maximum(crop.targets, other.targets), np.full(len(fbank), -1))
        return crop

    def _draw(self, length: int, clips: int, rng: np.random.Generator) -> Crop:
        """
        A crop of at most `length` frames of a random clip, at another pitch and tempo. `clips` is the key of the clips
        that are drawn from.
        """
        of_labels = self.clips_of_labels[clips]
        clip = rng.choice(of_labels[rng.integers(len(of_labels))])
        frames = self.alter.choose_frames(self.fbanks[clip], length, rng)
        numbers = np.full(len(frames), -1) if self.teacher is None else self.teacher.numbers(clip, frames)
        return Crop(self.alter.shift(self.fbanks[clip], frames, rng), self.targets[clip], numbers)


class FbankAlteration:
    """
    Random alterations of normalised filter banks, float32 of shape `(frames, num_mel_bins)`.

    A filter bank is the logarithm of energies, normalised: `scale` takes it back to natural logarithms, but for an
    offset that sums of energies and ratios do not see.
    """

    def __init__(self, extractor: BeatsFeatureExtractor, arguments: CropArguments):
        self.arguments = arguments
        self.scale = 2 * extractor.fbank_std
        self.decibel = math.log(10) / 10 / self.scale
        self.floor = (math.log(ENERGY_FLOOR) - extractor.fbank_mean) / self.scale

    def choose_frames(self, fbank: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        """The numbers of at most `length` frames with a loud one among them, at another tempo."""
        tempo = math.exp(rng.uniform(-1, 1) * math.log1p(self.arguments.stretch))
        window = min(len(fbank), math.ceil(length * tempo))
        loudness = fbank[:, ::8].astype(np.float32).mean(axis=1)  # a part of the bins says it
        loud = rng.choice(np.flatnonzero(loudness >= (loudness.min() + loudness.max()) / 2))
        # in the middle half of the crop, where the clip is long enough
        start = loud - rng.integers(window // 4, window - window // 4)
        start = min(max(start, 0), len(fbank) - window)
        num_frames = min(length, max(1, round(window / tempo)))
        return start + np.arange(num_frames) * window // num_frames

    def shift(self, fbank: np.ndarray, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """These frames, at another pitch."""
        shift = rng.integers(-self.arguments.mel_shift, self.arguments.mel_shift + 1)
        bins = np.clip(np.arange(fbank.shape[1]) - shift, 0, fbank.shape[1] - 1)
        return fbank[frames[:, None], bins].astype(np.float32)

    def mix(self, first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Both at once, the shorter one anywhere in the longer one, at about the same level."""
        difference = self.level(first) - self.level(second)
        second = second + difference + self.decibel * rng.uniform(-1, 1) * self.arguments.mixup_db
        long, short = (first, second) if len(first) >= len(second) else (second, first)
        mixed, start = long.copy(), rng.integers(len(long) - len(short) + 1)
        mixed[start : start + len(short)] = self.add(mixed[start : start + len(short)], short)
        return mixed

    def disturb(self, fbank: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Another microphone, noise, and masks."""
        arguments = self.arguments
        level = self.decibel * arguments.gain_db * rng.standard_normal()
        fbank = fbank + np.float32(level) + self._curve(fbank.shape[1], arguments.equalizer_db, rng)
        if rng.random() < arguments.noise_probability:
            fbank = self.add(fbank, self._noise(fbank, rng))
        fbank = np.maximum(fbank, np.float32(self.floor))
        mean = fbank.mean()
        for _ in range(arguments.time_masks):
            fbank[_stretch(len(fbank), arguments.time_mask_share * len(fbank), rng)] = mean
        for _ in range(arguments.mel_masks):
            fbank[:, _stretch(fbank.shape[1], arguments.mel_mask_bins, rng)] = mean
        return fbank

    def add(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The filter bank of the sum of two sounds, whose phases are taken to be independent."""
        larger = np.maximum(first, second)
        return larger + np.log1p(np.exp(-self.scale * np.abs(first - second))) / np.float32(self.scale)

    def level(self, fbank: np.ndarray) -> np.float32:
        """The level of the loudest frame."""
        return np.log(np.exp(self.scale * fbank).mean(axis=1).max()) / np.float32(self.scale)

    def _noise(self, fbank: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stationary coloured noise at a random level below that of `fbank`."""
        level = self.level(fbank) + self.decibel * rng.uniform(*self.arguments.noise_db)
        # energies of noise in a bin: a chi-square of two degrees of freedom, or exponential, in the narrowest bins
        energies = rng.standard_exponential(fbank.shape, dtype=np.float32) + np.float32(1e-3)
        colour = self._curve(fbank.shape[1], 10.0, rng)
        return np.float32(level) + colour + np.log(energies) / np.float32(self.scale)

    def _curve(self, num_bins: int, spread_db: float, rng: np.random.Generator) -> np.ndarray:
        """A smooth random curve over the bins: straight lines between six levels."""
        levels = self.decibel * spread_db * rng.standard_normal(6)
        return np.interp(np.linspace(0, 5, num_bins), np.arange(6), levels).astype(np.float32)


def _stretch(size: int, longest: float, rng: np.random.Generator) -> slice:
    """A random part of `range(size)`, empty or up to `longest` long."""
    length = rng.integers(min(size, int(longest)) + 1)
    start = rng.integers(size - length + 1)
    return slice(start, start + length)


def pad_fbanks(items: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """
    A batch: filter banks of shape `(batch_size, frames, num_mel_bins)`, their mask, and all else that items have. What
    is shorter in some items than in others is filled with zeros.
    """
    frames = [np.ones(len(item["input_features"]), dtype=np.int64) for item in items]
    columns = {name: [item[name] for item in items] for name in items[0]} | {"attention_mask": frames}
    return {name: torch.from_numpy(_pad(column)) for name, column in columns.items()}


def _pad(arrays: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return padded
