# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Training data from manifests, folders and the Hub, all with the same columns:

    audio     the clip, a `datasets.Audio` of 16 kHz that is not decoded until a batch needs it, or a list of such clips
              that are joined with 0.1 s of silence
    text      the answer
    task      what is asked, see `prompts/`, or `None` if the question is asked as it stands
    question  the row's own question, or `None`
    language  language of the prompt, or `None`
    messages  a conversation of several turns or clips as JSON, or `None`, see `chats`; `text` is then its last answer
    length    seconds of audio, for batches of similar lengths (not with streamed Hub data)
    id        what errors call the row
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm.auto import tqdm

from data_salmonn.audio import SAMPLING_RATE, SILENCE_SECONDS, DatasetClip, measure_audio
from data_salmonn.chats import CHAT_COLUMNS, CLIP_COLUMNS, read_chat
from data_salmonn.extras import needs_extra
from data_salmonn.manifests import (
    LABELS,
    MAX_TEXT_TOKENS,
    SYNONYMS,
    ManifestError,
    ManifestRow,
    Problem,
    check_labels,
    read_manifest,
)
from data_salmonn.prompts import PromptBank
from data_salmonn.readers import SAVED_NAMES, find_manifest


with needs_extra("train"):
    import pyarrow as pa
    from datasets import Audio, Dataset, Features, IterableDataset, List, Value, load_dataset, load_from_disk


PROBLEM = "problem"  # column of what is wrong with a conversation, until all rows are checked
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
            A manifest or a folder of one, see [`read_manifest`], a folder that `save_to_disk` wrote, a data set of the
            Hub or a folder of one, or a data set that is loaded already.
        split (`str`, *optional*):
            Split to load, for data sets that have several.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to return an `IterableDataset`. Rows of the Hub are then checked only when their turn comes.
        task (`str`, *optional*):
            Task of the rows that do not name one. Without a task, a row's question is asked as it stands.
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
        dataset = _name_columns(open_dataset(source, split, streaming, **load_options), name, columns, task)
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
        {"audio": List(AUDIO) if joined else AUDIO, **{name: Value("string") for name in LABELS}}
        | {"length": Value("float64")}
    )
    columns: dict[str, list] = {name: [getattr(row, name) for row in rows] for name in (*LABELS, "length")}
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


def open_dataset(
    source: str | Path | Dataset | IterableDataset, split: str | None = None, streaming: bool = False, **load_options
) -> Dataset | IterableDataset:
    """One split of a data set, as it is. Raises `ValueError` if it must be named, or is not there."""
    if isinstance(source, (str, Path)):
        if any((Path(source) / name).is_file() for name in SAVED_NAMES):
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


def lazy_rows(dataset: Dataset) -> list[dict]:
    """The rows of `dataset` with all their columns, clips as [`DatasetClip`]: not decoded, and not kept in memory."""
    audio = [name for name, feature in dataset.features.items() if isinstance(_feature_of_clips(feature), Audio)]
    for name in audio:
        dataset = _cast_audio(dataset, name)
    others = [name for name in dataset.column_names if name not in audio]
    rows = dataset.select_columns(others).to_list() if others else [{} for _ in range(len(dataset))]
    clips = {name: dataset.select_columns([name]) for name in audio}
    return [row | {name: DatasetClip(clips[name], i, name) for name in audio} for i, row in enumerate(rows)]


def _feature_of_clips(feature: Any) -> Any:
    """What a column holds, alone or in lists."""
    return feature.feature if isinstance(feature, List) else feature


def _cast_audio(dataset: Dataset | IterableDataset, column: str = "audio") -> Dataset | IterableDataset:
    """`dataset` with clips of 16 kHz that are not decoded, alone or in lists as they are."""
    found = dataset.features[column]
    if isinstance(_feature_of_clips(found), dict) and "array" in _feature_of_clips(found):
        return _encode_arrays(dataset, column)
    wanted = AUDIO if isinstance(dataset, Dataset) else STREAMED_AUDIO
    wanted = List(wanted) if isinstance(found, List) else wanted
    return dataset if found == wanted else dataset.cast_column(column, wanted)


def _encode_arrays(dataset: Dataset | IterableDataset, column: str) -> Dataset | IterableDataset:
    """`dataset` with files in memory in place of the arrays of `column`, whose rate each row may have its own of."""
    is_list = isinstance(dataset.features[column], List)

    def encode(value: Any) -> dict:
        clips = [_to_file(clip) for clip in (value if is_list else [value])]
        return {column: clips if is_list else clips[0]}

    features = Features({**dataset.features, column: List(STREAMED_AUDIO) if is_list else STREAMED_AUDIO})
    return _cast_audio(dataset.map(encode, input_columns=[column], features=features), column)


def _to_file(clip: Any) -> dict:
    """A clip as path or bytes, whatever form it has in a row."""
    if isinstance(clip, str):
        return {"bytes": None, "path": clip}
    if isinstance(clip, dict) and clip.get("array") is not None:
        file = BytesIO()
        samples = np.asarray(clip["array"], dtype=np.float32)
        soundfile.write(file, samples, int(clip["sampling_rate"]), format="WAV", subtype="FLOAT")
        return {"bytes": file.getvalue(), "path": None}
    return {name: clip.get(name) if isinstance(clip, dict) else None for name in ("bytes", "path")}


