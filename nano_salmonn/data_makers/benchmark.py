# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Evaluation manifests of made clips: the data of the tasks `nano_*` of `evaluation_salmonn`.

    make_benchmark("benchmark", speech="speech/test", unseen_voice="speech/test_unseen_voice", sounds="sounds/test",
                   music="music/test")

writes `benchmark/nano_asr.jsonl` and so on, which `salmonn evaluate --tasks nano --data-dir benchmark` reads. What is
asked and answered is made as for training, of other clips.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

from data_salmonn.prompts import PromptBank
from nano_salmonn.data_makers.instructions import (
    TASKS,
    Instruction,
    TrainedTask,
    draw_instructions,
    load_clips,
    name_instructions,
    relative_path,
    tell,
    with_facts,
    write_manifest,
)
from nano_salmonn.data_makers.quiet import NO_SPEECH


logger = logging.getLogger(__name__)

# All that may be written where nobody speaks: nothing, or what is trained.
NOTHING_SAID = f"|{NO_SPEECH}|no words|silence|noise"
TOLD_WORDS = 2

# What is trained, and spoken questions, which are not.
TESTED = TASKS | {"speech_query": TrainedTask("question", ("answer",), tell("answer"))}


@dataclass(frozen=True)
class NanoTask:
    """
    The data of an evaluation task.

    Args:
        sources: name of a split -> the trained task whose rows on that split are used.
        columns: what a row has besides `id` and its audio.
        facts: what clips must have besides what the trained task needs.
        wanted: which of these clips are used.
        limited: whether only the first rows are written: a task that joins clips needs them all.
    """

    sources: Mapping[str, str]
    columns: Callable[[Instruction], dict]
    facts: tuple[str, ...] = ()
    wanted: Callable[[dict], bool] = lambda clip: True
    limited: bool = True


def make_benchmark(
    output: str | Path,
    *,
    speech: str | Path | None = None,
    unseen_voice: str | Path | None = None,
    sounds: str | Path | None = None,
    music: str | Path | None = None,
    natural_voice: str | Path | None = None,
    recorded: str | Path | None = None,
    real: str | Path | None = None,
    dialogue: str | Path | None = None,
    scenes: str | Path | None = None,
    questions: str | Path | None = None,
    quiet: str | Path | None = None,
    limit: int = 200,
    seed: int = 0,
) -> list[Path]:
    """
    Writes a manifest for every task that the given splits have clips for, and returns their paths.

    Args:
        output: folder of the manifests. Their paths are relative to it.
        speech: finished split of held-out sentences by voices that were heard in training.
        unseen_voice: the same by voices that were not.
        sounds: finished split of sounds.
        music: finished split of music.
        natural_voice: held-out sentences by natural voices that were not heard in training.
        recorded: finished split of recorded people.
        real: that of read speech, `test_read`.
        dialogue: that of characters of a game, `test_dialogue`.
        scenes: finished split of speech over sounds.
        questions: finished split of spoken questions.
        quiet: finished split of clips in which nobody speaks.
        limit: most rows of a task, but for those that join clips. The first ones of a task are balanced if its answers
            are a choice.
        seed: which rows are taken.

    Raises `ValueError` if `limit` is not positive, if no split is given, or if one is not finished.
    """
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    folders = {
        "speech": speech,
        "unseen_voice": unseen_voice,
        "sounds": sounds,
        "music": music,
        "natural_voice": natural_voice,
        "recorded": recorded,
        "real": real,
        "dialogue": dialogue,
        "scenes": scenes,
        "questions": questions,
        "quiet": quiet,
    }
    splits = {name: load_clips([folder]) for name, folder in folders.items() if folder is not None}
    if not splits:
        raise ValueError(f"one of {', '.join(f'`{name}`' for name in folders)} must be given, got none.")
    output = Path(output).resolve()
    written = []
    for name, task in NANO_TASKS.items():
        instructions = _draw(task, splits, seed)[: limit if task.limited else None]
        if not instructions:
            logger.warning("%s is left out: there are no clips for it in %s", name, ", ".join(task.sources))
            continue
        file = output / f"{name}.jsonl"
        rows = [
            {"id": row_id, **_audio(instruction, output), **task.columns(instruction)}
            for row_id, instruction in name_instructions(instructions)
        ]
        write_manifest(file, rows)
        logger.info("%s: %d rows", name, len(rows))
        written.append(file)
    return written


