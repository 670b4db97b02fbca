# Copyright 2026 The SALMONN for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Chat templates for SALMONN: those of text LLMs, made ones that take clips and say what the assistant writes."""

import json
import os
import re

from jinja2 import TemplateError


try:
    from .audio_reading_salmonn import shorten
except ImportError:
    from audio_reading_salmonn import shorten


AUDIO_TOKEN = "<|audio|>"

ROLES = ("system", "developer", "user", "assistant", "tool")
# Half of a surrogate pair is no character, and no tokenizer takes it.
_HALF_PAIR = re.compile("[\ud800-\udfff]")
# Stands within a control token that somebody typed, unseen, so that it stays text.
WORD_JOINER = "\u2060"

# How the released models were trained to find a clip in a message.
TAGGED_CLIP = f"<Speech>{AUDIO_TOKEN}</Speech>"

# Turns the parts of a message into one string: templates of text LLMs know nothing else. Parts are separated by a space.
_JOIN_PARTS = """
{%- set joined = namespace(messages=[], text='') -%}
{%- for message in messages -%}
    {%- set joined.text = message['content'] -%}
    {%- if joined.text is not string and joined.text is iterable -%}
        {%- set joined.text = '' -%}
        {%- for part in message['content'] -%}
            {%- set text = 'CLIP' if part['type'] == 'audio' else part['text'] -%}
            {%- set joined.text = joined.text + ('' if loop.first else ' ') + text -%}
        {%- endfor -%}
    {%- endif -%}
    MARK
    {%- set joined.messages = joined.messages + [dict(message, content=joined.text)] -%}
{%- endfor -%}
{%- set messages = joined.messages -%}
"""

# Stand around an answer on its way through the template of an LLM, so that it is found again in what that writes.
_BEGIN, _END = "\ue0a0answer\ue0a1", "\ue0a1answer\ue0a0"

# White space stays outside of the marks, where templates trim it. A thought begins anew behind its tags: templates leave it
# out of earlier turns, or write it once more, and take with it what stands before it.
_MARK_ANSWERS = """
    {%- if joined.text is string -%}
        {%- set joined.text = joined.text | replace('BEGIN', '') | replace('END', '') -%}
        {%- set bare = joined.text | trim -%}
        {%- if message['role'] == 'assistant' and bare -%}
            {%- set joined.marked = 'BEGIN' + bare + 'END' -%}
            {%- for tag in ['<think>', '</think>'] if '</think>' in bare and tag in bare -%}
                {%- set parts = joined.marked.split(tag, 1) -%}
                {%- set rest = parts[1].lstrip() -%}
                {%- if not rest.startswith('</think>') -%}
                    {%- set space = parts[1][:parts[1] | length - rest | length] -%}
                    {%- set joined.marked = parts[0] + tag + space + 'BEGIN' + rest -%}
                {%- endif -%}
            {%- endfor -%}
            {%- set joined.text = joined.text.replace(bare, joined.marked, 1) -%}
        {%- endif -%}
    {%- endif -%}
"""

# Tags what stands between the marks, and the end of the turn behind it.
_TAG_ANSWERS = """
{%- for piece in written.split('BEGIN') -%}
    {%- if loop.first -%}
        {{- piece | replace('END', '') -}}
    {%- elif 'END' not in piece -%}
        {%- generation -%}{{- piece -}}{%- endgeneration -%}
    {%- else -%}
        {%- set answer = piece.split('END', 1)[0] -%}
        {%- set rest = piece.split('END', 1)[1] | replace('END', '') -%}
        {%- set space = rest.split(TURN_END, 1)[0] -%}
        {%- set ending = space + TURN_END if TURN_END in rest and not space | trim else '' -%}
        {%- generation -%}{{- answer + ending -}}{%- endgeneration -%}
        {{- rest[ending | length:] -}}
    {%- endif -%}
{%- endfor -%}
"""

