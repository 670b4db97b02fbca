# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The schema of a row, and manifests: files that list such rows. Everything wrong with one is found before anything is
loaded. See `docs/data.md` for the columns and the forms of files.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from audio_reading_salmonn import shorten
from chat_template_salmonn import AUDIO_TOKEN
from data_salmonn.audio import SILENCE_SECONDS, measure_audio
from data_salmonn.chats import answers_of, is_chat, read_chat
from data_salmonn.prompts import PromptBank
from data_salmonn.readers import MANIFEST_ENDINGS, MANIFEST_NAMES, Entry, find_manifest, read_entries


# Columns, and the names that other formats have for them. The first that a row has counts.
SYNONYMS = {
    "audio": ("audio", "path", "file_name"),
    "text": ("text", "answer", "reference", "transcription", "sentence"),
    "question": ("question", "Q"),
    "task": ("task",),
    "language": ("language",),
    "id": ("id",),
    "messages": ("messages",),
}
LABELS = ("text", "task", "question", "language", "id", "messages")  # what a row has beside its clips: all strings
MAX_TEXT_TOKENS = 300  # of the released configuration
MAX_LISTED = 50  # problems in the message of an error; all are in its `problems`


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row. `row` counts lines of JSONL and CSV files, and entries of annotations, from 1."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.row}: {self.reason}"


class ManifestError(ValueError):
    """A manifest with bad rows, all of which are in `problems`."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        rows = len({(problem.file, problem.row) for problem in problems})
        lines = [f"{rows} bad row{'s' * (rows > 1)}, nothing was loaded:", *map(str, problems[:MAX_LISTED])]
        if len(problems) > MAX_LISTED:
            lines.append(f"... and {len(problems) - MAX_LISTED} more, in `problems` of this error")
        super().__init__("\n  ".join(lines))

    def __reduce__(self):
        return type(self), (self.problems,)


@dataclass(frozen=True)
class ManifestRow:
    """
    A row that has passed all checks.

    `paths` has more than one entry if clips are joined, or if `messages`, a conversation, has several; `length` in
    seconds.
    """

    id: str
    paths: tuple[str, ...]
    text: str | None
    task: str | None
    question: str | None
    language: str | None
    messages: str | None
    length: float


@dataclass(frozen=True)
class _Checks:
    """What rows are held against."""

    file: Path
    audio_root: Path
    prompt_bank: PromptBank
    task: str | None
    tokenizer: Any
    max_text_tokens: int
    needs_text: bool


def pick(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column of the schema under any of its names, or `None`."""
    return next((row[name] for name in SYNONYMS[column] if row.get(name) is not None), None)


def validate_manifest(source: str | Path, **options) -> list[Problem]:
    """
    Everything wrong with a manifest: missing files, files that are no audio, clips of zero length, empty texts, texts
    over the limit, unknown tasks, missing questions, wrong types. Of audio only the headers are read.

    `options` are those of [`read_manifest`].
    """
    return _inspect(source, **options)[1]


def read_manifest(source: str | Path, **options) -> list[ManifestRow]:
    """
    The rows of a manifest, in order.

    Args:
        source (`str` or `Path`):
            JSON, JSONL, CSV or TSV, or a folder with a `metadata` or `manifest` of these, or one of LibriSpeech.
        task (`str`, *optional*):
            Task of the rows that do not name one.
        audio_root (`str` or `Path`, *optional*):
            Folder that paths start from. The folder of the manifest by default.
        prompt_bank (`PromptBank`, *optional*):
            The tasks that are known. Those of the project by default.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            What to count the tokens of answers with. Without it only answers are found whose words alone are too many.
        max_text_tokens (`int`, *optional*, defaults to 300):
            Most tokens of an answer, its end token included.
        needs_text (`bool`, *optional*, defaults to `True`):
            Whether a row must have an answer. One that is only to be asked need not.
        num_threads (`int`, *optional*, defaults to 8):
            Headers to read at a time.

    Raises:
        ManifestError: if there are bad rows. It lists all of them.
        ValueError: if `source` is no manifest.
    """
    rows, problems = _inspect(source, **options)
    if problems:
        raise ManifestError(problems)
    return rows