def _name_columns(
    dataset: Dataset | IterableDataset, name: str | Path, columns: dict[str, str] | None, task: str | None
) -> Dataset | IterableDataset:
    """The columns of the project and no others, with types as they should be."""
    if dataset.features is None:  # streamed, and without any description
        dataset = dataset._resolve_features()
    columns = columns or {}
    for found in columns.values():
        if found not in dataset.column_names:
            raise ValueError(f"`columns` names {found!r}, but {name} has {dataset.column_names}.")
    if _has_chats(dataset):
        dataset = _convert_chats(dataset)
    found = {wanted: next((n for n in names if n in dataset.column_names), None) for wanted, names in SYNONYMS.items()}
    found = {wanted: name for wanted, name in found.items() if name is not None} | columns
    if "audio" in found:  # first of all: any other change of streamed data would decode the clips
        dataset = _cast_audio(dataset, found["audio"])
    for wanted, column in found.items():
        if wanted != column:
            dataset = dataset.remove_columns(wanted) if wanted in dataset.column_names else dataset
            dataset = dataset.rename_column(column, wanted)
    missing = {"audio", "text"} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"`source` {name} has no column {' and '.join(sorted(missing))}, only {dataset.column_names}. Say with "
            '`columns` what it is called, such as columns={"text": "sentence"}.'
        )
    if not {"task", "question", "messages"} & set(dataset.column_names) and task is None:
        raise ValueError(f"`source` {name} has no column `task` or `question`: give the `task` of its rows.")
    kept = ("audio", *LABELS, "length", PROBLEM)
    dataset = dataset.select_columns([column for column in kept if column in dataset.column_names])
    return _fill_columns(dataset, name, task)


def _has_chats(dataset: Dataset | IterableDataset) -> bool:
    # conversations of this project are strings already
    return any(name in dataset.column_names and dataset.features[name] != Value("string") for name in CHAT_COLUMNS)


def _convert_chats(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The columns that conversations stand for, and [`PROBLEM`] for those that cannot be used."""
    for column in CLIP_COLUMNS:
        if column in dataset.column_names and isinstance(_feature_of_clips(dataset.features[column]), Audio):
            dataset = _cast_audio(dataset, column)

    def convert(row: dict) -> dict:
        try:
            columns, clips = read_chat(row)
        except ValueError as error:
            return {**dict.fromkeys(LABELS), "audio": [], PROBLEM: str(error)}
        found = {name: columns.get(name) for name in LABELS}
        return {**found, "audio": [_to_file(clip) for clip in clips], PROBLEM: None}

    strings = {name: Value("string") for name in (*LABELS, PROBLEM)}
    features = Features({"audio": List(STREAMED_AUDIO), **strings})
    return dataset.map(convert, remove_columns=dataset.column_names, features=features)


def _fill_columns(dataset: Dataset | IterableDataset, name: str | Path, task: str | None):
    """Adds the columns of strings that are missing, without a copy of the clips."""
    found = [column for column in LABELS if column in dataset.column_names]

    def fill(indices, **columns: list) -> dict[str, list]:
        nothing = [None] * len(indices)
        tasks, ids = columns.get("task", nothing), columns.get("id", nothing)
        return {
            "task": [value or task for value in tasks],
            "question": columns.get("question", nothing),
            "language": columns.get("language", nothing),
            "messages": columns.get("messages", nothing),
            "id": [f"{name}:{index}" if value in (None, "") else str(value) for value, index in zip(ids, indices)],
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
        features=Features({**dataset.features, **{column: Value("string") for column in LABELS}}),
    )


def _check_dataset(
    dataset: Dataset, name: str | Path, tokenizer, prompt_bank: PromptBank, max_text_tokens: int
) -> Dataset:
    """`dataset` with a column `length`, or a `ManifestError` with all its bad rows."""
    problems, lengths = [], []
    for index, row in enumerate(tqdm(dataset, desc=f"Checking {name}", unit="row", delay=2)):
        length, reasons = _measure(row["audio"], bool(row["messages"]))
        lengths.append(length)
        if row.get(PROBLEM):
            reasons = [row[PROBLEM]]
        else:
            reasons = check_labels(row, prompt_bank, tokenizer, max_text_tokens) + reasons
        problems += [Problem(str(name), index, reason) for reason in reasons]
    if not lengths:
        problems.append(Problem(str(name), 0, "the data set holds no rows"))
    if problems:
        raise ManifestError(problems)
    dataset = dataset.remove_columns([column for column in ("length", PROBLEM) if column in dataset.column_names])
    return dataset.add_column("length", lengths, feature=Value("float64"))


def _measure(audio: Any, is_chat: bool) -> tuple[float, list[str]]:
    """Seconds of a cell of the column `audio`, and what is wrong with its clips."""
    clips = audio if isinstance(audio, list) else [audio]
    found = [measure_audio(clip) for clip in clips or [None]]
    seconds = sum(length for length, _ in found) + (0 if is_chat else SILENCE_SECONDS * (len(found) - 1))
    return seconds, [f"`audio`: {problem}" for _, problem in found if problem]
