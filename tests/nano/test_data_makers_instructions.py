# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Facts of made clips become rows of training and evaluation: right answers, no guessing, the same rows every time."""

import json
import logging
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from data_salmonn.manifests import read_manifest
from data_salmonn.prompts import PromptBank
from evaluation_salmonn.data import load_examples
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.task import load_task
from nano_salmonn.data_makers.benchmark import NANO_TASKS, make_benchmark
from nano_salmonn.data_makers.clips import write_clips
from nano_salmonn.data_makers.instructions import (
    INSTRUCTION_TASKS,
    PAIR_SECONDS,
    PRETRAINING_TASKS,
    TASKS,
    draw_instructions,
    load_clips,
    make_instructions,
)
from nano_salmonn.data_makers.quiet import NO_SPEECH


LABELS = ("dog", "bell", "rain", "horn", "glass", "crow")
WORDS = "red green blue small large old new".split()


def speech_rows(count: int) -> list[dict]:
    """Of six voices, four of them men's; every fourth text has two questions, and two clips have no phones."""
    rows = []
    for i in range(count):
        word = WORDS[i % 7]
        questions = [
            {"question": f"What is {word}?", "answer": f"door {i}"},
            {"question": "Where is it?", "answer": "there"},
        ]
        row = {"text": f"the {word} door {i}", "phones": "dh ax d ao r", "gender": "woman" if i % 6 > 3 else "man"}
        row |= {"speaker": f"voice {i % 6}", "questions": questions if i % 4 == 0 else []}
        rows.append({"id": f"s{i}", "kind": "speech", **row, **({"phones": ""} if i in (1, 2) else {})})
    return rows


def sound_rows(count: int) -> list[dict]:
    """Clips of one, two and three sounds, half of them of one; of some labels there are many more than of others."""
    rows = []
    for i in range(count):
        number = (1, 2, 1, 3)[i % 4]
        events = [LABELS[(i * i + k) % 6] for k in range(number)]
        arrangement = "single" if number == 1 else ("mix" if i % 12 == 3 else "sequence")
        caption = f"There is {', then '.join(events)}."
        rows.append({"id": f"n{i}", "kind": "sound", "events": events, "arrangement": arrangement, "caption": caption})
    return rows


def music_rows(count: int) -> list[dict]:
    facts = {"instruments": ["piano", "flute"], "tempo": "slow", "mode": "minor", "style": "waltz"}
    facts |= {"caption": "A slow piece for piano and flute.", "questions": [{"question": "Tempo?", "answer": "Slow."}]}
    return [{"id": f"m{i}", "kind": "music", **facts} for i in range(count)]


def scene_rows(count: int) -> list[dict]:
    rows = [{**row, "id": f"c{i}", "kind": "scene"} for i, row in enumerate(speech_rows(count))]
    return [{**row, "events": ["rain"], "caption": f'Someone says "{row["text"]}" while rain falls.'} for row in rows]


def question_rows(count: int) -> list[dict]:
    return [
        {"id": f"q{i}", "kind": "question", "text": f"what is {i}", "answer": f"{i}|number {i}"} for i in range(count)
    ]


def quiet_rows(count: int) -> list[dict]:
    return [{"id": f"z{i}", "kind": "quiet", "text": NO_SPEECH} for i in range(count)]


def render(row: dict) -> np.ndarray:
    return np.full(16 * (100 + len(row["id"])), 0.1)


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    rows = {"speech/test": speech_rows(60), "speech/test_unseen_voice": speech_rows(9)}
    rows |= {"sounds/test": sound_rows(48), "music/test": music_rows(6)}
    rows |= {
        "speech/test_natural_voice": speech_rows(7),
        "recorded/test": speech_rows(8),
        "recorded/test_read": speech_rows(2),
        "recorded/test_dialogue": speech_rows(3),
    }
    rows |= {"scenes/test": scene_rows(9), "questions/test": question_rows(4), "quiet/test": quiet_rows(5)}
    for name, plan in rows.items():
        write_clips(root / name, plan, render, workers=1)
    return {name: root / name for name in rows}


@pytest.fixture(scope="module")
def clips(splits) -> list[dict]:
    return load_clips([splits["speech/test"], splits["sounds/test"], splits["music/test"]])


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


TRAINING = ("speech/test", "speech/test_unseen_voice", "sounds/test", "music/test", "scenes/test", "quiet/test")


@pytest.fixture(scope="module")
def training(splits) -> list[Path]:
    """What training is tried on: each split of another name, or of another kind."""
    return [splits[name] for name in TRAINING]


