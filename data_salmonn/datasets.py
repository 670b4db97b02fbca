# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Training data from manifests, folders and the Hub, all with the same columns:

    audio     the clip, a `datasets.Audio` of 16 kHz that is not decoded until a batch needs it, or a list of such clips
              that are joined with 0.1 s of silence
    text      the answer
    task      what is asked, see `prompts/`
    question  the row's own question, or `None`
    language  language of the prompt, or `None`
    length    seconds of audio, for batches of similar lengths (not with streamed Hub data)
    id        what errors call the row
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import soxr
from datasets import Audio, Dataset, Features, IterableDataset, List, Value, load_dataset, load_from_disk
from tqdm.auto import tqdm
from transformers.audio_utils import load_audio

from data_salmonn.manifests import (
    MAX_TEXT_TOKENS,
    SILENCE_SECONDS,
    ManifestError,
    ManifestRow,
    Problem,
    check_labels,
    find_manifest,
    measure_audio,
    read_manifest,
)
from data_salmonn.prompts import PromptBank


SAMPLING_RATE = 16000
STRINGS = ("text", "task", "question", "language", "id")
MAX_SHARDS = 64  # of a streamed manifest: as many workers can share it


@dataclass
class UndecodedAudio(Audio):
    """
    `datasets.Audio` of files and bytes as they are, for [`read_audio`] to decode when a batch needs them. The class of
    `datasets` wants torchcodec, and with it FFmpeg's libraries, even to pass on a path while streaming.
    """

    decode: bool = False

    def encode_example(self, value: Any) -> dict:
        if isinstance(value, dict) and "array" not in value:
            return {"bytes": value.get("bytes"), "path": value.get("path")}
        return super().encode_example(value)


AUDIO = Audio(sampling_rate=SAMPLING_RATE, decode=False)
STREAMED_AUDIO = UndecodedAudio(sampling_rate=SAMPLING_RATE)


def load_training_data(
    source: str | Path | Dataset | IterableDataset,
    split: str | None = None,
    streaming: bool = False,
    *,
    task: str | None = None,
    columns: dict[str, str] | None = None,
    audio_root: str | Path | None = None,
    prompt_bank: PromptBank | None = None,
    tokenizer=None,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    **load_options,
) -> Dataset | IterableDataset:
    """
    Loads training data, and checks all of it first: no row is read if one is bad.

    Args:
        source (`str`, `Path`, `Dataset` or `IterableDataset`):
            A manifest (annotation JSON, JSONL, CSV), a folder with `metadata.csv` or `metadata.jsonl`, a folder that
            `save_to_disk` wrote, a data set of the Hub or a folder of one, or a data set that is loaded already.
        split (`str`, *optional*):
            Split to load, for data sets that have several.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to return an `IterableDataset`. Rows of the Hub are then checked only when their turn comes.
        task (`str`, *optional*):
            Task of the rows that do not name one.
        columns (`dict[str, str]`, *optional*):
            Columns by the names they should have, for data sets: `{"text": "sentence"}`.
        audio_root (`str` or `Path`, *optional*):
            Folder that the paths of a manifest start from. The manifest's own by default.
        prompt_bank (`PromptBank`, *optional*):
            The tasks that are known. Those of the project by default.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            What to count the tokens of answers with. See [`read_manifest`].
        max_text_tokens (`int`, *optional*, defaults to 300):
            Most tokens of an answer, its end token included.
        load_options (`dict`, *optional*):
            Passed on to `datasets.load_dataset`.

    Raises:
        ManifestError: if there are bad rows. It lists all of them.
        ValueError: if `source` cannot be used as a whole.
    """
    checks = {"prompt_bank": prompt_bank or PromptBank.load(), "max_text_tokens": max_text_tokens}
    if isinstance(source, (str, Path)) and find_manifest(source) is not None:
        if split is not None or columns is not None or load_options:
            raise ValueError(
                f"`split`, `columns` and options of `load_dataset` are for data sets, but `source` {source} is a "
                f"manifest. Got {split!r}, {columns!r} and {load_options}."
            )
        rows = read_manifest(source, task=task, audio_root=audio_root, tokenizer=tokenizer, **checks)
        dataset = rows_to_dataset(rows)
    else:
        name = source if isinstance(source, (str, Path)) else "data set"
        dataset = _name_columns(_open_dataset(source, split, streaming, load_options), name, columns, task)
        if isinstance(dataset, Dataset):
            dataset = _check_dataset(dataset, name, tokenizer=tokenizer, **checks)
    if streaming and isinstance(dataset, Dataset):
        return stream(dataset)
    return dataset


def stream(dataset: Dataset) -> IterableDataset:
    """The rows of `dataset` as a stream that several workers can share."""
    return _cast_audio(dataset.to_iterable_dataset(num_shards=min(MAX_SHARDS, len(dataset))))


