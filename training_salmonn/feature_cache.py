# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What frozen encoders make of a clip, computed once and kept in memory-mapped Arrow files.

Encoders are most of the cost of training a connector, and frozen ones give the same for the same clip in every epoch.
The cut lies before the first trained part: what is kept are the outputs of the speech encoder and of BEATs before the
layer norms, in the encoders' own dtype, so training on the cache computes the very same numbers as without it:

    freeze_encoders(model)                                  # encodes clip by clip, see there
    cache = FeatureCache("features", model, processor.feature_extractor)
    cache.build(dataset["audio"])                           # only what is missing; later epochs never encode
    collator = SalmonnDataCollator(cache.cached_processor(processor))

A whole segment of 30 s takes 6.1 MB with Whisper large-v2 and BEATs in float16, and a short one hardly less: where the
model has a fixed length, Whisper gives 1500 frames of 2.6 kB for every segment.
"""

import copy
import json
import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from filelock import FileLock
from torch import nn
from tqdm.auto import tqdm
from transformers.feature_extraction_utils import BatchFeature

from data_salmonn.audio import SAMPLING_RATE, read_audio
from data_salmonn.extras import needs_extra
from data_salmonn.files import sweep, whole_file, write_json
from data_salmonn.json_text import read_object
from feature_extraction_beats import validate_waveforms
from feature_extraction_salmonn import SalmonnFeatureExtractor
from training_salmonn.frozen_encoders import (
    check_frozen,
    encoders_of,
    find_salmonn,
    freeze_encoders,
    pack_states,
)


with needs_extra("train"):
    import pyarrow as pa
    import xxhash


logger = logging.getLogger(__name__)

DESCRIPTION = "encoders.json"
LONGEST_WAIT = timedelta(days=30)  # for the slowest process
PART_BYTES = 2**30  # of one Arrow file: an interrupted run loses at most so much
_SCHEMA = pa.schema(
    [("key", pa.string()), ("num_frames", pa.int32()), ("speech", pa.large_binary()), ("beats", pa.large_binary())]
)
# Of a configuration, what says nothing about the numbers that come out.
_IRRELEVANT = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")


@dataclass(frozen=True)
class _Place:
    """Where a segment lies: which file, and which record batch in it."""

    part: str
    batch: int


class FeatureCache:
    """
    Encoder outputs of segments by the content of their audio, in a folder that belongs to one pair of encoders.

    Args:
        folder (`str` or `Path`):
            Where the cache is, or is to be.
        model (`nn.Module`):
            The SALMONN whose encoders it belongs to. Made one of frozen encoders, see [`freeze_encoders`].
        feature_extractor (`SalmonnFeatureExtractor`):
            That of the model's processor.
        autocast_dtype (`torch.dtype`, *optional*):
            What training computes in if it runs under autocast: `torch.bfloat16` with Trainer's `bf16=True`.

    Raises a `ValueError` if the folder holds what other encoders gave: other weights, another configuration, dtype or
    feature extraction. It names what differs.
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module,
        feature_extractor: SalmonnFeatureExtractor,
        autocast_dtype: torch.dtype | None = None,
    ):
        freeze_encoders(model)
        self.folder = Path(folder)
        self.feature_extractor = feature_extractor
        self.autocast_dtype = autocast_dtype
        self._model = find_salmonn(model)
        self._places: dict[str, _Place] = {}
        self._readers: dict[str, pa.ipc.RecordBatchFileReader] = {}
        if self.folder.is_dir():
            sweep(self.folder)
        self._check_description()
        self._find_parts()

    def __len__(self) -> int:
        """Number of segments in the cache."""
        return len(self._places)

    def __contains__(self, clip: np.ndarray) -> bool:
        """Whether all segments of the clip `(samples,)` are in the cache."""
        return all(segment_key(segment) in self._places for segment in self._split(clip))

    def __getstate__(self) -> dict:
        # a worker that loads data reads the files, but has no use for the model
        return {**self.__dict__, "_model": None, "_readers": {}}

    def build(self, clips: Iterable[Any]) -> int:
        """
        Encodes what is missing, and returns how many segments that were.

        What is done stays done: only a process that is killed loses the file that it was writing (1 GB at most). Processes
        of one distributed run share the work, however long it takes, and each returns what all of them did; the folder
        must be one that all of them see.

        Args:
            clips (`Iterable`):
                Cells of the column `audio` of a data set, in any form that [`read_audio`] takes; the same, in the same
                order, in all processes.
        """
        if self._model is None:
            raise ValueError(
                "`build` needs the model, which this copy of the cache, made for a worker, does not have."
            )
        check_frozen(self._model)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self._check_description()  # once more: the model may have been moved, and must not have been changed
            self._write_description()
        self._find_parts()
        before = len(self)
        with shared_work(f"the cache in {self.folder}") as (rank, num_processes):
            total = len(clips) if hasattr(clips, "__len__") else None
            progress = tqdm(clips, total=total, desc="Encoding clips", unit="clip", disable=rank > 0)
            missing = self._find_missing(islice(progress, rank, None, num_processes))
            while self._write_part(missing):
                self._find_parts()
        self._find_parts()
        logger.info("%d segments encoded, %d in %s", len(self) - before, len(self), self.folder)
        return len(self) - before

    def cached_processor(self, processor):
        """A copy of `processor` that returns cached encoder outputs in place of features."""
        processor = copy.copy(processor)
        processor.feature_extractor = CachedFeatureExtractor(self)
        return processor

    def read(self, segment: np.ndarray) -> tuple[torch.Tensor | None, torch.Tensor | None, int]:
        """
        Outputs of the encoders for a segment `(samples,)`: `(frames, d_speech)` and `(tokens, d_beats)`, or `None` for an
        encoder that the model lacks; and the number of real filter bank frames. Raises a `ValueError` if the segment is not in the cache.
        """
        key = segment_key(segment)
        if key not in self._places:
            raise ValueError(
                f"The cache in {self.folder} does not hold a segment of {len(segment) / SAMPLING_RATE:.2f} s ({key}). "
                "Call `build` with all clips first, those of the evaluation too."
            )
        place = self._places[key]
        batch = self._reader(place.part).get_batch(place.batch)
        (speech_dtype, beats_dtype), widths = self._stored_dtypes(place.part), self.description["widths"]
        speech, beats = (
            _to_tensor(batch.column(name)[0].as_buffer(), dtype, width) if width else None
            for name, dtype, width in (("speech", speech_dtype, widths[0]), ("beats", beats_dtype, widths[1]))
        )
        return speech, beats, batch.column("num_frames")[0].as_py()

    def _check_description(self) -> None:
        """Compares the encoders with those that the folder belongs to, if it belongs to any."""
        self.description = describe_encoders(self._model, self.feature_extractor, self.autocast_dtype)
        file = self.folder / DESCRIPTION
        if not file.exists():
            if any(self.folder.glob("part-*.arrow")):
                raise ValueError(f"`folder` {self.folder} has features, but no {DESCRIPTION} says whose. Delete it.")
            return
        recorded = read_object(file)
        if recorded["device"] != self.description["device"]:
            logger.warning(
                "The cache in %s was made on %s, and the model is on %s, which rounds differently: features are not to "
                "the last bit those that it would compute.",
                self.folder,
                recorded["device"],
                self.description["device"],
            )
        differing = list(_compare(recorded, {**self.description, "device": recorded["device"]}))
        if differing:
            raise ValueError(
                f"The cache in `folder` {self.folder} was made by other encoders. Delete it or give another folder. "
                f"Different are {'; '.join(differing)}."
            )

    def _write_description(self) -> None:
        """Makes the folder that of these encoders."""
        file = self.folder / DESCRIPTION
        if not file.exists():
            write_json(file, self.description)

    def _find_parts(self) -> None:
        """Reads where segments lie in files that are not known yet."""
        known = {place.part for place in self._places.values()}
        for file in sorted(self.folder.glob("part-*.arrow")):
            if file.name in known:
                continue
            reader = self._reader(file.name)
            for batch in range(reader.num_record_batches):
                key = reader.get_batch(batch).column("key")[0].as_py()
                self._places.setdefault(key, _Place(file.name, batch))

    def _reader(self, part: str):
        if part not in self._readers:
            self._readers[part] = pa.ipc.open_file(pa.memory_map(str(self.folder / part)))
        return self._readers[part]

    def _stored_dtypes(self, part: str) -> tuple[torch.dtype, torch.dtype]:
        metadata = self._reader(part).schema.metadata
        return getattr(torch, metadata[b"speech_dtype"].decode()), getattr(torch, metadata[b"beats_dtype"].decode())

    def _split(self, clip: np.ndarray) -> list[np.ndarray]:
        """The segments of a clip `(samples,)`, without padding."""
        size = self.feature_extractor.segment_samples
        return [clip[start : start + size] for start in range(0, len(clip), size)]

    def _find_missing(self, clips: Iterable[Any]) -> Iterator[np.ndarray]:
        """The segments of `clips` that are not in the cache, each once."""
        seen = set()
        for clip in clips:
            for segment in self._split(read_audio(clip)):
                key = segment_key(segment)
                if key not in self._places and key not in seen:
                    seen.add(key)
                    yield segment

    def _write_part(self, segments: Iterator[np.ndarray]) -> bool:
        """Encodes segments to one more file, until it is large enough or they end. Returns whether there were any."""
        segment = next(segments, None)
        if segment is None:
            return False
        states = self._encode(segment)
        schema = _SCHEMA.with_metadata(
            {f"{name}_dtype": _dtype_name(part) for name, part in zip(("speech", "beats"), states)}
        )
        size, failure = 0, None
        # other processes write theirs meanwhile
        with whole_file(self.folder / f"part-{uuid.uuid4().hex}.arrow") as unfinished:
            with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                while segment is not None:
                    row = [segment_key(segment), states[2], _to_bytes(states[0]), _to_bytes(states[1])]
                    arrays = [pa.array([value], field.type) for value, field in zip(row, schema)]
                    writer.write_batch(pa.record_batch(arrays, schema))
                    size += sum(array.nbytes for array in arrays)
                    try:
                        segment = next(segments, None) if size < PART_BYTES else None
                        states = states if segment is None else self._encode(segment)
                    except BaseException as error:  # a clip that cannot be read, or a key that was pressed
                        segment, failure = None, error
        if failure is not None:  # what was encoded before is kept
            raise failure
        return True

    def _encode(self, segment: np.ndarray) -> tuple[torch.Tensor | None, torch.Tensor | None, int]:
        """As [`FeatureCache.read`], from the encoders."""
        features = self.feature_extractor(segment, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        device = next(self._model.encoders[0].parameters()).device
        is_real = features["input_features_mask"].to(device) != 0
        autocast = nullcontext()
        if self.autocast_dtype is not None:
            autocast = torch.autocast(device.type, dtype=self.autocast_dtype)
        with autocast:
            ((speech, beats),) = self._model.audio_encoder.encode_segments(
                features["input_features"].to(device), is_real
            )
        return speech, beats, int(is_real.sum())


@contextmanager
def shared_work(what: str) -> Iterator[tuple[int, int]]:
    """
    Gives this process's rank and the number of processes of a distributed run, and ends once all of them have done their
    share, however long that takes: a barrier of the run's own gives up after `ddp_timeout`, which is half an hour.

    What goes wrong in one process is raised in all of them.
    """
    if not (dist.is_available() and dist.is_initialized()):
        yield 0, 1
        return
    group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    failure = None
    try:
        yield dist.get_rank(), dist.get_world_size()
    except Exception as error:  # raised below, once the others know
        failure = error
    failures: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, None if failure is None else str(failure), group=group)
    dist.destroy_process_group(group)
    if failure is not None:
        raise failure
    for rank, reason in enumerate(failures):
        if reason is not None:
            raise ValueError(f"Process {rank} could not do its share of {what}: {reason}")