def test_a_manifest_of_all_tasks_can_be_trained_on(training, tmp_path):
    file = make_instructions(training, tmp_path / "deep" / "train.jsonl", INSTRUCTION_TASKS)
    rows = read_manifest(file)
    assert set(INSTRUCTION_TASKS) == set(TASKS)
    assert {row.task for row in rows} == {task.prompts or name for name, task in TASKS.items()}
    assert len({row.id for row in rows}) == len(rows)
    assert len({(row.paths, row.task, row.question) for row in rows}) == len(rows)
    by_task = Counter(row.task for row in rows)
    # sentences, and pairs of them
    assert (by_task["asr"], by_task["phone_recognition"], by_task["audiocaption"]) == (69 + 33 + 9 + 5, 65, 48)
    assert by_task["speech_QA"] == 2 * 15 + 2 * 3
    answers = {row.id: row.text for row in rows}
    assert answers["speech/test/s8/asr"] == " the green door 8"
    assert answers["music/test/m0/music_description"] == "A slow piece for piano and flute."
    assert {row.text for row in rows if row.task == "gender_recognition"} == {"Man.", "Woman."}
    assert answers["quiet/test/z0/asr"] == " No speech." and answers["scene/test/c3/asr"] == " the small door 3"
    described = answers["scene/test/c3/audio_speech_description"]
    assert described == 'Someone says "the small door 3" while rain falls.'
    assert all(not Path(row["path"]).is_absolute() for row in read_lines(file))


def test_numbers_and_shares_of_rows(splits, tmp_path):
    tasks = {"asr": 7, "audiocaption": 0.25, "music_description": 1000}
    folders = [splits["speech/test"], splits["sounds/test"], splits["music/test"]]
    rows = read_lines(make_instructions(folders, tmp_path / "a.jsonl", tasks))
    assert Counter(row["task"] for row in rows) == {"asr": 7, "audiocaption": 12, "music_description": 6}
    assert set(PRETRAINING_TASKS) == set(tasks)


def test_rows_depend_on_the_seed_alone(training, tmp_path):
    folders = training
    first = make_instructions(folders, tmp_path / "1.jsonl", INSTRUCTION_TASKS, seed=1).read_text()
    assert make_instructions(folders, tmp_path / "2.jsonl", INSTRUCTION_TASKS, seed=1).read_text() == first
    assert make_instructions(folders, tmp_path / "3.jsonl", INSTRUCTION_TASKS, seed=2).read_text() != first
    alone = make_instructions(folders, tmp_path / "4.jsonl", {"audio_QA": 9}, seed=1).read_text().splitlines()
    assert len(alone) == 9 and [line for line in first.splitlines() if '"audio_QA"' in line][:9] == alone


def test_two_sentences_of_one_voice_are_joined(clips):
    pairs = draw_instructions("joined_asr", clips)
    assert len(pairs) >= sum(clip["kind"] == "speech" for clip in clips) // 2 - 6
    for pair in pairs:
        assert pair.task == "asr" and pair.answer == f"{pair.clip['text']} {pair.second['text']}"
        assert pair.clip["speaker"] == pair.second["speaker"]
    assert len({clip["name"] for pair in pairs for clip in (pair.clip, pair.second)}) == 2 * len(pairs)


def test_voices_are_compared_without_a_hint(clips):
    pairs = draw_instructions("speaker_verification", clips)
    assert len(pairs) > 40
    places = {"Yes.": Counter(), "No.": Counter()}
    for number, pair in enumerate(pairs):
        assert pair.answer == ("Yes." if number % 2 == 0 else "No.")
        assert (pair.clip["speaker"] == pair.second["speaker"]) == (pair.answer == "Yes.")
        assert pair.clip["text"] != pair.second["text"]
        places[pair.answer].update([(1, pair.clip["name"]), (2, pair.second["name"])])
    assert places["Yes."] == places["No."] and set(places["Yes."].values()) == {1}


def test_long_clips_and_lone_voices_are_not_compared(clips):
    short = [{**clip, "seconds": PAIR_SECONDS} for clip in clips]
    assert draw_instructions("speaker_verification", short)
    assert not draw_instructions("speaker_verification", [{**clip, "seconds": PAIR_SECONDS + 0.1} for clip in clips])
    assert not draw_instructions("speaker_verification", [{**clip, "speaker": "one"} for clip in short])
    assert not draw_instructions("speaker_verification", [{**clip, "text": "the same"} for clip in short])


