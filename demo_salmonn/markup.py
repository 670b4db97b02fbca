# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The HTML of the page's own parts: clips, conversation, answers side by side, time and tokens.

Every text from outside (names of files, questions, answers) is escaped here. `web.css` says how the parts look.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from demo_salmonn.meter import PartUse
from demo_salmonn.pictures import draw_clip
from demo_salmonn.session import Answer, EncodedClip


ENDINGS = {
    "complete": "",
    "length": "cut at the longest answer",
    "time": "cut at the longest time",
    "stopped": "stopped",
}

# What each part of the meter does, in the order of the way of a clip.
ENCODING = {
    "features": "Spectra",
    "Whisper": "Whisper",
    "BEATs": "BEATs",
    "connector": "Connector",
}
ANSWERING = {"LLM prefill": "LLM reads", "LLM token": "LLM writes"}


@dataclass(frozen=True)
class Turn:
    """A question and its answer, and the names of the clips that it is about."""

    clips: tuple[str, ...]
    answer: Answer


def masthead(introduction: str, title: str, subtitle: str) -> str:
    """The head of the page: what it is, and which model answers."""
    return (
        f'<header class="masthead"><div><h1>SALMONN</h1><p>{escape(introduction)}</p></div>'
        f'<div class="model"><strong>{escape(title)}</strong><span>{escape(subtitle)}</span></div></header>'
    )


def heading(text: str, hint: str = "") -> str:
    return f'<h2 class="heading">{escape(text)}<small>{escape(hint)}</small></h2>'


def notice(*messages: str, kind: str = "problem") -> str:
    """Sentences for the visitor, a paragraph each; nothing if there are none."""
    paragraphs = "".join(f"<p>{escape(message)}</p>" for message in dict.fromkeys(messages) if message)
    return f'<div class="notice {kind}" role="alert">{paragraphs}</div>' if paragraphs else ""


def empty(message: str) -> str:
    return f'<p class="empty">{escape(message)}</p>'


def clip_cards(clips: Sequence[EncodedClip]) -> str:
    """The clips that are asked about: player, pictures, length, and what they are to the model."""
    if not clips:
        return empty("No clip yet. Record or upload one, or take an example.")
    return "".join(_clip_card(clip) for clip in clips)


def _clip_card(clip: EncodedClip) -> str:
    facts = [f"{clip.seconds:.1f} s", f"{clip.audio_tokens} audio tokens", f"encoded in {clip.encoding_seconds:.1f} s"]
    if clip.segments > 1:
        facts.insert(1, f"{clip.segments} segments of up to 30 s")
    source = escape(f"gradio_api/file={quote(clip.path)}", quote=True)
    return (
        f'<article class="clip"><header><strong>{escape(clip.name)}</strong>'
        f"<span>{' · '.join(facts)}</span></header>"
        f"{draw_clip(clip.samples, clip.log_mel, clip.sampling_rate)}"
        f'<audio controls preload="metadata" src="{source}"></audio></article>'
    )


def conversation(turns: Sequence[Turn]) -> str:
    """All turns, the newest last."""
    if not turns:
        return empty("Choose a task or write a question: the answer appears here as it is written.")
    return f'<div class="conversation" aria-live="polite">{"".join(map(_turn, turns))}</div>'


def _turn(turn: Turn) -> str:
    answer = turn.answer
    about = " + ".join(turn.clips)
    facts = _facts(answer)
    if answer.lora_scale != 1:
        facts.append(f"LoRA at {answer.lora_scale:g}")
    return (
        f'<section class="turn"><div class="asked"><small>{escape(about)}</small>{escape(answer.question)}</div>'
        f'<div class="answered">{_text(answer)}<small>{" · ".join(facts)}</small></div></section>'
    )


def _text(answer: Answer) -> str:
    if answer.ending is None:
        return f'<p class="text writing">{escape(answer.text) or "…"}</p>'
    return f'<p class="text">{escape(answer.text) or "<em>(an empty answer)</em>"}</p>'


def _facts(answer: Answer) -> list[str]:
    if not answer.new_tokens:
        return ["reading the clip and the question"]
    plural = "" if answer.new_tokens == 1 else "s"
    facts = [f"{answer.new_tokens} token{plural}", f"{answer.seconds:.1f} s"]
    ending = ENDINGS.get(answer.ending or "complete", "")
    return [*facts, ending] if ending else facts


def comparison(answers: Iterable[Answer]) -> str:
    """Answers to one question side by side, from LoRA as trained to LoRA off."""
    answers = sorted(answers, key=lambda answer: -answer.lora_scale)
    if not answers:
        return empty("The answers at two or more strengths of LoRA appear here side by side.")
    return f'<div class="comparison" aria-live="polite">{"".join(map(_compared, answers))}</div>'


def _compared(answer: Answer) -> str:
    meaning = {1: "as trained", 0: "off: the LLM alone"}.get(answer.lora_scale, "turned down")
    words = len(set(answer.text.lower().split()))
    facts = " · ".join([*_facts(answer), f"{words} different words"] if answer.ending else _facts(answer))
    return (
        f'<section class="compared"><header><strong>{answer.lora_scale:g}</strong><span>{meaning}</span></header>'
        f"{_text(answer)}<small>{facts}</small></section>"
    )


def cost(clips: Sequence[EncodedClip], answer: Answer | None) -> str:
    """Time and tokens by part: clips are encoded once, the LLM reads and writes for each question."""
    if not clips and answer is None:
        return empty("Time and tokens of each part of the model appear here.")
    rows = []
    for name, label in ENCODING.items():
        uses = [clip.parts[name] for clip in clips if name in clip.parts]
        if uses:
            tokens = sum(clip.audio_tokens for clip in clips) if name == "connector" else None
            made = "" if tokens is None else f"{tokens} audio"
            rows.append((label, sum(use.seconds for use in uses), sum(use.calls for use in uses), made))
    rows += [] if answer is None else _answer_rows(answer)
    longest = max((seconds for _, seconds, _, _ in rows), default=0.0) or 1.0
    body = "".join(
        f'<tr><th scope="row">{label}</th><td class="bar"><i style="width:{100 * seconds / longest:.1f}%"></i></td>'
        f"<td>{seconds:.2f} s</td><td>{calls}×</td><td>{tokens}</td></tr>"
        for label, seconds, calls, tokens in rows
    )
    note = "Clips are encoded once, when they are added; every question about them reuses the result."
    head = "<tr><th>Part</th><th></th><th>Time</th><th>Calls</th><th>Tokens</th></tr>"
    return f'<div class="cost"><table><thead>{head}</thead><tbody>{body}</tbody></table><p>{note}</p></div>'


def _answer_rows(answer: Answer) -> list[tuple[str, float, int, str]]:
    tokens = {
        "LLM prefill": f"{answer.audio_tokens} audio + {answer.text_tokens} text",
        "LLM token": f"{answer.new_tokens} new",
    }
    parts: Mapping[str, PartUse] = answer.parts
    return [
        (label, parts[name].seconds, parts[name].calls, tokens[name])
        for name, label in ANSWERING.items()
        if name in parts
    ]