def _draw(task: NanoTask, splits: Mapping[str, list[dict]], seed: int) -> list[Instruction]:
    """The rows of a task, those of its splits in turns."""
    drawn = [
        draw_instructions(
            trained, list(filter(task.wanted, with_facts(splits.get(split, []), task.facts))), seed, TESTED
        )
        for split, trained in task.sources.items()
    ]
    return [instruction for turn in zip_longest(*drawn) for instruction in turn if instruction is not None]


def _audio(instruction: Instruction, folder: Path) -> dict:
    first = relative_path(instruction.clip, folder)
    if instruction.second is None:
        return {"audio": first}
    return {"audio_1": first, "audio_2": relative_path(instruction.second, folder)}


def _answer(column: str) -> Callable[[Instruction], dict]:
    return lambda instruction: {column: instruction.answer}


def _fact(fact: str) -> Callable[[Instruction], dict]:
    return lambda instruction: {fact: instruction.clip[fact]}


def _question(transcript: str) -> Callable[[Instruction], dict]:
    """Question and answer, and the fact that a model repeats if it does not follow the question."""
    return lambda instruction: {
        "question": instruction.question,
        "answer": instruction.answer,
        transcript: instruction.clip[transcript],
    }


def _asked_caption(instruction: Instruction) -> dict:
    """A caption, and the prompt that asks for it: that for music is another than that for sounds."""
    return {"question": _prompt_bank().test_prompt(instruction.task), "caption": instruction.answer}


def _both(instruction: Instruction) -> dict:
    """The event, and the two longest words that are said."""
    events, said = instruction.clip["events"], dict.fromkeys(instruction.clip["text"].split())
    words = sorted(said, key=len, reverse=True)[:TOLD_WORDS]
    return {"told": [*events, *words], "events": events[0], "words": words}


def _spoken_question(instruction: Instruction) -> dict:
    return {"answer": instruction.answer, "text": instruction.clip["text"]}


@cache
def _prompt_bank() -> PromptBank:
    return PromptBank.load()


def _is_single(clip: dict) -> bool:
    return clip["arrangement"] == "single"


def _is_pair(clip: dict) -> bool:
    return clip["arrangement"] == "sequence" and len(clip["events"]) == len(set(clip["events"])) == 2


NANO_TASKS = {
    "nano_asr": NanoTask({"speech": "asr"}, _answer("text")),
    "nano_asr_unseen_voice": NanoTask({"unseen_voice": "asr"}, _answer("text")),
    "nano_asr_natural_voice": NanoTask({"natural_voice": "asr"}, _answer("text")),
    "nano_asr_recorded": NanoTask({"recorded": "asr"}, _answer("text")),
    "nano_asr_real": NanoTask({"real": "asr"}, _answer("text")),
    "nano_asr_dialogue": NanoTask({"dialogue": "asr"}, _answer("text")),
    "nano_asr_segments": NanoTask({"speech": "asr"}, _answer("text"), limited=False),
    "nano_quiet": NanoTask({"quiet": "quiet_asr"}, lambda instruction: {"text": NOTHING_SAID}),
    "nano_scene": NanoTask({"scenes": "audio_speech_description"}, _both),
    "nano_spoken_question": NanoTask({"questions": "speech_query"}, _spoken_question),
    **{
        f"nano_asr_{seconds}s": NanoTask({"speech": "asr"}, _answer("text"), limited=False)
        for seconds in (60, 90, 120)
    },
    "nano_phones": NanoTask({"speech": "phone_recognition"}, _answer("phones")),
    "nano_gender": NanoTask({"speech": "gender_recognition"}, _fact("gender")),
    "nano_speaker_verification": NanoTask(
        {"speech": "speaker_verification"}, lambda instruction: {"same": instruction.answer.strip(".").lower()}
    ),
    "nano_question": NanoTask({"speech": "speech_QA"}, _question("text"), ("text",)),
    "nano_keywords": NanoTask({"speech": "asr"}, _answer("text")),
    "nano_sound": NanoTask(
        {"sounds": "audiocaption"},
        lambda instruction: {"event": instruction.clip["events"][0]},
        ("events", "arrangement"),
        _is_single,
    ),
    "nano_sound_order": NanoTask({"sounds": "audiocaption"}, _fact("events"), ("events", "arrangement"), _is_pair),
    "nano_audio_question": NanoTask({"sounds": "audio_QA"}, _question("caption"), ("caption",)),
    "nano_music": NanoTask({"music": "music_description"}, _fact("instruments"), ("instruments",)),
    "nano_music_question": NanoTask({"music": "music_QA"}, _question("caption"), ("caption",)),
    "nano_caption": NanoTask({"sounds": "audiocaption", "music": "music_description"}, _asked_caption),
    "nano_story": NanoTask({"sounds": "audiocaption"}, _answer("caption")),
}
