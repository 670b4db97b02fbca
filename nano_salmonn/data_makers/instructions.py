# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Training manifests of made clips: what is asked about them, and the right answer.

The facts in `clips.jsonl` become rows of the tasks in [`TASKS`], in the form that `data_salmonn.manifests` reads.
Keywords, stories, spoken queries and long descriptions are no such tasks: a model that is asked for them in an
evaluation shows whether it follows instructions that it was not trained on.

Answers cannot be guessed without listening. Where there is a choice, each answer occurs equally often, with the same
clips and in the same questions: the voices that are compared are those of both "Yes." and "No.", and a sound that is
heard in one clip is asked about in another one where it is not.
"""

import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from data_salmonn.files import write_lines
from nano_salmonn.data_makers.clips import read_clips


logger = logging.getLogger(__name__)

# Tasks of the two stages of training, each with all rows that the clips allow.
PRETRAINING_TASKS = dict.fromkeys(("asr", "audiocaption", "music_description"), 1.0)
INSTRUCTION_TASKS = PRETRAINING_TASKS | dict.fromkeys(
    (
        "joined_asr",
        "noisy_asr",
        "quiet_asr",
        "audio_speech_description",
        "phone_recognition",
        "gender_recognition",
        "speaker_verification",
        "speech_QA",
        "audio_QA",
        "music_QA",
    ),
    1.0,
)

# Answers in words that are spoken begin with a space: the first word is then the token that it is everywhere else.
SPOKEN_WORDS = ("asr", "speech_QA")
YES, NO = "Yes.", "No."
PAIR_SECONDS = 5.0  # the longest clip of a pair of voices: two of them cost as much as one of another task
RAREST_NUMBER = 0.05  # a number of sounds in fewer of the clips is not asked for, as all numbers are made equally rare
NUMBERS = {1: "One.", 2: "Two.", 3: "Three.", 4: "Four.", 5: "Five."}
# Labels are bare nouns, some of them plural or not countable, so they stand by themselves.
PRESENCE = ("Is this sound heard: {label}?", "Can you hear this sound: {label}?", "Does this sound occur: {label}?")
NUMBER = ("How many different sounds are there?", "How many different sounds can you hear?")
FIRST = ("Which sound comes first?", "What is the first sound?")
LAST = ("Which sound comes last?", "What is the last sound?")
MATCH_ROUNDS = 20


@dataclass(frozen=True)
class Instruction:
    """
    What is asked about a clip, and the answer.

    Args:
        task: name in the prompt bank.
        clip: facts of the clip.
        answer: what the model is to say.
        question: what is asked, for tasks whose prompts need that.
        second: facts of the clip that is heard after the first one, if there is one.
    """

    task: str
    clip: dict
    answer: str
    question: str | None = None
    second: dict | None = None


@dataclass(frozen=True)
class TrainedTask:
    """
    A task that clips can be used for.

    Args:
        kind: of the clips.
        facts: what a clip must have.
        make: gives all (question, answer, clip, second clip) that there are, in an order in which every beginning is a
            fair and balanced sample. The clips it takes are shuffled.
        prompts: the name of its prompts in the bank, where that is not its own.
    """

    kind: str
    facts: tuple[str, ...]
    make: Callable[[list[dict], random.Random], Iterable[tuple[str | None, str, dict, dict | None]]]
    prompts: str | None = None


def make_instructions(
    folders: Sequence[str | Path],
    output: str | Path,
    tasks: Mapping[str, int | float],
    seed: int = 0,
    alignment: bool = False,
) -> Path:
    """
    Writes a training manifest of the clips in `folders` and returns its path, `output`.

    Args:
        folders: finished splits, which `write_clips` has written.
        output: a `.jsonl` file. Its paths are relative to it.
        tasks: name in [`TASKS`] -> how many rows: at most so many if it is an integer, and that share of all that the
            clips allow if it is a float, 1.0 for all of them and 0 for none. See
            `PRETRAINING_TASKS` and `INSTRUCTION_TASKS`.
        seed: which rows are taken. Those of one task do not depend on which other tasks there are.
        alignment: whether answers are those of the alignment warm-up, see [`ALIGNMENT`].

    Raises `ValueError` on unknown tasks, impossible numbers of rows, splits that are not finished or that hold clips
    of the same name, and if there is not a single row.
    """
    output = Path(output)
    if output.suffix != ".jsonl":
        raise ValueError(f"`output` must be a .jsonl file, got {output}.")
    bank = ALIGNMENT if alignment else TASKS
    for task, size in tasks.items():
        _find_task(task, bank)
        _check_size(task, size)
    clips = load_clips(folders)
    instructions = []
    for task, size in tasks.items():
        possible = draw_instructions(task, clips, seed, bank)
        taken = possible[: size if isinstance(size, int) else round(size * len(possible))]
        logger.info("%s: %d of %d rows", task, len(taken), len(possible))
        instructions += taken
    if not instructions:
        raise ValueError(f"`folders` {[str(folder) for folder in folders]} have no clips for `tasks` {list(tasks)}.")
    folder = output.parent.resolve()
    rows = [
        {
            "id": name,
            "path": relative_path(instruction.clip, folder),
            **({"expand_wav": [relative_path(instruction.second, folder)]} if instruction.second else {}),
            "task": instruction.task,
            **({"Q": instruction.question} if instruction.question else {}),
            "text": (" " if alignment or instruction.task in SPOKEN_WORDS else "") + instruction.answer,
        }
        for name, instruction in name_instructions(instructions)
    ]
    write_manifest(output, rows)
    return output


def load_clips(folders: Sequence[str | Path]) -> list[dict]:
    """
    The facts of all clips in finished splits, each with a `name` that no other has, such as "speech/train/000017".

    Raises `ValueError` if a split is not finished, or if two splits hold clips of the same name.
    """
    clips = {}
    for folder in map(Path, folders):
        for clip in read_clips(folder):
            name = f"{clip['kind']}/{folder.resolve().name}/{clip['id']}"
            if name in clips:
                raise ValueError(
                    f"`folders` must hold different clips, got {name} more than once: {clips[name]['path']} and "
                    f"{clip['path']}."
                )
            clips[name] = {**clip, "name": name}
    return list(clips.values())


def draw_instructions(
    task: str, clips: Sequence[dict], seed: int = 0, tasks: Mapping[str, TrainedTask] | None = None
) -> list[Instruction]:
    """
    All rows of a task that `clips` allow, in an order that depends on `seed`. Every beginning of it is a fair sample,
    and a balanced one if answers are a choice. Clips without the fact that the task needs are left out and counted.
    """
    trained = _find_task(task, TASKS if tasks is None else tasks)
    fitting = with_facts([clip for clip in clips if clip["kind"] == trained.kind], trained.facts)
    rng = random.Random(f"{seed} {task}")
    rng.shuffle(fitting)
    return [
        Instruction(trained.prompts or task, clip, answer, question, second)
        for question, answer, clip, second in trained.make(fitting, rng)
    ]


def with_facts(clips: Sequence[dict], facts: Sequence[str]) -> list[dict]:
    """The clips that have all `facts`. How many have not is logged."""
    found = [clip for clip in clips if all(clip.get(fact) for fact in facts)]
    if len(found) < len(clips):
        logger.info("%d of %d clips are left out: they lack %s", len(clips) - len(found), len(clips), ", ".join(facts))
    return found


def name_instructions(instructions: Sequence[Instruction]) -> list[tuple[str, Instruction]]:
    """Each instruction with an id of its own: clip and task, and a number if there are several of both."""
    seen: Counter = Counter()
    named = []
    for instruction in instructions:
        name = f"{instruction.clip['name']}/{instruction.task}"
        seen[name] += 1
        named.append((name if seen[name] == 1 else f"{name}-{seen[name]}", instruction))
    return named


def relative_path(clip: dict, folder: Path) -> str:
    """Where a clip is, from `folder`, which is absolute as the paths of clips are."""
    return os.path.relpath(clip["path"], folder).replace(os.sep, "/")


def write_manifest(file: Path, rows: Iterable[dict]) -> None:
    """Writes rows as JSONL, the whole file or nothing."""
    write_lines(file, list(rows))


def _find_task(name: str, tasks: Mapping[str, TrainedTask]) -> TrainedTask:
    if name not in tasks:
        raise ValueError(f"`tasks` must be of {sorted(tasks)}, got {name!r}.")
    return tasks[name]


def _check_size(task: str, size: int | float) -> None:
    if isinstance(size, bool) or not isinstance(size, (int, float)):
        raise TypeError(f"`tasks` must have a number of rows or a share of them for {task!r}, got {size!r}.")
    if size < 0 or (isinstance(size, float) and size > 1):
        raise ValueError(
            f"`tasks` must have an integer of at least 0 or a share from 0.0 to 1.0 for {task!r}, got {size!r}."
        )


def tell(fact: str):
    """A maker of rows whose answer is a fact as it stands."""
    return lambda clips, rng: ((None, clip[fact], clip, None) for clip in clips)


def _tell_gender(clips: list[dict], rng: random.Random):
    by_gender = defaultdict(list)
    for clip in clips:
        by_gender[clip["gender"]].append((None, f"{clip['gender'].capitalize()}.", clip, None))
    return _take_turns(*_equally_long(by_gender))


def _ask_own_questions(clips: list[dict], rng: random.Random):
    """The questions that a clip came with, one of each clip before the second of any."""
    rounds = defaultdict(list)
    for clip in clips:
        own = {entry["question"]: entry["answer"] for entry in clip["questions"]}
        for number, question in enumerate(rng.sample(sorted(own), len(own))):
            rounds[number].append((question, own[question], clip, None))
    return chain.from_iterable(rounds.values())


def _compare_voices(clips: list[dict], rng: random.Random):
    """
    Pairs of one speaker and pairs of two, in turns, always of different texts. Whatever clip comes first or second in a
    pair of one speaker does so in a pair of two.
    """
    by_speaker = defaultdict(list)
    for clip in clips:
        if clip["seconds"] <= PAIR_SECONDS:
            by_speaker[clip["speaker"]].append(clip)
    same = []
    for own in by_speaker.values():
        half = len(own) // 2
        same += _match(own[:half], own[half : 2 * half], lambda a, b: a["text"] != b["text"], rng)
    rng.shuffle(same)
    others = _match(
        [first for first, _ in same],
        [second for _, second in same],
        lambda a, b: a["speaker"] != b["speaker"] and a["text"] != b["text"],
        rng,
    )
    for one, two in zip(same, others):
        yield None, YES, *one
        yield None, NO, *two


def _join_sentences(clips: list[dict], rng: random.Random):
    """Two sentences that one voice says one after the other: clips longer than any of them."""
    by_speaker = defaultdict(list)
    for clip in clips:
        by_speaker[clip["speaker"]].append(clip)
    pairs = [pair for own in by_speaker.values() for pair in zip(own[::2], own[1::2])]
    rng.shuffle(pairs)
    return ((None, f"{first['text']} {second['text']}", first, second) for first, second in pairs)


def _ask_about_events(clips: list[dict], rng: random.Random):
    return _take_turns(_ask_for_presence(clips, rng), _ask_for_number(clips, rng), _ask_for_order(clips, rng))


def _ask_for_presence(clips: list[dict], rng: random.Random) -> list[tuple]:
    """Is a sound there? In turns about one that is, and about the same one in a clip where it is not."""
    heard = [(clip, rng.choice(clip["events"])) for clip in clips]
    rows = []
    for clip, (where, label) in _match(clips, heard, lambda clip, other: other[1] not in clip["events"], rng):
        question = rng.choice(PRESENCE).format(label=label)
        rows += [(question, YES, where, None), (question, NO, clip, None)]
    return rows


def _ask_for_number(clips: list[dict], rng: random.Random) -> list[tuple]:
    """How many different sounds are there? Every number as often as any other, in turns."""
    by_number = defaultdict(list)
    for clip in clips:
        by_number[len(set(clip["events"]))].append(clip)
    usual = {
        number: [(rng.choice(NUMBER), NUMBERS[number], clip, None) for clip in by_number[number]]
        for number in sorted(by_number)
        if number in NUMBERS and len(by_number[number]) >= RAREST_NUMBER * len(clips)
    }
    return list(_take_turns(*_equally_long(usual)))


def _ask_for_order(clips: list[dict], rng: random.Random) -> list[tuple]:
    """Which sound is the first, or the last? In turns, of clips in which one follows the other."""
    sequences = [
        clip for clip in clips if clip["arrangement"] == "sequence" and clip["events"][0] != clip["events"][-1]
    ]
    rows = []
    for number, clip in enumerate(sequences):
        questions, label = (LAST, clip["events"][-1]) if number % 2 else (FIRST, clip["events"][0])
        rows.append((rng.choice(questions), f"{label[:1].upper()}{label[1:]}.", clip, None))
    return rows


def _match(left: list, right: list, fits: Callable, rng: random.Random) -> list[tuple]:
    """
    Pairs at random that fit, of two lists of one length: each entry is in one pair at most. Those that do not fit
    change partners with others for a few rounds, and are left out if that does not help.
    """
    right = rng.sample(right, len(right))
    for _ in range(MATCH_ROUNDS):
        unfit = [i for i, pair in enumerate(zip(left, right)) if not fits(*pair)]
        for i in unfit:
            j = rng.randrange(len(right))
            if fits(left[i], right[j]) and fits(left[j], right[i]):
                right[i], right[j] = right[j], right[i]
        if not unfit:
            break
    return [pair for pair in zip(left, right) if fits(*pair)]


def _equally_long(groups: Mapping) -> list[list]:
    """Groups of rows cut to the length of the shortest; nothing if there are not two groups to tell apart."""
    if len(groups) < 2:
        return []
    shortest = min(map(len, groups.values()))
    return [groups[name][:shortest] for name in sorted(groups)]


def _take_turns(*lists: list) -> Iterable:
    """The first of each list, then the second of each, and so on until all are used up."""
    return (entry for entries in zip_longest(*lists) for entry in entries if entry is not None)


def _spell_labels(*facts: str):
    """
    A maker of rows for the alignment warm-up: what is heard, as labels in their order and nothing else, for a connector
    that learns to write them where they are heard.
    """

    def make(clips: list[dict], rng: random.Random):
        for clip in clips:
            labels = [clip[fact] if isinstance(clip[fact], list) else [clip[fact]] for fact in facts]
            yield None, " ".join(chain.from_iterable(labels)), clip, None

    return make


def _spell_voice(clips: list[dict], rng: random.Random):
    """
    Rows for the alignment warm-up: who speaks, and the words. Words alone would teach the connector to drop the voice.
    The capital tells the label from a word that is spoken.
    """
    return ((None, f"{clip['gender'].capitalize()} {clip['text']}", clip, None) for clip in clips)


# Rows of the warm-up, by the task that their clips are used for later on.
ALIGNMENT = {
    "asr": TrainedTask("speech", ("text",), tell("text")),
    "gender_recognition": TrainedTask("speech", ("gender", "text"), _spell_voice),
    "audiocaption": TrainedTask("sound", ("events",), _spell_labels("events")),
    "music_description": TrainedTask("music", ("instruments",), _spell_labels("tempo", "instruments", "mode")),
}
TASKS = {
    "asr": TrainedTask("speech", ("text",), tell("text")),
    "joined_asr": TrainedTask("speech", ("speaker", "text"), _join_sentences, prompts="asr"),
    "phone_recognition": TrainedTask("speech", ("phones",), tell("phones")),
    "gender_recognition": TrainedTask("speech", ("gender",), _tell_gender),
    "speaker_verification": TrainedTask("speech", ("speaker", "text"), _compare_voices),
    "speech_QA": TrainedTask("speech", ("questions",), _ask_own_questions),
    "audiocaption": TrainedTask("sound", ("caption",), tell("caption")),
    "audio_QA": TrainedTask("sound", ("events", "arrangement"), _ask_about_events),
    "noisy_asr": TrainedTask("scene", ("text",), tell("text"), prompts="asr"),
    "quiet_asr": TrainedTask("quiet", ("text",), tell("text"), prompts="asr"),
    "audio_speech_description": TrainedTask("scene", ("caption",), tell("caption")),
    "music_description": TrainedTask("music", ("caption",), tell("caption")),
    "music_QA": TrainedTask("music", ("questions",), _ask_own_questions),
}