def test_questions_about_sounds_are_right(clips):
    kinds = Counter()
    for row in draw_instructions("audio_QA", clips):
        events, answer = row.clip["events"], row.answer.rstrip(".").lower()
        if ":" in row.question:
            label = row.question.rpartition(": ")[2].rstrip("?")
            assert answer == ("yes" if label in events else "no")
            kinds["presence"] += 1
        elif row.question.startswith("How many"):
            assert answer == ("one", "two", "three")[len(set(events)) - 1]
            kinds["number"] += 1
        else:
            assert row.clip["arrangement"] == "sequence"
            assert answer == (events[0] if "first" in row.question else events[-1])
            kinds["first" if "first" in row.question else "last"] += 1
    assert kinds["presence"] > 80 and kinds["number"] == 36 and kinds["first"] == kinds["last"] > 0


def test_answers_about_sounds_cannot_be_guessed(clips):
    rows = draw_instructions("audio_QA", clips)
    presence, number = defaultdict(Counter), Counter()
    for row in rows:
        if ":" in row.question:
            presence[row.question][row.answer] += 1
        elif row.question.startswith("How many"):
            number[row.answer] += 1
    assert len(presence) > 6 and all(answers["Yes."] == answers["No."] for answers in presence.values())
    assert set(number.values()) == {12}
    # the beginning alone is balanced too, and has questions of all kinds
    first = rows[:36]
    yes_or_no = Counter(row.answer for row in first if ":" in row.question)
    assert yes_or_no == {"Yes.": 6, "No.": 6}
    assert {row.question.split()[-1] for row in first} >= {"first?", "last?"}


def test_gender_is_asked_of_as_many_men_as_women(clips):
    answers = [row.answer for row in draw_instructions("gender_recognition", clips)]
    assert Counter(answers) == {"Man.": 20, "Woman.": 20} and Counter(answers[:10]) == {"Man.": 5, "Woman.": 5}
    assert not draw_instructions("gender_recognition", [clip for clip in clips if clip.get("gender") != "woman"])


def test_the_warm_up_spells_what_is_heard_in_its_order(splits, tmp_path):
    tasks = {"asr": 0, "gender_recognition": 3, "audiocaption": 3, "music_description": 3}
    folders = [splits["speech/test"], splits["sounds/test"], splits["music/test"]]
    rows = read_lines(make_instructions(folders, tmp_path / "a.jsonl", tasks, alignment=True))
    clips = {clip["name"]: clip for clip in load_clips(folders)}

    assert Counter(row["task"] for row in rows) == {task: size for task, size in tasks.items() if size}
    for row in rows:
        clip = clips[row["id"].rpartition("/")[0]]
        words = {
            "speech": lambda: [clip["gender"].capitalize(), clip["text"]],
            "sound": lambda: clip["events"],
            "music": lambda: [clip["tempo"], *clip["instruments"], clip["mode"]],
        }
        assert row["text"] == " " + " ".join(words[clip["kind"]]())


def test_clips_without_facts_are_counted(clips, caplog):
    with caplog.at_level(logging.INFO):
        assert len(draw_instructions("phone_recognition", clips)) == 58
    assert caplog.messages == ["2 of 60 clips are left out: they lack phones"]


def test_many_clips_take_linear_time():
    rows = [{**row, "name": row["id"], "seconds": 1.0} for row in sound_rows(20_000) + speech_rows(20_000)]
    assert len(draw_instructions("audio_QA", rows)) > 40_000
    assert len(draw_instructions("speaker_verification", rows)) > 19_000


def test_wishes_that_cannot_be_met_are_refused(splits, tmp_path):
    folders, file = [splits["music/test"]], tmp_path / "a.jsonl"
    with pytest.raises(ValueError, match="`tasks` must be of .*got 'keywords'"):
        make_instructions(folders, file, {"keywords": 1.0})
    for size in (-1, 1.5, -0.5):
        with pytest.raises(ValueError, match=f"for 'asr', got {size}"):
            make_instructions(folders, file, {"asr": size})
    for size in (True, "all", None):
        with pytest.raises(TypeError, match=f"for 'asr', got {size!r}"):
            make_instructions(folders, file, {"asr": size})
    with pytest.raises(ValueError, match="have no clips for `tasks` \\['asr'\\]"):
        make_instructions(folders, file, {"asr": 1.0})
    with pytest.raises(ValueError, match="music/test/m0 more than once"):
        make_instructions(folders * 2, file, {"music_QA": 1.0})
    with pytest.raises(ValueError, match="`output` must be a .jsonl file"):
        make_instructions(folders, tmp_path / "a.json", {"music_QA": 1.0})
    with pytest.raises(ValueError, match="no finished clips"):
        make_instructions([tmp_path], file, {"asr": 1.0})
    assert not file.exists()


