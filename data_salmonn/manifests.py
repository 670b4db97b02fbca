# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Manifests: files that list clips and answers. Everything wrong with one is found before anything is loaded.

Three forms are read, see `docs/training_data.md`: the annotation file of the released project
(`{"annotation": [{"path", "text", "task", "Q", "expand_wav"}]}`), JSONL with one such object a line, and CSV. A folder
stands for the `metadata.csv` or `metadata.jsonl` in it.
"""

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
from tqdm.auto import tqdm

from data_salmonn.prompts import PromptBank


MANIFEST_ENDINGS = (".json", ".jsonl", ".csv")
METADATA_FILES = ("metadata.csv", "metadata.jsonl")
# Columns under the names that other formats have for them.
SYNONYMS = {"path": ("path", "audio", "file_name"), "text": ("text", "transcription"), "question": ("Q", "question")}
MAX_TEXT_TOKENS = 300  # of the released configuration
SILENCE_SECONDS = 0.1  # between the clips of `expand_wav`, as in the released code
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
        lines = [f"{rows} bad rows, nothing was loaded:", *map(str, problems[:MAX_LISTED])]
        if len(problems) > MAX_LISTED:
            lines.append(f"... and {len(problems) - MAX_LISTED} more, in `problems` of this error")
        super().__init__("\n  ".join(lines))

    def __reduce__(self):
        return type(self), (self.problems,)


@dataclass(frozen=True)
class ManifestRow:
    """A row that has passed all checks. `paths` has more than one entry if there is `expand_wav`; `length` in seconds."""

    id: str
    paths: tuple[str, ...]
    text: str
    task: str
    question: str | None
    language: str | None
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


def find_manifest(source: str | Path) -> Path | None:
    """
    The manifest that `source` is, or that lies in the folder `source`; `None` if `source` is something else. Raises a
    `ValueError` if it has the name of a manifest and does not exist.
    """
    source = Path(source)
    if source.suffix in MANIFEST_ENDINGS and not source.is_dir():
        if not source.is_file():
            raise ValueError(f"`source` {source} does not exist.")
        return source
    return next((source / name for name in METADATA_FILES if (source / name).is_file()), None)


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
            Annotation file, JSONL or CSV, or a folder with `metadata.csv` or `metadata.jsonl`.
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
    num_threads: int = 8,
) -> tuple[list[ManifestRow], list[Problem]]:
    """The good rows of a manifest, and everything wrong with the others."""
    file = find_manifest(source)
    if file is None:
        raise ValueError(
            f"`source` must be a .json, .jsonl or .csv file or a folder with one of {METADATA_FILES}, got {source}."
        )
    if max_text_tokens < 1:
        raise ValueError(f"`max_text_tokens` must be at least 1, got {max_text_tokens}.")
    root = file.parent if audio_root is None else Path(audio_root)
    checks = _Checks(file, root, prompt_bank or PromptBank.load(), task, tokenizer, max_text_tokens)

    entries = list(_read_entries(file))
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


def _read_entries(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of `file` with their numbers, as they stand there; a `ValueError` in place of one that cannot be read."""
    if file.suffix == ".csv":
        yield from _read_csv(file)
    elif file.suffix == ".jsonl":
        yield from _read_jsonl(file)
    else:
        yield from _read_annotation(file)


