# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Chat rows, as LLaMA-Factory, ms-swift and TRL have them:

    {"messages": [{"role": "user", "content": "<audio>Who barks?"}, {"role": "assistant", "content": "A dog."}],
     "audios": ["dog.wav"]}

`<audio>` marks the place of each clip. A message may also be a list of typed parts, which may bring their clips along:
`[{"type": "audio", "audio": "dog.wav"}, {"type": "text", "text": "Who barks?"}]`. In `conversations` of the ShareGPT form
keys are `from` and `value`, and roles `human` and `gpt`.
"""

import json
from typing import Any


AUDIO_MARK = "<audio>"
CHAT_COLUMNS = ("messages", "conversations")
CLIP_COLUMNS = ("audios", "audio")
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
# Keys of a typed part under which its clip stands, by what users write for Transformers' chat templates.
_CLIP_KEYS = ("audio", "path", "audio_url", "url")


def is_chat(row: dict) -> bool:
    """Whether a row is a conversation."""
    return any(row.get(name) for name in CHAT_COLUMNS)


def read_chat(row: dict) -> tuple[dict, list]:
    """
    The columns that a chat row stands for, and its clips in the order of their marks.

    One question about one clip and its answer become `question` and `text`, as in any other row. Everything else stays a
    conversation: `messages` is then a JSON list of `{"role", "content"}` with a mark for each clip, and `text` its last
    answer. Other columns, such as `task` and `id`, stay.

    Raises a `ValueError` that says what is wrong.
    """
    if row.get("text") is not None or row.get("question") is not None:
        raise ValueError(
            "a chat row says in its messages what is asked and answered, so `text` and `question` must go"
        )
    waiting = [clip for name in CLIP_COLUMNS for clip in _as_list(row.get(name))]
    clips: list[Any] = []
    turns = [_read_turn(message, waiting, clips) for message in _messages_of(row)]
    if not clips and waiting:  # no mark at all: the clips come first, as other trainers have it
        clips, waiting = waiting, []
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = AUDIO_MARK * len(clips) + first["content"]
    if waiting:
        raise ValueError(f"there are {len(clips) + len(waiting)} clips, but {len(clips)} {AUDIO_MARK} marks")
    others = {name: value for name, value in row.items() if name not in (*CHAT_COLUMNS, *CLIP_COLUMNS, "system")}
    columns = {**others, "text": turns[-1]["content"], "question": None, "messages": None}
    question = turns[0]["content"].removeprefix(AUDIO_MARK).strip()
    if [turn["role"] for turn in turns] == ["user", "assistant"] and len(clips) == 1 and question:
        if turns[0]["content"].startswith(AUDIO_MARK):
            return {**columns, "question": question}, clips
    return {**columns, "messages": json.dumps(turns, ensure_ascii=False)}, clips


def _messages_of(row: dict) -> list[dict]:
    """The messages of a row with roles of Transformers, from whichever of its forms."""
    name = next((name for name in CHAT_COLUMNS if row.get(name)), CHAT_COLUMNS[0])
    messages = row.get(name)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"`{name}` must be a list of messages")
    found = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for number, message in enumerate(messages, start=1):
        role = message.get("role") or message.get("from")
        if role not in _ROLES:
            raise ValueError(f"message {number} of `{name}` must be of one of {', '.join(_ROLES)}, got {role!r}")
        content = message.get("content") if message.get("content") is not None else message.get("value")
        found.append({"role": _ROLES[role], "content": content})
    roles = [message["role"] for message in found if message["role"] != "system"]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        raise ValueError(f"`{name}` must have questions and answers in turns and end with an answer, got {roles}")
    if any(message["role"] == "system" for message in found[1:]):
        raise ValueError(f"`{name}` must have its system message at the beginning, if it has one")
    return found


def _read_turn(message: dict, waiting: list, clips: list) -> dict:
    """A message with its text in one string. Its clips go to `clips`: its own, or the next of those `waiting`."""
    role, content = message["role"], message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"the content of a message must be a string or a list of parts, got {content!r}")
    texts = []
    for part in parts:
        kind = part.get("type") or ("text" if part.get("text") is not None else None)
        clip = next((part[key] for key in _CLIP_KEYS if part.get(key) is not None), None)
        if kind == "text" and isinstance(part.get("text"), str):
            text, own = part["text"], [None] * part["text"].count(AUDIO_MARK)
        elif kind in ("audio", "audio_url"):
            text, own = AUDIO_MARK, [clip.get("url") if isinstance(clip, dict) and "url" in clip else clip]
        else:
            raise ValueError(f"parts of a message must be of type 'text' or 'audio', got {part!r}")
        if own and role == "assistant":
            raise ValueError(f"an answer must be text alone, got {text!r}")
        for clip in own:
            if clip is None and not waiting:
                raise ValueError(f"there are more {AUDIO_MARK} marks than clips")
            clips.append(waiting.pop(0) if clip is None else clip)
        texts.append(text)
    text = " ".join(texts)
    if not text.strip():
        raise ValueError(f"a message of the {role} is empty")
    return {"role": role, "content": text}


def _as_list(value: Any) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_single_answer(row: dict) -> None:
    """Raises a `ValueError` that names the row if it is a conversation, where one question and answer are wanted."""
    if row.get("messages"):
        raise ValueError(
            f"row {row.get('id')} is a conversation of several turns or clips, of which no single answer can be compared."
        )


def answers_of(messages: str) -> list[str]:
    """The answers in a conversation of the column `messages`."""
    return [turn["content"] for turn in json.loads(messages) if turn["role"] == "assistant"]


def to_conversation(messages: str, clips: list) -> list[dict]:
    """
    A conversation of the column `messages` as chat templates take it, its marks replaced by `clips`.

    Raises a `ValueError` if these are not as many as the marks.
    """
    turns, rest = json.loads(messages), list(clips)
    marks = sum(turn["content"].count(AUDIO_MARK) for turn in turns)
    if marks != len(rest):
        raise ValueError(f"`messages` must have one {AUDIO_MARK} for each clip, got {marks} and {len(rest)} clips.")
    return [{**turn, "content": _split_content(turn["content"], rest)} for turn in turns]


def _split_content(content: str, clips: list) -> str | list[dict]:
    pieces = content.split(AUDIO_MARK)
    if len(pieces) == 1:
        return content
    parts = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append({"type": "audio", "audio": clips.pop(0)})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts
