# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Transcripts with times, as text and as the subtitles that players read: SubRip (.srt) and WebVTT (.vtt)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


FORMATS = ("txt", "srt", "vtt")


@dataclass(frozen=True)
class Segment:
    """What is said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def join(segments: Iterable[Segment]) -> str:
    """The text alone."""
    return " ".join(segment.text for segment in segments if segment.text)


def format_segments(segments: Iterable[Segment], kind: str) -> Iterator[str]:
    """
    A transcript in one of [`FORMATS`], in parts that are to be printed one after the other, each as soon as its segment is
    there. Segments without text are left out.
    """
    if kind == "vtt":
        yield "WEBVTT\n"
    spoken = (segment for segment in segments if segment.text)
    for number, segment in enumerate(spoken, start=1):
        if kind == "txt":
            yield f"{segment.start:.2f}\t{segment.end:.2f}\t{' '.join(segment.text.split())}"
            continue
        comma = "," if kind == "srt" else "."
        times = f"{_clock(segment.start, comma)} --> {_clock(segment.end, comma)}"
        lines = [line for line in segment.text.splitlines() if line.strip()]  # an empty line would end the subtitle
        text = "\n".join(lines)
        yield f"{number}\n{times}\n{text}\n" if kind == "srt" else f"{times}\n{_escape(text)}\n"


def _clock(seconds: float, comma: str) -> str:
    """Hours, minutes, seconds and milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{comma}{rest % 1000:03}"


def _escape(text: str) -> str:
    """Text of WebVTT, in which these begin markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
