# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The prompt bank: complete, drawn from fairly, and open to a user's own prompts."""

import json
import random
import re

import pytest

from data_salmonn.prompts import PROMPTS, PromptBank


# Tasks of the papers and of the released annotations, under the names they have there.
TASKS = """asr asr_zh asr_de translation_ec translation_ed translation_ej translation_en2de translation_en2ja audiocaption
audiocaption_v2 phone_recognition emotion_recognition music_description lyrics_recognition speech_separation
speaker_diarization_asr speaker_verification gender_recognition gender_QA QA speech_QA audio_QA music_QA slot_filling
keywords audio_story_telling speech_audio_coreasoning speech_audio_query speech_query audio_speech_description
fluent_speech_audio detailed_description""".split()


def write(path, entries) -> str:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    return PromptBank.load()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_the_papers_has_prompts_to_choose_from(bank, name):
    task = bank[name]
    phrasings = [prompt for prompts in task.prompts.values() for prompt in prompts]
    assert len(phrasings) == len(set(phrasings)) >= 3
    assert task.description
    question = "Who speaks?" if task.needs_question else None
    assert bank.test_prompt(name, question) == bank.test_prompt(name, question)
    drawn = {bank.sample(name, question, rng=random.Random(seed)) for seed in range(300)}
    assert len(drawn) == len(phrasings) and bank.test_prompt(name, question) in drawn


def test_prompts_are_tidy(bank):
    for task in bank.tasks.values():
        for language, prompts in task.prompts.items():
            for prompt in prompts:
                assert prompt == prompt.strip() and "  " not in prompt and "<" not in prompt
                is_asian = re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", prompt) is not None
                assert is_asian == (language in ("zh", "ja")), prompt


@pytest.mark.parametrize(
    ("task", "language"),
    [("asr_zh", "zh"), ("asr_de", "de"), ("translation_ec", "zh"), ("translation_ed", "de"), ("translation_ej", "ja")],
)
def test_tasks_are_asked_in_the_languages_they_need(bank, task, language):
    own = {bank.sample(task, language=language, rng=random.Random(seed)) for seed in range(50)}
    english = {bank.sample(task, language="en", rng=random.Random(seed)) for seed in range(50)}
    assert len(own) >= 3 and len(english) >= 3 and not own & english


def test_questions_take_their_place(bank):
    question = "Why {so} loud?"
    drawn = {bank.sample("audio_QA", question, rng=random.Random(seed)) for seed in range(50)}
    assert question in drawn and len(drawn) > 1 and all(question in prompt for prompt in drawn)
    # the question of a row goes before the phrasings of a task that does not need one
    assert bank.sample("asr", "What is said?") == "What is said?" == bank.test_prompt("asr", "What is said?")
    for asked in (None, ""):
        with pytest.raises(ValueError, match="'audio_QA' needs a `question`"):
            bank.sample("audio_QA", asked)
        with pytest.raises(ValueError, match="needs a `question`"):
            bank.test_prompt("slot_filling", asked)


def test_unknown_tasks_and_languages_are_refused(bank):
    assert "asr" in bank and "SQQA" in bank and "dance" not in bank and None not in bank
    with pytest.raises(ValueError, match=r"'dance' is not in the prompt bank. Known are QA, asr"):
        bank.sample("dance")
    with pytest.raises(ValueError, match="'fr' has no prompt for task 'asr', which has some in en"):
        bank.sample("asr", language="fr")


def test_users_add_tasks_and_prompts(tmp_path):
    one = {"prompts": {"fr": ["Que dit la voix ?"]}, "test": "Que dit la voix ?"}
    write(tmp_path / "a.json", {"asr": one})
    file = write(
        tmp_path / "b.json", {"laughs": {"aliases": ["ha"], "prompts": {"en": ["Who laughs?"]}, "test": "Who laughs?"}}
    )
    bank = PromptBank.load(tmp_path)
    assert bank.sample("asr", language="fr") == bank.test_prompt("asr") == "Que dit la voix ?"
    assert len(bank["asr"].prompts["en"]) == len(PromptBank.load()["asr"].prompts["en"])
    assert bank.sample("ha") == "Who laughs?"
    assert "laughs" in PromptBank.load(file)
    assert "laughs" not in PromptBank.load()  # nothing is kept between banks


def test_everything_wrong_with_prompt_files_is_told_at_once(tmp_path):
    entries = {
        "a": {"prompts": {"en": ["One."]}, "test": "Two."},
        "b": {"prompts": {"en": "One."}, "test": 3},
        "c": {"prompt": {}},
        "d": {"prompts": {"en": ["Say.", "Say {question}."]}, "test": "Say."},
        "e": ["One."],
    }
    file = write(tmp_path / "bad.json", entries)
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError) as error:
        PromptBank.load(file, broken, tmp_path / "missing.json")
    for part in (
        "task 'a' must have one of its prompts as 'test', got 'Two.'",
        "task 'b' must have a string as 'test', got int",
        "task 'b' must have an object of languages",
        "task 'c' has an unknown field 'prompt'",
        "task 'd' must have {question} in all of its prompts or in none",
        "task 'e' must be an object, got list",
        "broken.json: cannot be read as JSON",
        "missing.json: cannot be read as JSON",
    ):
        assert part in str(error.value)
    clash = write(tmp_path / "clash.json", {"x": {"aliases": ["asr"], "prompts": {"en": ["?"]}, "test": "?"}})
    with pytest.raises(ValueError, match="names 'asr' twice"):
        PromptBank.load(clash)


def test_prompts_are_data_beside_the_code():
    assert {file.name for file in PROMPTS.iterdir()} >= {"speech.json", "translation.json", "questions.json"}
