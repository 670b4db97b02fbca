# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the page offers to ask, in the words of the prompt bank."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_salmonn.prompts import PromptBank


LABELS = {
    "asr": "Transcribe",
    "asr_zh": "Transcribe Mandarin",
    "asr_de": "Transcribe German",
    "phone_recognition": "Phones",
    "gender_recognition": "Man or woman",
    "emotion_recognition": "Emotion",
    "keywords": "Key words",
    "speaker_verification": "Same speaker?",
    "speech_separation": "Two voices at once",
    "speech_query": "Answer the speaker",
    "translation_ec": "Into Chinese",
    "translation_ed": "Into German",
    "translation_ej": "Into Japanese",
    "audiocaption": "Describe the sound",
    "audio_speech_description": "Speech and sounds",
    "music_description": "Describe the music",
    "lyrics_recognition": "Lyrics",
    "audio_story_telling": "Tell a story",
    "speech_audio_coreasoning": "Reason about it",
}

# What the released models were trained on, and what the paper asks them beyond that.
TASKS = (
    "asr",
    "translation_ec",
    "translation_ed",
    "phone_recognition",
    "gender_recognition",
    "emotion_recognition",
    "keywords",
    "speech_query",
    "audiocaption",
    "audio_speech_description",
    "music_description",
    "audio_story_telling",
)

# The one that shows task over-fitting: who was trained to transcribe and to caption does so here too.
STORY = "audio_story_telling"


@dataclass(frozen=True)
class Preset:
    """A task that is asked with one click: its short name, and the question."""

    task: str
    label: str
    question: str


def load_presets(tasks: Sequence[str] = TASKS) -> list[Preset]:
    """
    Presets for `tasks`, names or aliases in the prompt bank.

    Raises `ValueError` on a task that is not in the bank, or that needs a question of its own.
    """
    bank, presets = PromptBank.load(), []
    for name in tasks:
        task = bank[name]
        label = LABELS.get(task.name, task.name.replace("_", " ").capitalize())
        presets.append(Preset(task.name, label, bank.test_prompt(name)))
    return presets


def nano_tasks() -> tuple[str, ...]:
    """What `salmonn-nano` was trained on and can be asked without words of one's own, and a story, which it was not."""
    from nano_salmonn.data_makers.instructions import INSTRUCTION_TASKS

    bank = PromptBank.load()
    trained = [name for name in INSTRUCTION_TASKS if name in bank and not bank[name].needs_question]
    trained.remove("speaker_verification")  # of two voices in one file, which few visitors have
    return (*trained, STORY)
