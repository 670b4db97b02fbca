# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What a layer of Whisper makes of clips, for a small BEATs to write besides their labels.

Labels of a thousand recordings are soon known by heart. Lower layers of Whisper, which has heard far more, tell new
recordings of sounds apart better than such a BEATs does, though nobody taught them any (Gong et al. 2023, Whisper-AT,
arXiv 2307.03183). What tells sounds apart lies in directions of little variance. The states are therefore whitened:
otherwise a student learns the largest directions and stops there.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import WhisperFeatureExtractor

from conversion_salmonn.parts import Part, read_whisper
from data_salmonn.audio import SAMPLING_RATE, read_audio
from data_salmonn.files import create_array, whole_file
from modeling_salmonn import SalmonnSpeechEncoder
from nano_salmonn.wheel_parts import read_part
from training_salmonn.processes import make_once


# Whisper gives a state for 20 ms. The means of two are kept, for four frames of a filter bank.
FRAMES_PER_STATE = 4
STATES_FOR_STATISTICS = 40_000


@dataclass
class TeacherArguments:
    """Which layer of which Whisper is learnt, and how much that counts."""

    _argument_group_name = "teacher"

    teacher: str | None = field(
        default=None,
        metadata={"help": "Folder, Hub id or `tiny.en-wheel` of a Whisper that BEATs learns from; none by default."},
    )
    teacher_layer: int = field(default=1, metadata={"help": "Layer of its encoder whose output is learnt."})
    teacher_components: int = field(
        default=192, metadata={"help": "Principal components of its states that are learnt, the largest ones."}
    )
    teacher_weight: float = field(default=0.3, metadata={"help": "What their squared error counts beside labels."})

    def __post_init__(self):
        for name in ("teacher_layer", "teacher_components"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not self.teacher_weight > 0:
            raise ValueError(f"`teacher_weight` must be above 0, got {self.teacher_weight}.")


class WhisperTeacher:
    """
    The states of clips after a layer of Whisper, in a memory-mapped file as [`FbankFile`] has their filter banks, and
    whitened as they are read.

    The file in `folder` is named after the clips and the layer: it is made where it is missing. A minute of sound takes
    1.2 MB for Whisper tiny.

    Args:
        rows: Clips, with their `path`.
        num_frames: Frames of 10 ms that the filter bank of each clip has, `(clips,)`.
        arguments: With a `teacher`.
        folder: Folder of the file.

    Raises `ValueError` if the teacher is no Whisper or has not as many layers or components, and on clips that are
    longer than Whisper hears at once.
    """

    def __init__(self, rows: Sequence[dict], num_frames: np.ndarray, arguments: TeacherArguments, folder: str | Path):
        part = read_whisper(read_part(arguments.teacher), argument="teacher")
        config = part.config
        if arguments.teacher_layer > config.encoder_layers:
            raise ValueError(
                f"`teacher_layer` must be at most {config.encoder_layers}, the layers of {arguments.teacher}, got "
                f"{arguments.teacher_layer}."
            )
        if arguments.teacher_components > config.d_model:
            raise ValueError(
                f"`teacher_components` must be at most {config.d_model}, the width of {arguments.teacher}, got "
                f"{arguments.teacher_components}."
            )
        longest = 2 * config.max_source_positions
        if num_frames.max(initial=0) > longest:
            path = rows[int(num_frames.argmax())]["path"]
            raise ValueError(f"clips must be of at most {longest / 100:g} s for `teacher`, {path} is longer.")

        self.starts = np.concatenate([[0], np.cumsum(-(-num_frames // FRAMES_PER_STATE))])
        contents = [config.to_dict(), arguments.teacher, arguments.teacher_layer, [row["path"] for row in rows]]
        digest = hashlib.sha256(json.dumps([contents, num_frames.tolist()], default=str).encode()).hexdigest()
        file = Path(folder, f"teacher-{digest[:16]}.npy")
        make_once(file, lambda: self._write(file, rows, _first_layers(part, arguments.teacher_layer)))
        self.states = np.load(file, mmap_mode="r").view(np.ndarray)  # (states, d_model), float16
        self.mean, self.projection = _whitening(self.states, arguments.teacher_components)

    @torch.inference_mode()
    def _write(self, file: Path, rows: Sequence[dict], encoder: nn.Module) -> None:
        extractor = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins, sampling_rate=SAMPLING_RATE)
        shape = (int(self.starts[-1]), encoder.config.d_model)
        with whole_file(file) as unfinished:
            states = create_array(unfinished, np.float16, shape)
            for start, end, row in zip(self.starts, self.starts[1:], tqdm(rows, desc="Whisper", unit="clip")):
                mels = extractor(
                    read_audio(row["path"]), sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt"
                )["input_features"][..., : FRAMES_PER_STATE * (end - start)]
                missing = FRAMES_PER_STATE * int(end - start) - mels.shape[-1]
                mels = nn.functional.pad(mels, (0, missing), mode="replicate")
                pairs = encoder(mels.to(encoder.dtype)).last_hidden_state.unflatten(1, (-1, 2))
                states[start:end] = pairs.float().mean(2)[0].numpy()
            states.flush()

    @property
    def num_components(self) -> int:
        return self.projection.shape[1]

    def numbers(self, clip: int, frames: np.ndarray) -> np.ndarray:
        """Which of all states are those of `frames` of a clip."""
        return self.starts[clip] + frames // FRAMES_PER_STATE

    def patches(self, numbers: np.ndarray, patch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """
        What is to be written of columns of patches.

        Args:
            numbers: For each frame the number of its state, or -1 where the teacher has not heard what it holds.
            patch_size: Frames of a column; those after the last whole one are left out.

        Returns `(columns, patch_size // FRAMES_PER_STATE * num_components)`, float32, each component with a variance of
        about 1, and whether the teacher knows all of a column, `(columns,)`, float32.
        """
        middles = slice(FRAMES_PER_STATE // 2, None, FRAMES_PER_STATE)
        whole = len(numbers) // patch_size * patch_size
        numbers = numbers[:whole].reshape(-1, patch_size)[:, middles]  # (columns, states)
        is_known = (numbers >= 0).all(axis=1)
        targets = np.zeros((*numbers.shape, self.num_components), dtype=np.float32)
        targets[is_known] = (self.states[numbers[is_known]].astype(np.float32) - self.mean) @ self.projection
        return targets.reshape(len(numbers), -1), is_known.astype(np.float32)


def _first_layers(part: Part, num_layers: int) -> SalmonnSpeechEncoder:
    """Whisper's encoder up to a layer, without the norm that is for the output of its last."""
    encoder = SalmonnSpeechEncoder(part.config)
    encoder.load_state_dict({name: tensor.float() for name, tensor in part.state.items()})
    encoder.layers = encoder.layers[:num_layers]
    encoder.layer_norm = nn.Identity()
    return encoder.eval()


def _whitening(states: np.ndarray, num_components: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean `(d_model,)` and the matrix `(d_model, num_components)` that make variances of states 1."""
    sample = states[:: max(1, len(states) // STATES_FOR_STATISTICS)].astype(np.float64)
    mean = sample.mean(axis=0)
    spread = sample.std(axis=0) + 1e-3
    variances, directions = np.linalg.eigh(np.cov((sample - mean) / spread, rowvar=False))
    # ascending; a direction without any variance would be noise of float16 only
    variances, directions = variances[::-1][:num_components], directions[:, ::-1][:, :num_components]
    projection = directions / np.sqrt(np.maximum(variances, 1e-4)) / spread[:, None]
    return mean.astype(np.float32), projection.astype(np.float32)


def teacher_loss(written: torch.Tensor, targets: torch.Tensor, is_known: torch.Tensor) -> torch.Tensor:
    """
    The mean squared error over the columns that the teacher knows; 1 is what the mean of all would have.

    Args:
        written (`torch.Tensor` of shape `(batch_size, columns, components)`): of the student.
        targets (`torch.Tensor` of shape `(batch_size, columns, components)`): of the teacher.
        is_known (`torch.Tensor` of shape `(batch_size, columns)`): 1 where the teacher knows all of the column.
    """
    errors = (written - targets).pow(2).mean(-1)
    return (errors * is_known).sum() / is_known.sum().clamp(min=1)