# `USER: ...\nASSISTANT: ...</s>`, the format of the released models.
_USER_ASSISTANT = """
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        {{- 'ASSISTANT:' -}}
        {%- generation -%}{{- ' ' + message['content'] + eos_token -}}{%- endgeneration -%}
    {%- elif message['role'] == 'user' -%}
        {{- 'USER: ' + message['content'] + '\\n' -}}
    {%- else -%}
        {{- message['content'] + '\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


def wrap_chat_template(chat_template: str, clip: str = TAGGED_CLIP) -> str:
    """
    Makes a chat template that takes clips of one, as it comes with an LLM, that takes text. `clip` is what a clip is
    written as.

    Training learns what stands between `{% generation %}` and `{% endgeneration %}`. Where the LLM's template has no
    such tags they are added: around answers, and the first word that it writes behind every answer, which ends the turn
    (`<|im_end|>`, `<end_of_turn>`, ...). Where it writes no answer, or no such word, it stays without.
    """
    join_parts, mark = _JOIN_PARTS.strip().replace("CLIP", clip), ""
    turn_end = None if has_generation_tags(chat_template) else _find_turn_end(chat_template)
    if turn_end is not None:
        mark = _write_marks(_MARK_ANSWERS.strip())
        tag_answers = _write_marks(_TAG_ANSWERS.strip()).replace("TURN_END", turn_end)
        chat_template = f"{{%- set written -%}}{chat_template.strip()}{{%- endset -%}}\n{tag_answers}"
    return join_parts.replace("    MARK\n", f"    {mark}\n" if mark else "") + chat_template


def list_conversations(conversation) -> list[list[dict]]:
    """
    One conversation or several, as a list of several.

    Raises:
        TypeError: if it is no list of messages, or of such lists, or a message no dict.
        ValueError: if it is empty, or a message has none of the roles of [`ROLES`] or no content.
    """
    if not isinstance(conversation, (list, tuple)):
        raise TypeError(
            f"`conversation` must be a list of messages, or a list of such lists, got {type(conversation).__name__}."
        )
    is_one = len(conversation) > 0 and isinstance(conversation[0], dict)
    batch = [conversation] if is_one else conversation
    if not len(batch):
        raise ValueError("`conversation` must hold at least one message, got none.")
    for messages in batch:
        if not isinstance(messages, (list, tuple)):
            raise TypeError(f"`conversation` must hold messages, or lists of messages, got {shorten(repr(messages))}.")
        if not len(messages):
            raise ValueError("`conversation` must hold at least one message, got none.")
        for message in messages:
            _check_message(message)
    return [list(messages) for messages in batch]


def _check_message(message) -> None:
    if not isinstance(message, dict):
        raise TypeError(
            f"`conversation` must hold messages, dicts of 'role' and 'content', got {shorten(repr(message))}."
        )
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(
            f"A message of `conversation` must have a 'role', one of {', '.join(ROLES)}, got {shorten(repr(message))}."
        )
    if content is None and not message.get("tool_calls"):
        raise ValueError(f"A message of `conversation` must have 'content', got {shorten(repr(message))}.")
    if content is not None and not isinstance(content, (str, list, tuple)):
        raise TypeError(
            f"The 'content' of a message of `conversation` must be a string or a list of parts, got {shorten(repr(content))}."
        )
    for part in content if isinstance(content, (list, tuple)) else ():
        if not isinstance(part, dict):
            raise TypeError(
                f"A part of a message of `conversation` must be a dict with a 'type', got {shorten(repr(part))}."
            )


def check_text(name: str, text: str) -> None:
    """Raises a `ValueError` that names the argument `name` if `text` is no Unicode, which no tokenizer takes."""
    half = _HALF_PAIR.search(text)
    if half:
        raise ValueError(
            f"`{name}` must be Unicode, got half of a surrogate pair, {ascii(half[0])}, at character {half.start()}."
        )


def keep_as_text(text: str, control_tokens: list[str], headers: bool = False) -> str:
    """
    `text` with a word joiner, which nobody sees, within each of the `control_tokens` that somebody typed: the end of a
    turn is for the template to write. So are the `headers` of turns, which in the released models are no tokens.
    """
    for token in control_tokens:
        text = text.replace(token, token[:1] + WORD_JOINER + token[1:])
    if headers:
        text = re.sub(r"\b(USER|ASSISTANT):", rf"\1{WORD_JOINER}:", text)
    return text


def has_generation_tags(chat_template: str) -> bool:
    """Whether a chat template says, with `{% generation %}`, what the assistant writes."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", chat_template) is not None


def _write_marks(template: str) -> str:
    begin, end = (mark.encode("unicode_escape").decode() for mark in (_BEGIN, _END))
    return template.replace("'BEGIN'", f"'{begin}'").replace("'END'", f"'{end}'")


def _find_turn_end(chat_template: str) -> str | None:
    """What `chat_template` writes to end an answer, as an expression of Jinja, if it writes any such thing."""
    from transformers.utils.chat_template_utils import render_jinja_template  # takes seconds

    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": f"{_BEGIN}!{_END}"}]
    eos_token = "\ue0a2"
    special_tokens = {"bos_token": "", "eos_token": eos_token, "unk_token": "", "pad_token": ""}
    try:
        rendered, _ = render_jinja_template([turn, turn * 2], chat_template=chat_template, **special_tokens)
    except TemplateError:  # a template may refuse any conversation
        return None
    if not all(f"{_BEGIN}!{_END}" in text for text in rendered):
        return None
    word = re.match(r"\s*(\S+)", os.path.commonprefix([text.split(_END)[1] for text in rendered]))
    if word is None:
        return None
    parts = [json.dumps(part) for part in word[1].split(eos_token)]
    return "(" + " + eos_token + ".join(parts) + ")"


SALMONN_CHAT_TEMPLATE = wrap_chat_template(_USER_ASSISTANT.strip())