class CachedFeatureExtractor(SalmonnFeatureExtractor):
    """
    A feature extractor that returns what the encoders made of clips, from a [`FeatureCache`]: `input_features` of shape
    `(segments, encoder_width, frames)` for a model with [`freeze_encoders`], and the usual `input_features_mask` and `segment_ids`.
    """

    is_cached = True

    def __init__(self, cache: FeatureCache):
        settings = cache.feature_extractor.to_dict()
        super().__init__(**{name: value for name, value in settings.items() if name != "feature_extractor_type"})
        self.cache = cache

    def to_dict(self):
        output = super().to_dict()
        output.pop("cache", None)
        return output

    def __call__(self, raw_speech, sampling_rate: int | None = None, **kwargs) -> BatchFeature:
        """
        See [`SalmonnFeatureExtractor`]. Returns `torch.Tensor`s. Raises a `ValueError` on a clip that is not in the
        cache, or a wrong `sampling_rate`.
        """
        if sampling_rate != self.sampling_rate:
            raise ValueError(f"`sampling_rate` must be {self.sampling_rate}, got {sampling_rate}.")
        states, real_frames, places = [], [], []
        for clip in validate_waveforms("raw_speech", raw_speech):
            for place, segment in enumerate(self.cache._split(clip)):
                speech, beats, num_frames = self.cache.read(segment)
                states.append((speech, beats))
                real_frames.append(num_frames)
                places.append(place)
        frames = max(real_frames) // 2 + 1  # a segment has two filter bank frames less than columns
        if states[0][0] is not None:
            frames = max(len(speech) for speech, _ in states)
        is_real = torch.arange(2 * frames) < torch.tensor(real_frames)[:, None]
        return BatchFeature(
            {
                "input_features": pack_states(states, frames),
                "input_features_mask": is_real.long(),
                "segment_ids": torch.tensor(places),
            }
        )