def rows_to_dataset(rows: list[ManifestRow]) -> Dataset:
    """The data set of the rows of a manifest. Clips are lists if a row has several."""
    joined = any(len(row.paths) > 1 for row in rows)
    features = Features(
        {"audio": List(AUDIO) if joined else AUDIO, **{name: Value("string") for name in STRINGS}}
        | {"length": Value("float64")}
    )
    columns: dict[str, list] = {name: [getattr(row, name) for row in rows] for name in (*STRINGS, "length")}
    clips = [[{"bytes": None, "path": path} for path in row.paths] for row in rows]
    columns["audio"] = clips if joined else [clip for (clip,) in clips]
    # as an Arrow table: a `Dataset` made of Python objects would want torchcodec to encode them
    return Dataset(pa.Table.from_pydict(columns, schema=features.arrow_schema))


def has_lists(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows of `dataset` have lists of clips."""
    return isinstance(dataset.features["audio"], List)


def make_lists(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """`dataset` with lists of clips in `audio`, also where a row has one clip, to go with data that has several."""
    if has_lists(dataset):
        return dataset
    features = Features({**dataset.features, "audio": List(dataset.features["audio"])})
    return dataset.map(lambda row: {"audio": [row["audio"]]}, features=features)


def _cast_audio(dataset: Dataset | IterableDataset, column: str = "audio") -> Dataset | IterableDataset:
    """`dataset` with clips of 16 kHz that are not decoded, alone or in lists as they are."""
    wanted = AUDIO if isinstance(dataset, Dataset) else STREAMED_AUDIO
    wanted = List(wanted) if isinstance(dataset.features[column], List) else wanted
    return dataset if dataset.features[column] == wanted else dataset.cast_column(column, wanted)


def _open_dataset(
    source: str | Path | Dataset | IterableDataset, split: str | None, streaming: bool, load_options: dict
) -> Dataset | IterableDataset:
    """One split of a data set, as it is."""
    if isinstance(source, (str, Path)):
        if (Path(source) / "state.json").is_file() or (Path(source) / "dataset_dict.json").is_file():
            source = load_from_disk(str(source), **load_options)
        else:
            # not decoded while it is loaded: see `AUDIO`
            source = load_dataset(str(source), split=split, streaming=streaming, **load_options)
    if isinstance(source, dict):  # `DatasetDict` and `IterableDatasetDict`
        names = sorted(source)
        if split is None and len(names) > 1 or split is not None and split not in source:
            raise ValueError(f"`split` must be one of {names}, got {split!r}.")
        source = source[split or names[0]]
    if not isinstance(source, (Dataset, IterableDataset)):
        raise TypeError(f"`source` must be a path, a Hub id or a data set, got {type(source).__name__}.")
    return source


def _name_columns(
    dataset: Dataset | IterableDataset, name: str | Path, columns: dict[str, str] | None, task: str | None
) -> Dataset | IterableDataset:
    """The columns of the project and no others, with types as they should be."""
    if dataset.features is None:  # streamed, and without any description
        dataset = dataset._resolve_features()
    audio = (columns or {}).get("audio", "audio")
    if audio in dataset.column_names:  # first of all: any other change of streamed data would decode the clips
        dataset = _cast_audio(dataset, audio)
    for wanted, found in (columns or {}).items():
        if found not in dataset.column_names:
            raise ValueError(f"`columns` names {found!r}, but {name} has {dataset.column_names}.")
        if wanted in dataset.column_names and wanted != found:
            dataset = dataset.remove_columns(wanted)
        dataset = dataset.rename_column(found, wanted) if wanted != found else dataset
    missing = {"audio", "text"} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"`source` {name} has no column {' and '.join(sorted(missing))}, only {dataset.column_names}. Say with "
            '`columns` what it is called, such as columns={"text": "sentence"}.'
        )
    if "task" not in dataset.column_names and task is None:
        raise ValueError(f"`source` {name} has no column `task`: give the `task` of its rows.")
    dataset = dataset.select_columns([c for c in ("audio", *STRINGS, "length") if c in dataset.column_names])
    return _fill_columns(dataset, name, task)


def _fill_columns(dataset: Dataset | IterableDataset, name: str | Path, task: str | None):
    """Adds the columns of strings that are missing, without a copy of the clips."""
    found = [column for column in STRINGS if column in dataset.column_names]

    def fill(indices, **columns: list) -> dict[str, list]:
        nothing = [None] * len(indices)
        tasks, ids = columns.get("task", nothing), columns.get("id", nothing)
        return {
            "task": [value or task for value in tasks],
            "question": columns.get("question", nothing),
            "language": columns.get("language", nothing),
            "id": [value or f"{name}:{index}" for value, index in zip(ids, indices)],
        }

    if isinstance(dataset, Dataset):
        filled = fill(range(len(dataset)), **{column: dataset[column][:] for column in found})
        dataset = dataset.remove_columns([column for column in filled if column in found])
        for column, values in filled.items():
            dataset = dataset.add_column(column, values, feature=Value("string"))
        return dataset
    return dataset.map(
        lambda *values: fill(values[-1], **dict(zip(found, values))),
        batched=True,
        with_indices=True,
        input_columns=found,
        features=Features({**dataset.features, **{column: Value("string") for column in STRINGS}}),
    )


def _check_dataset(
    dataset: Dataset, name: str | Path, tokenizer, prompt_bank: PromptBank, max_text_tokens: int
) -> Dataset:
    """`dataset` with a column `length`, or a `ManifestError` with all its bad rows."""
    problems, lengths = [], []
    for index, row in enumerate(tqdm(dataset, desc=f"Checking {name}", unit="row", delay=2)):
        length, reasons = _measure(row["audio"])
        lengths.append(length)
        reasons = check_labels(row, prompt_bank, tokenizer, max_text_tokens) + reasons
        problems += [Problem(str(name), index, reason) for reason in reasons]
    if not lengths:
        problems.append(Problem(str(name), 0, "the data set holds no rows"))
    if problems:
        raise ManifestError(problems)
    if "length" in dataset.column_names:
        dataset = dataset.remove_columns("length")
    return dataset.add_column("length", lengths, feature=Value("float64"))


def _measure(audio: Any) -> tuple[float, list[str]]:
    """Seconds of a cell of the column `audio`, and what is wrong with its clips."""
    clips = audio if isinstance(audio, list) else [audio]
    found = [measure_audio(_file_of(clip)) if clip else (0.0, "there is none") for clip in clips]
    seconds = sum(length for length, _ in found) + SILENCE_SECONDS * (len(found) - 1)
    return seconds, [f"`audio`: {problem}" for _, problem in found or [(0.0, "there is none")] if problem]


def _file_of(clip: dict) -> Path | BytesIO:
    return Path(clip["path"]) if clip.get("bytes") is None else BytesIO(clip["bytes"])


def read_audio(audio: Any, silence_seconds: float = SILENCE_SECONDS) -> np.ndarray:
    """
    The samples of a cell of the column `audio`.

    Args:
        audio (`dict`, `str`, `np.ndarray`, torchcodec's `AudioDecoder` or a list of these):
            The clip: `{"path", "bytes"}` or `{"array", "sampling_rate"}` as `datasets` has them, a path, or samples of
            16 kHz. Clips of a list are joined.
        silence_seconds (`float`, *optional*, defaults to 0.1):
            Silence between the clips of a list.

    Returns:
        `np.ndarray`: float32 of shape `(samples,)`, 16 kHz, channels averaged.

    Raises:
        ValueError: on a clip without samples, or one that cannot be read.
        TypeError: on anything else.
    """
    if isinstance(audio, (list, tuple)):
        if not audio:
            raise ValueError("`audio` must hold at least one clip, got an empty list.")
        silence = np.zeros(round(silence_seconds * SAMPLING_RATE), dtype=np.float32)
        parts = [part for clip in audio for part in (silence, read_audio(clip))]
        return np.concatenate(parts[1:])
    samples = _read_clip(audio)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"`audio` must be mono samples, at least one, got an array of shape {samples.shape}.")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _read_clip(audio: Any) -> np.ndarray:
    """Samples of 16 kHz of one clip."""
    if isinstance(audio, np.ndarray):
        if not np.issubdtype(audio.dtype, np.floating):
            raise TypeError(f"`audio` must be floating-point samples in [-1, 1), got {audio.dtype}.")
        return audio
    if hasattr(audio, "get_all_samples"):  # torchcodec's, where `datasets` is left to decode
        samples = audio.get_all_samples()
        return _to_mono_16k(samples.data.numpy().T, samples.sample_rate)
    if isinstance(audio, (str, Path)):
        audio = {"path": str(audio)}
    if not isinstance(audio, dict):
        raise TypeError(f"`audio` must be a clip as `datasets` has it, a path or samples, got {type(audio).__name__}.")
    if audio.get("array") is not None:
        return _to_mono_16k(np.asarray(audio["array"]), audio["sampling_rate"])
    if audio.get("bytes") is None and not Path(str(audio.get("path"))).is_file():
        raise ValueError(f"`audio` {audio.get('path')}: there is no such file.")
    try:
        if audio.get("bytes") is None:
            return load_audio(str(audio["path"]), sampling_rate=SAMPLING_RATE, backend="soundfile")
        return _to_mono_16k(*soundfile.read(BytesIO(audio["bytes"]), dtype="float32", always_2d=True))
    except RuntimeError as error:  # soundfile's
        raise ValueError(f"`audio` {audio.get('path')} is no audio that can be read ({error}).") from error


def _to_mono_16k(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """`(samples,)` of 16 kHz from `(samples,)` or `(samples, channels)`, as Transformers' `load_audio` makes them."""
    samples = np.asarray(samples, dtype=np.float32)
    samples = samples.mean(axis=-1) if samples.ndim == 2 else samples
    if sampling_rate == SAMPLING_RATE:
        return samples
    wanted = -(-len(samples) * SAMPLING_RATE // int(sampling_rate))
    samples = soxr.resample(samples, sampling_rate, SAMPLING_RATE, quality="soxr_hq")
    return np.pad(samples, (0, max(0, wanted - len(samples))))[:wanted]
