# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The small model `salmonn-nano`: of real parts that need no model hub, with what this project trained of it.

    salmonn assemble --nano OUT
"""

import os
from pathlib import Path

from chat_template_salmonn import AUDIO_TOKEN, wrap_chat_template
from conversion_salmonn.assemble import assemble
from nano_salmonn.wheel_parts import read_part


# The format of SmolLM2 without the system message that its own template adds, and without tags around a clip: with
# clips of seconds, these would be half of every prompt.
NANO_CHAT_TEMPLATE = wrap_chat_template(
    """
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- message['content'] + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
""".strip(),
    clip=AUDIO_TOKEN,
)

# The small model of the demo, from parts that need no model hub. Two tokens for a third of a second: with one, there
# would be fewer audio tokens than words take in fast speech. Clips are encoded as long as they are.
NANO = {
    "whisper": "tiny.en-wheel",
    "llm": "smollm2-135m-wheel",
    "beats": "random-small",
    "num_query_tokens": 2,
    "qformer": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "fixed_length": False,
    "pad_last_window": True,
    "max_audio_seconds": 6,  # of one sentence or two; of much longer clips it leaves words out, or repeats them
    "chat_template": NANO_CHAT_TEMPLATE,
}


def find_checkpoint(package: Path) -> Path:
    """Where the trained part of salmonn-nano is: inside the folder of this package in a wheel, beside it in a clone."""
    inside = package / "checkpoint"
    return inside if inside.is_dir() else package.parent / "checkpoints" / "salmonn-nano"


# What is trained of it: a BEATs and an adapter.
NANO_CHECKPOINT = find_checkpoint(Path(__file__).resolve().parent)
NANO_TRAINED_PARTS = ("beats", "adapter")


def assemble_nano(
    output: str | os.PathLike, checkpoint: str | os.PathLike | None = NANO_CHECKPOINT, **changes
) -> Path:
    """
    `salmonn-nano`, of 150 M parameters, assembled into `output`.

    Args:
        output (`str` or `os.PathLike`): folder to write.
        checkpoint (`str` or `os.PathLike`, *optional*): folder with what is trained, `beats` and `adapter`. By default
            the project's own. `None` for a model that is still to be trained.
        changes: arguments of [`assemble`]: of a trained model only `dtype`, `repo_id` and `overwrite`, of another one any.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: if there is no such checkpoint, if `changes` would make another model than the one that was trained,
            and wherever [`assemble`] raises it.
    """
    settings = {**NANO, **changes, "qformer": {**NANO["qformer"], **(changes.get("qformer") or {})}}
    if checkpoint is None:
        return assemble(output=output, **_read_wheels(settings))
    fixed = sorted(changes.keys() - {"dtype", "overwrite", "repo_id"})
    if fixed:
        raise ValueError(
            f"the trained salmonn-nano cannot be combined with {', '.join(fixed)}: its parts and settings are those of "
            "its training. Only an untrained one, with no checkpoint, can be changed"
        )
    trained = {part: Path(checkpoint) / part for part in NANO_TRAINED_PARTS}
    missing = [str(folder) for folder in trained.values() if not folder.is_dir()]
    if missing:
        raise ValueError(
            f"`checkpoint` {checkpoint} is no checkpoint of salmonn-nano, it lacks {' and '.join(missing)}. Name the "
            "folder checkpoints/salmonn-nano of a clone, or none for an untrained model"
        )
    card = Path(checkpoint) / "README.md"
    if card.is_file():
        settings["card"] = card
    return assemble(output=output, **_read_wheels({**settings, **trained}))


def _read_wheels(settings: dict) -> dict:
    """`settings` of [`assemble`] with the parts that come as data wheels read."""
    return {**settings, **{name: read_part(settings[name]) for name in ("whisper", "llm")}}