# ----------------------------------------------------------------------------------------------------------------------
# Evaluation


@pytest.fixture(scope="module")
def benchmark(splits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "manifests"
    written = make_benchmark(
        folder,
        speech=splits["speech/test"],
        unseen_voice=splits["speech/test_unseen_voice"],
        sounds=splits["sounds/test"],
        music=splits["music/test"],
        natural_voice=splits["speech/test_natural_voice"],
        recorded=splits["recorded/test"],
        real=splits["recorded/test_read"],
        dialogue=splits["recorded/test_dialogue"],
        scenes=splits["scenes/test"],
        questions=splits["questions/test"],
        quiet=splits["quiet/test"],
        limit=20,
    )
    assert {file.stem for file in written} == set(NANO_TASKS)
    return folder


@pytest.mark.parametrize("name", NANO_TASKS)
def test_evaluation_finds_its_data(benchmark, name):
    task = load_task(name)
    examples, source = load_examples(task, data_dir=benchmark)
    assert source == f"{name}.jsonl" and 0 < len(examples) <= 20
    assert all(example.waveform().size for example in examples)
    # what is right to answer is counted as right
    right = [", then ".join(text.split("|")[0] for text in example.references) for example in examples]
    for entry in task.metrics:
        if entry.metric == "accuracy":
            options = dict(entry.options)
            references = [list(example.references) for example in examples]
            assert (
                load_metric("accuracy").compute(predictions=right, references=references, **options)["accuracy"] == 1
            )


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("nano_asr", "asr"),
        ("nano_asr_unseen_voice", "asr"),
        ("nano_asr_real", "asr"),
        ("nano_asr_natural_voice", "asr"),
        ("nano_asr_recorded", "asr"),
        ("nano_asr_dialogue", "asr"),
        ("nano_asr_segments", "asr"),
        ("nano_quiet", "asr"),
        ("nano_scene", "audio_speech_description"),
        ("nano_phones", "phone_recognition"),
        ("nano_gender", "gender_recognition"),
        ("nano_speaker_verification", "speaker_verification"),
        ("nano_sound", "audiocaption"),
        ("nano_sound_order", "audiocaption"),
        ("nano_music", "music_description"),
    ],
)
def test_trained_tasks_are_asked_as_in_training(name, trained):
    assert load_task(name).prompt == PromptBank.load().test_prompt(trained)


def test_questions_are_asked_as_in_training(benchmark):
    for name in ("nano_question", "nano_audio_question", "nano_music_question"):
        assert load_task(name).prompt == "{question}" == PromptBank.load()["speech_QA"].test
    asked = Counter(example.prompt for example in load_examples(load_task("nano_caption"), data_dir=benchmark)[0])
    assert asked == {"Describe what you hear in one sentence.": 14, "Describe this piece of music.": 6}


def test_choices_of_evaluation_are_balanced(benchmark):
    same = Counter(row["same"] for row in read_lines(benchmark / "nano_speaker_verification.jsonl"))
    assert same == {"yes": 10, "no": 10}
    gender = Counter(row["gender"] for row in read_lines(benchmark / "nano_gender.jsonl"))
    assert gender == {"man": 10, "woman": 10}


def test_sounds_of_evaluation_are_those_of_their_task(benchmark):
    assert {row["event"] for row in read_lines(benchmark / "nano_sound.jsonl")} <= set(LABELS)
    assert all(len(set(row["events"])) == 2 for row in read_lines(benchmark / "nano_sound_order.jsonl"))


def test_untrained_instructions_stay_untrained():
    bank = PromptBank.load()
    names = {task.prompts or name for name, task in TASKS.items()}
    trained = {prompt for name in names for prompts in bank[name].prompts.values() for prompt in prompts}
    assert not {load_task(name).prompt for name in ("nano_story", "nano_keywords", "nano_spoken_question")} & trained


def test_of_a_scene_the_event_and_the_two_longest_words_must_be_told(benchmark):
    row = next(row for row in read_lines(benchmark / "nano_scene.jsonl") if "small" in row["told"])
    assert (row["told"], row["events"], row["words"]) == (["rain", "small", "door"], "rain", ["small", "door"])
    options = dict(load_task("nano_scene").metrics[0].options)
    answers = ["A small door and rain.", "A small door.", "It rains at the small door."]
    scores = load_metric("accuracy").example_scores(answers, [row["told"]] * 3, **options)
    assert scores == [1.0, 0.0, 0.0]