def segment_key(segment: np.ndarray) -> str:
    """What a segment `(samples,)` is called: a hash of its samples as float32, whichever type they come in."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(segment, dtype=np.float32))


@torch.no_grad()
def describe_encoders(
    salmonn: nn.Module, feature_extractor: SalmonnFeatureExtractor, autocast_dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """All that decides what the encoders give for a clip, as JSON: a hash of the weights, configurations, dtype."""
    config, feature_settings = salmonn.config, feature_extractor.to_dict()
    encoders = encoders_of(salmonn)
    weights = {name: _hash_weights(encoder) for name, encoder in encoders.items()}
    dtypes = {name: str(next(encoder.parameters()).dtype) for name, encoder in encoders.items()}
    attention = {name: encoder.config._attn_implementation for name, encoder in encoders.items()}
    description = {
        "weights": weights,
        "dtypes": dtypes,
        "autocast_dtype": str(autocast_dtype),
        "attention": attention,
        "widths": [config.speech_width, config.encoder_width - config.speech_width],
        "fixed_length": config.fixed_length,
        "config": {name: _relevant(encoder.config.to_dict()) for name, encoder in encoders.items()},
        "features": {name: feature_settings[name] for name in sorted(feature_settings) if name != "padding_side"},
        "device": next(salmonn.encoders[0].parameters()).device.type,
    }
    return json.loads(json.dumps(description))  # as it is read again: no tuples, keys are strings


def _relevant(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name not in _IRRELEVANT}


def _hash_weights(encoder: nn.Module) -> str:
    """A hash of every bit of the weights, with their names, types and shapes."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _compare(recorded: Any, found: Any, name: str = "") -> Iterator[str]:
    """What differs between two descriptions, in words."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key in sorted(recorded.keys() | found.keys()):
            yield from _compare(recorded.get(key), found.get(key), f"{name}.{key}" if name else key)
    elif recorded != found:
        yield f"{name} ({recorded!r} in the cache, {found!r} now)"


def _dtype_name(part: Any) -> str:
    return str(part.dtype if isinstance(part, torch.Tensor) else torch.float32).removeprefix("torch.")


def _to_bytes(tensor: torch.Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _to_tensor(buffer: pa.Buffer, dtype: torch.dtype, width: int) -> torch.Tensor:
    """`(rows, width)` of a copy of the buffer, since a map of a file must not be written to."""
    return torch.frombuffer(bytearray(buffer), dtype=dtype).view(-1, width)
