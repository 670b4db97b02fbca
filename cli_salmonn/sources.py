# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the words of `salmonn ask` name: which are clips, which is the question. Everything is looked at before torch is."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli_salmonn.audio_files import AUDIO_ENDINGS, check_clip
from cli_salmonn.spool import download, is_url, save_input
from data_salmonn.readers import MANIFEST_ENDINGS, find_manifest


STDIN = "-"


@dataclass(frozen=True)
class Clip:
    """An audio file, and what the user calls it."""

    name: str
    path: Path


@dataclass(frozen=True)
class Sources:
    """What is asked about: groups of clips, each of which is one prompt, or else a manifest. Without questions it is transcribed."""

    groups: list[tuple[Clip, ...]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    manifest: Path | None = None


def find_sources(words: Sequence[str], questions: Sequence[str], each: bool, folder: str | Path) -> Sources:
    """
    Sorts the words after the model: clips, and last a question unless there are `questions` already.

    Args:
        words: paths, folders, globs, http(s) addresses, `-` for standard input, and maybe a question.
        questions: those given with `--question`.
        each: whether each clip is asked about by itself. Clips of a folder or a glob always are, and so are clips that
            are transcribed.
        folder: where files go that are not there yet.

    Raises:
        ValueError: if one of the words is no clip, in a sentence that says what it is.
    """
    words, questions = list(words), list(questions)
    if not questions and len(words) > 1 and _is_question(words[-1]):
        questions.append(words.pop())
    if any(not question.strip() for question in questions):
        raise ValueError("`question` must not be empty")
    manifests = [word for word in words if not is_url(word) and _find_manifest(word) is not None]
    if manifests:
        if len(words) > 1:
            raise ValueError(
                f"`audio` {manifests[0]} is a manifest, which is asked by itself, got {len(words)} sources"
            )
        return Sources(questions=questions, manifest=Path(words[0]))
    clips = find_clips(words, folder, hint=": clips come first, and then one question, in quotes")
    apart = each or not questions or any(os.path.isdir(word) or _matches(word) for word in words)
    return Sources([(clip,) for clip in clips] if apart else [tuple(clips)], questions)


def find_clips(words: Sequence[str], folder: str | Path, hint: str = "") -> list[Clip]:
    """
    The clips that words name: paths, folders, globs, http(s) addresses and `-`. What is not there yet goes to `folder`.

    Raises `ValueError` if one of the words is no clip; `hint` is what to say of a word that looks like none.
    """
    if words.count(STDIN) > 1:
        raise ValueError(f"`audio` {STDIN} can be read once, got it {words.count(STDIN)} times")
    found = [_find_clips(word, Path(folder, str(number)), hint) for number, word in enumerate(words)]
    clips = [clip for some in found for clip in some]
    for clip in clips:
        check_clip(clip.path)
    return clips


def _is_question(word: str) -> bool:
    """Whether the last word asks: it is nothing that exists, and does not look like the name of a file."""
    return not (word == STDIN or is_url(word) or os.path.exists(word) or _matches(word) or _looks_like_file(word))


def _looks_like_file(word: str) -> bool:
    return not re.search(r"\s", word) and word.lower().endswith((*AUDIO_ENDINGS, *MANIFEST_ENDINGS))


def _matches(word: str) -> list[str]:
    """The files that a glob finds. A question mark alone makes no glob: it ends questions."""
    if os.path.exists(word) or not re.search(r"[*\[]", word):
        return []
    return sorted(path for path in glob.glob(word, recursive=True) if os.path.isfile(path))


def _find_manifest(word: str) -> Path | None:
    # not for other words, long ones among them, which are no paths
    return find_manifest(word) if os.path.isdir(word) or Path(word).suffix in MANIFEST_ENDINGS else None


def _find_clips(word: str, folder: Path, hint: str) -> list[Clip]:
    """The clips that a word names. What has to be read first is written to `folder`, which is made for it."""
    if word == STDIN or is_url(word):
        folder.mkdir()
        return [Clip(word, save_input(folder) if word == STDIN else download(word, folder))]
    if os.path.isdir(word):
        paths = sorted(path for path in Path(word).iterdir() if path.suffix.lower() in AUDIO_ENDINGS)
        if not paths:
            raise ValueError(
                f"`audio` {word} is a folder without audio files ({', '.join(AUDIO_ENDINGS[:6])}, ...) and without a manifest"
            )
        return [Clip(str(path), path) for path in paths]
    if os.path.exists(word):
        return [Clip(word, Path(word))]
    if paths := _matches(word):
        return [Clip(path, Path(path)) for path in paths]
    if _looks_like_file(word):
        raise ValueError(f"`audio` {word} does not exist")
    raise ValueError(f"`audio` {word} does not exist{hint}")