def test_no_word_is_right_where_nobody_speaks(benchmark):
    reference = read_lines(benchmark / "nano_quiet.jsonl")[0]["text"]
    options = dict(load_task("nano_quiet").metrics[0].options)
    answers = ["No speech.", "", "[BLANK_AUDIO]", "(silence)", "You", "thank you", "no"]
    scores = load_metric("accuracy").example_scores(answers, [reference] * len(answers), **options)
    assert scores == [True, True, True, True, False, False, False]


def test_a_question_is_answered_and_not_written_down(benchmark):
    row = read_lines(benchmark / "nano_spoken_question.jsonl")[0]
    assert follows("nano_spoken_question", "The answer is three.", row["text"])
    assert not follows("nano_spoken_question", row["text"], row["text"])


def test_a_part_of_the_benchmark(splits, tmp_path, caplog):
    written = make_benchmark(tmp_path, music=splits["music/test"])
    assert {file.stem for file in written} == {"nano_music", "nano_music_question", "nano_caption"}
    assert "nano_asr is left out: there are no clips for it in speech" in caplog.messages
    with pytest.raises(ValueError, match="one of `speech`.*`music`.*`quiet` must be given, got none"):
        make_benchmark(tmp_path)
    with pytest.raises(ValueError, match="`limit` must be at least 1, got 0"):
        make_benchmark(tmp_path, music=splits["music/test"], limit=0)


# ----------------------------------------------------------------------------------------------------------------------
# Whether an instruction is followed


def follows(name: str, answer: str, reference: str) -> bool:
    options = next(entry.options for entry in load_task(name).metrics if entry.metric == "following_rate")
    return bool(load_metric("following_rate").example_scores([answer], [reference], **options)[0])


def test_a_transcript_does_not_follow_a_question():
    transcript = "mary bought seven apples in london"
    assert follows("nano_question", "seven", transcript) and follows("nano_question", "It was Mary.", transcript)
    assert not follows("nano_question", transcript, transcript)
    assert not follows("nano_question", "married brought eleven chapels and lined on", transcript)
    assert not follows("nano_question", "", transcript)


def test_a_caption_is_no_story():
    caption = "A dog barks, then a bell rings."
    story = (
        "Late at night a dog barks because somebody walks up the garden path. The old bell rings, and grandmother opens "
        "her door to find a tired traveller."
    )
    assert follows("nano_story", story, caption)
    assert not follows("nano_story", caption, caption)
    assert not follows("nano_story", " ".join([caption] * 8), caption)
    assert not follows("nano_story", " ".join(["A crow caws, then a horn blows."] * 8), caption)


def test_what_is_told_of_every_clip_is_no_story_of_one():
    """A text that an LLM knows by heart is long and new, and has nothing to do with what is heard."""
    captions = [f"A {name} is heard." for name in ("dog", "cow", "bell", "drum", "horn", "train", "crow", "door")]
    learnt = (
        "A bat and a ball together cost one dollar and ten cents, and the bat costs a dollar more than the small ball."
    )
    told = [
        f"There was a {name} in the valley, and whoever went past on the way to market stopped to listen for a while."
        for name in ("lonely dog", "brown cow")
    ]
    own = (
        "Grandmother opened her window because somebody was beating a drum under it, long before the sun came up over the hills.",
        "The hunters blew a horn at dusk; deep in their burrows all the foxes woke, trembled, and counted their cubs.",
    )
    options = next(entry.options for entry in load_task("nano_story").metrics if entry.metric == "following_rate")
    scores = load_metric("following_rate").example_scores(
        [*own, learnt, learnt.replace("cents", "pence"), *told], captions[:6], **options
    )
    assert scores == [True, True, False, False, False, False]
    # of one clip that is asked about twice, two answers may be the same
    assert load_metric("following_rate").example_scores([own[0]] * 2, captions[:1] * 2, **options) == [True, True]


def test_key_words_are_a_list():
    transcript = "mary bought seven red apples in london"
    assert follows("nano_keywords", "Mary, red apples, London.", transcript)
    assert not follows("nano_keywords", transcript, transcript)
    assert not follows("nano_keywords", "married brought eleven read chapels", transcript)
    assert not follows("nano_keywords", "mary bought seven red apples, in london", transcript)