def _read_annotation(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        yield 0, ValueError(f"the file cannot be read as JSON ({error})")
        return
    rows = content.get("annotation") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        yield 0, ValueError('the file must be {"annotation": [...]}; a file with one object a line must end in .jsonl')
        return
    yield from enumerate(rows, start=1)


def _read_jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8"))
            except ValueError as error:
                yield number, ValueError(f"the line cannot be read as JSON ({error})")


def _read_csv(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restkey="", restval=None)
        try:
            for row in reader:
                if "" in row:
                    yield reader.line_num, ValueError(f"the line has more cells than the header: {row['']}")
                else:
                    # a cell cannot be left out, only left empty
                    yield reader.line_num, {name: cell for name, cell in row.items() if cell}
        except (csv.Error, UnicodeDecodeError) as error:
            yield reader.line_num + 1, ValueError(f"the line cannot be read as CSV ({error})")


def _check_entry(checks: _Checks, entry: tuple[int, Any]) -> ManifestRow | list[str]:
    """The row, or all that is wrong with it."""
    number, row = entry
    if isinstance(row, ValueError):
        return [str(row)]
    if not isinstance(row, dict):
        return [f"a row must be an object, got {type(row).__name__}"]
    row = {**row, **{name: _pick(row, names) for name, names in SYNONYMS.items()}}
    row["task"] = row.get("task") or checks.task
    problems = check_labels(row, checks.prompt_bank, checks.tokenizer, checks.max_text_tokens)
    paths, seconds, path_problems = _check_audio(checks, row)
    problems += path_problems
    if problems:
        return problems
    return ManifestRow(
        id=str(row.get("id") or f"{checks.file.name}:{number}"),
        paths=tuple(paths),
        text=row["text"],
        task=row["task"],
        question=row["question"] or None,
        language=row.get("language") or None,
        length=sum(seconds) + SILENCE_SECONDS * (len(paths) - 1),
    )


def _pick(row: dict, names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def check_labels(
    row: dict, prompt_bank: PromptBank, tokenizer=None, max_text_tokens: int = MAX_TEXT_TOKENS
) -> list[str]:
    """What is wrong with `text`, `task`, `question` and `language` of a row, of whichever format."""
    problems = check_text(row.get("text"), tokenizer, max_text_tokens)
    for name in ("task", "question", "language"):
        if row.get(name) is not None and not isinstance(row[name], str):
            problems.append(f"`{name}` must be a string, got {_name(row[name])}")
    task, language = row.get("task"), row.get("language")
    if not task:
        return [*problems, "`task` is missing"]
    if not isinstance(task, str):
        return problems
    if task not in prompt_bank:
        return [*problems, f"`task` {task!r} is unknown: the prompt bank has no prompts for it"]
    if prompt_bank[task].needs_question and not row.get("question"):
        problems.append(f"task {task!r} needs a question (`Q`)")
    if isinstance(language, str) and language and language not in prompt_bank[task].prompts:
        problems.append(f"`language` {language!r} has no prompts for task {task!r}")
    return problems


def check_text(text: Any, tokenizer=None, max_text_tokens: int = MAX_TEXT_TOKENS) -> list[str]:
    """What is wrong with an answer."""
    if not isinstance(text, str):
        return [f"`text` must be a string, got {_name(text)}"]
    if not text.strip():
        return ["`text` is empty"]
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


def _check_audio(checks: _Checks, row: dict) -> tuple[list[str], list[float], list[str]]:
    """Paths of the clips of a row, their seconds, and what is wrong with them."""
    expand_wav = row.get("expand_wav")
    expand_wav = [] if expand_wav is None else expand_wav
    paths, seconds, problems = [], [], []
    if not isinstance(expand_wav, list):
        problems.append(f"`expand_wav` must be a list of paths, got {_name(expand_wav)}")
        expand_wav = []
    for name, value in [("path", row["path"]), *(("expand_wav", value) for value in expand_wav)]:
        if not isinstance(value, str) or not value:
            problems.append(f"`{name}` must be a path, got {_name(value)}")
            continue
        path = checks.audio_root / value
        length, problem = measure_audio(path)
        paths.append(str(path))
        seconds.append(length)
        problems += [f"`{name}` {value}: {problem}"] if problem else []
    return paths, seconds, problems


def measure_audio(file) -> tuple[float, str | None]:
    """Seconds of the audio in `file` (a path or file object) by its header, and what is wrong with it, if anything."""
    if isinstance(file, Path) and not file.is_file():
        return 0.0, "there is no such file"
    try:
        info = soundfile.info(file)
    except (RuntimeError, OSError, TypeError) as error:  # soundfile's errors are RuntimeErrors
        return 0.0, f"is no audio that can be read ({error})"
    return info.frames / info.samplerate, None if info.frames else "the clip has no samples"


def _name(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