def _inspect(
    source: str | Path,
    *,
    task: str | None = None,
    audio_root: str | Path | None = None,
    prompt_bank: PromptBank | None = None,
    tokenizer=None,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    needs_text: bool = True,
    num_threads: int = 8,
) -> tuple[list[ManifestRow], list[Problem]]:
    """The good rows of a manifest, and everything wrong with the others."""
    if not isinstance(source, (str, Path)):
        raise TypeError(f"`source` must be the path of a manifest, got {describe(source)}.")
    if audio_root is not None and not isinstance(audio_root, (str, Path)):
        raise TypeError(f"`audio_root` must be a folder, got {describe(audio_root)}.")
    for name, value in (("max_text_tokens", max_text_tokens), ("num_threads", num_threads)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
    if not isinstance(prompt_bank, (PromptBank, type(None))):
        raise TypeError(f"`prompt_bank` must be a PromptBank, got {describe(prompt_bank)}.")
    if not isinstance(task, (str, type(None))):
        raise TypeError(f"`task` must be the name of a task, got {describe(task)}.")
    file = find_manifest(source)
    if file is None:
        raise ValueError(
            f"`source` must be a file that ends in one of {', '.join(MANIFEST_ENDINGS)}, a folder with one of "
            f"{', '.join(MANIFEST_NAMES)}, or one with *.trans.txt, got {source}."
        )
    if file.is_dir() and task is None:
        task = "asr"  # LibriSpeech says what is spoken
    bank = prompt_bank or PromptBank.load()
    checks = _Checks(file, audio_root_of(file, audio_root), bank, task, tokenizer, max_text_tokens, needs_text)

    entries = list(read_entries(file))
    rows, problems = [], []
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(partial(_check_entry, checks), entries)
        progress = tqdm(results, total=len(entries), desc=f"Checking {file.name}", unit="row", delay=2)
        for (number, _), result in zip(entries, progress):
            if isinstance(result, ManifestRow):
                rows.append(result)
            else:
                problems += [Problem(str(file), number, reason) for reason in result]
    if not entries:
        problems.append(Problem(str(file), 0, "the file holds no rows"))
    return rows, problems


def audio_root_of(manifest: Path, audio_root: str | Path | None = None) -> Path:
    """Where the paths of a manifest start: its folder, unless another one is given."""
    if audio_root is not None:
        return Path(audio_root)
    return manifest if manifest.is_dir() else manifest.parent


def _check_entry(checks: _Checks, entry: Entry) -> ManifestRow | list[str]:
    """The row, or all that is wrong with it."""
    number, row = entry
    try:
        columns, clips = read_row(row)
    except ValueError as error:
        return [str(error)]
    columns["task"] = columns["task"] or checks.task
    problems = check_labels(
        columns, checks.prompt_bank, checks.tokenizer, checks.max_text_tokens, needs_text=checks.needs_text
    )
    paths, seconds = [], []
    for name, value in clips:
        if not isinstance(value, str) or not value:
            problems.append(f"`{name}` must be a path, got {describe(value)}")
            continue
        path = checks.audio_root / value
        length, problem = measure_audio(path)
        paths.append(str(path))
        seconds.append(length)
        problems += [f"`{name}` {shorten(value)}: {problem}"] if problem else []
    if problems:
        return problems
    silence = 0 if columns["messages"] else SILENCE_SECONDS * (len(paths) - 1)
    row_id = f"{checks.file.name}:{number}" if columns["id"] in (None, "") else str(columns["id"])
    columns = {name: value or None for name, value in columns.items()} | {"id": row_id}
    return ManifestRow(**columns, paths=tuple(paths), length=sum(seconds) + silence)


def read_row(row: Any) -> tuple[dict, list[tuple[str, Any]]]:
    """
    The columns of [`LABELS`] of a row of any form, unchecked, and its clips with the names of their columns.

    Raises a `ValueError` for what is no row, and for a conversation that cannot be trained on.
    """
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, got {type(row).__name__}")
    if is_chat(row):
        columns, clips = read_chat(row)
        return {name: columns.get(name) for name in LABELS}, [("audios", clip) for clip in clips or [None]]
    name = next((name for name in SYNONYMS["audio"] if row.get(name) is not None), "audio")
    audio = row.get(name)
    clips = [(name, clip) for clip in (audio if isinstance(audio, list) and audio else [audio])]
    more = row.get("expand_wav")
    clips += [("expand_wav", clip) for clip in (more if isinstance(more, list) else [] if more is None else [more])]
    return {name: pick(row, name) for name in LABELS}, clips


def check_labels(
    row: Mapping[str, Any],
    prompt_bank: PromptBank,
    tokenizer=None,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    needs_text: bool = True,
) -> list[str]:
    """What is wrong with `text`, `task`, `question`, `language` and `messages` of a row, of whichever format."""
    texts = answers_of(row["messages"]) if row.get("messages") else [row.get("text")]
    texts = texts if needs_text else [text for text in texts if text is not None]
    problems = [problem for text in texts for problem in check_text(text, tokenizer, max_text_tokens)]
    for name in ("task", "question", "language"):
        if row.get(name) is not None and not isinstance(row[name], str):
            problems.append(f"`{name}` must be a string, got {describe(row[name])}")
    if isinstance(row.get("question"), str):
        problems += check_characters("question", row["question"], tokenizer)
    if not isinstance(row.get("id"), (str, int, float, type(None))):
        problems.append(f"`id` must be a string or a number, got {describe(row['id'])}")
    task, language = row.get("task"), row.get("language")
    if not task:
        if not row.get("question") and not row.get("messages"):
            problems.append(
                "there is neither a `question` nor a `task`: write what is asked, or name a task, such as asr"
            )
        return problems
    if not isinstance(task, str):
        return problems
    if task not in prompt_bank:
        return [*problems, f"`task` {task!r} is unknown: the prompt bank has no prompts for it"]
    if row.get("messages"):
        return problems
    if prompt_bank[task].needs_question and not row.get("question"):
        problems.append(f"task {task!r} needs a question (`Q`)")
    if isinstance(language, str) and language and language not in prompt_bank[task].prompts:
        problems.append(f"`language` {language!r} has no prompts for task {task!r}")
    return problems


def check_text(text: Any, tokenizer=None, max_text_tokens: int = MAX_TEXT_TOKENS) -> list[str]:
    """What is wrong with an answer."""
    if not isinstance(text, str):
        return [f"`text` must be a string, got {describe(text)}"]
    if not text.strip():
        return ["`text` is empty"]
    if problems := check_characters("text", text, tokenizer):
        return problems
    limit = max_text_tokens
    if tokenizer is None:
        words = len(text.split())  # each of which is at least one token, and then there is the end token
        return [f"`text` must have at most {limit} tokens, got {words} words"] if words >= limit else []
    ids = tokenizer(text, add_special_tokens=False).input_ids
    special = sorted(set(ids) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    if special:  # an end token within an answer would end what is learnt of it
        return [f"`text` must hold no special tokens, got {tokenizer.convert_ids_to_tokens(special)}"]
    if len(ids) + 1 > limit:
        return [f"`text` must have at most {limit} tokens with its end token, got {len(ids) + 1}"]
    return []


def check_characters(name: str, text: str, tokenizer=None) -> list[str]:
    """What is wrong with a text whatever it says: that it is no Unicode, or holds what stands for a clip."""
    half = re.search("[\ud800-\udfff]", text)
    if half:
        return [
            f"`{name}` must be Unicode, got half of a surrogate pair, {ascii(half[0])}, at character {half.start()}"
        ]
    token = getattr(tokenizer, "audio_token", None) or AUDIO_TOKEN
    return [f"`{name}` must not hold {token}, which stands for a clip"] if token in text else []


def describe(value: Any) -> str:
    """A value of the wrong type, in the words of an error."""
    return "nothing" if value is None else f"{shorten(repr(value))} ({type(value).__name__})"
