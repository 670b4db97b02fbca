# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The web page on a tiny model, called as programs call it, and what its controls do."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from demo_salmonn.limits import Limits
from demo_salmonn.session import Listener
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor, with_adapter


gr = pytest.importorskip("gradio", reason="the web page needs Gradio: pip install -e '.[web]'")
httpx = pytest.importorskip("httpx", reason="comes with Gradio: pip install -e '.[web]'")
gradio_client = pytest.importorskip("gradio_client", reason="comes with Gradio: pip install -e '.[web]'")

from demo_salmonn import demo, web  # noqa: E402
from demo_salmonn.presets import load_presets  # noqa: E402


SPACE = Path(web.__file__).parent / "space"
LIMITS = Limits(upload_megabytes=0.5, clip_seconds=8, clips=3, question_characters=80, new_tokens=8)


@pytest.fixture(scope="module")
def listener():
    config = tiny_config(fixed_length=False)
    return Listener(with_adapter(tiny_model(config)), tiny_processor(config), LIMITS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in (("one.wav", 1.5), ("two.flac", 2.2), ("long.wav", 9), ("big.wav", 20)):
        soundfile.write(folder / name, noise(seconds, len(name)), 16000)
    (folder / "broken.wav").write_bytes(b"RIFF this is no sound")
    return folder


@pytest.fixture(scope="module")
def client(listener):
    page = web.build_page(listener, load_presets(["asr", "story"]), "tiny")
    _, url, _ = web.launch_page(page, LIMITS, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield gradio_client.Client(url, verbose=False, analytics_enabled=False)
    page.close()


@pytest.fixture
def page(listener):
    return web.Page(listener)


def last(iterator):
    *_, item = iterator
    return item


def audio(files, name):
    return gradio_client.handle_file(str(files / name))


def test_ask_from_a_program(client, listener, files):
    answer = client.predict(audio(files, "one.wav"), "Why?", 0.5, 6, api_name="/ask")
    expected = last(listener.ask([listener.listen(files / "one.wav")], "Why?", 0.5, 6))
    assert answer["answer"] == expected.text and answer["ending"] == expected.ending
    assert answer["lora_scale"] == 0.5 and answer["question"] == "Why?"
    tokens = {"audio": expected.audio_tokens, "text": expected.text_tokens, "new": expected.new_tokens}
    assert answer["tokens"] == tokens and set(answer["seconds"]) == {"LLM prefill", "LLM token"}


def test_ask_streams(client, files):
    job = client.submit(audio(files, "one.wav"), "Why?", 1.0, 5, api_name="/ask")
    final = job.result()
    counts = [answer["tokens"]["new"] for answer in job.outputs()]
    assert counts == sorted(counts) and len(set(counts)) > 1 and counts[-1] == final["tokens"]["new"]


def test_ask_has_defaults(client, files):
    assert client.predict(audio(files, "one.wav"), api_name="/ask")["question"] == "Transcribe the speech."


def test_compare_from_a_program(client, listener, files):
    answers = client.predict(audio(files, "two.flac"), "Why?", [1, 0.5, 0], 4, api_name="/compare")
    clip = listener.listen(files / "two.flac")
    assert [answer["answer"] for answer in answers] == [
        last(listener.ask([clip], "Why?", scale, 4)).text for scale in (1, 0.5, 0)
    ]


def test_tasks_from_a_program(client):
    tasks = client.predict(api_name="/tasks")
    assert [task["task"] for task in tasks] == ["asr", "audio_story_telling"]
    assert tasks[0]["question"] == "Transcribe the speech."


def test_only_named_functions_are_public(client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert set(endpoints["named_endpoints"]) == {"/ask", "/compare", "/tasks"}
    assert not endpoints["unnamed_endpoints"]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("broken.wav", ("Why?", 1, 4), "“broken.wav” cannot be read as audio"),
        ("long.wav", ("Why?", 1, 4), "“long.wav” is 9 s long; at most 8 s"),
        ("one.wav", ("", 1, 4), "There is no question"),
        ("one.wav", ("Why?", 2, 4), "from 0 to 1, got 2"),
        ("one.wav", ("Why?", 1, 99), "1 to 8 tokens, got 99"),
    ],
)
def test_errors_are_sentences(client, files, name, given, message):
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        client.predict(audio(files, name), *given, api_name="/ask")


def test_scales_must_be_numbers(client, files):
    for scales in ([], ["much"], 0.5):
        with pytest.raises(gradio_client.exceptions.AppError, match="`lora_scales` must be"):
            client.predict(audio(files, "one.wav"), "Why?", scales, 4, api_name="/compare")


def test_large_files_are_not_taken(client, files):
    with pytest.raises(Exception, match="(?i)413|too large|exceed|upload"):
        client.predict(audio(files, "big.wav"), "Why?", 1, 4, api_name="/ask")


def test_files_of_the_server_are_not_uploads(client, files, monkeypatch, listener):
    read = []
    monkeypatch.setattr(listener, "listen", lambda *given: read.append(given))
    # not through the client, which would upload the file first
    given = {"path": str(files / "one.wav"), "meta": {"_type": "gradio.FileData"}}
    call = f"{client.src.rstrip('/')}/gradio_api/call/ask"
    event = httpx.post(call, json={"data": [given, "Why?", 1, 4]}, timeout=60).json()["event_id"]
    assert "event: error" in httpx.get(f"{call}/{event}", timeout=60).text
    assert not read


def test_files_are_added_and_problems_told(page, files):
    paths = [str(files / name) for name in ("broken.wav", "one.wav", "two.flac", "long.wav")]
    clips, picker, problem, cards, cost, remove = page.add(paths, (), [])
    assert [clip.name for clip in clips] == picker.value == ["one.wav", "two.flac"] and picker.visible
    assert "“broken.wav” cannot be read" in problem and "“long.wav” is 9 s long" in problem
    assert cards.count("<article") == 2 and "Whisper" in cost and remove.visible

    clips, picker, problem, *_ = page.add([str(files / "one.wav")] * 2, clips, picker.value)
    assert [clip.name for clip in clips] == ["one.wav", "two.flac", "one.wav (2)"] and picker.value == ["one.wav (2)"]
    assert "At most 3 clips are kept" in problem

    clips, picker, problem, cards, _, _ = page.remove(clips, ["one.wav", "one.wav (2)"])
    assert [clip.name for clip in clips] == picker.value == ["two.flac"] and not picker.visible and not problem
    assert page.remove(clips, ["two.flac"])[0] == ()


def test_recording_has_a_name(page, files):
    clips, *_ = page.add_recording(str(files / "one.wav"), (), [])
    assert [clip.name for clip in clips] == ["Recording"]
    assert page.add_recording(None, clips, ["Recording"])[0] == clips  # it was given up


def test_examples_are_made_once(page, monkeypatch, tmp_path):
    made = []
    spoken, sound, music = web.DEMO_CLIPS

    def make():
        made.append("speech")
        return noise(1.2)

    def fail():
        raise ValueError("the package cannot be had")

    monkeypatch.setattr(web, "DEMO_CLIPS", (replace(spoken, make=make), replace(sound, make=fail)))
    monkeypatch.setattr(web, "EXAMPLES", tmp_path / "examples")
    clips, *_ = page.add_example("speech", (), [])
    assert [clip.name for clip in clips] == ["Speech"]
    assert page.add_example("speech", clips, [])[0] == clips
    page.add_example("speech", (), [])
    assert made == ["speech"]
    after, _, problem, *_ = page.add_example("sound", clips, ["Speech"])
    assert after == clips and "This example cannot be made here: the package cannot be had" in problem


@pytest.fixture
def clips(page, files):
    return page.add([str(files / "one.wav"), str(files / "two.flac")], (), [])[0]


def test_turns_follow_each_other(page, clips):
    turns = last(page.ask(clips, ["one.wav"], (), 1.0, 4, False, "Why?"))[0]
    states = list(page.ask(clips, ["one.wav", "two.flac"], turns, 0.5, 4, False, "And?"))
    turns, talk, problem, cost, ask, stop = states[-1]
    assert [turn.clips for turn in turns] == [("one.wav",), ("one.wav", "two.flac")] and not problem
    assert talk.count('class="turn"') == 2 and "LLM writes" in cost and ask.visible and not stop.visible
    # it is seen at once that something happens, and what is written
    assert "reading the clip" in states[0][1] and states[0][5].visible and "writing" in states[1][1]


def test_earlier_turns_are_read_if_asked_for(page, clips):
    turns = last(page.ask(clips, ["one.wav"], (), 1.0, 4, True, "Why?"))[0]
    turns = last(page.ask(clips, ["two.flac"], turns, 1.0, 4, True, "Why?"))[0]  # of another clip: nothing to remember
    turns = last(page.ask(clips, ["one.wav"], turns, 1.0, 4, True, "Why?"))[0]
    first, other, again = (turn.answer.text_tokens for turn in turns)
    assert first == other < again


def test_questions_without_a_clip_are_answered_by_a_sentence(page, clips):
    for asked, names in (((), []), (clips, [])):
        states = list(page.ask(asked, names, (), 1.0, 4, False, "Why?"))
        assert len(states) == 1 and "There is no clip to ask about" in states[0][2] and states[0][0] == ()


def test_what_was_written_stays_when_it_is_stopped(page, clips):
    answers = page.ask(clips, ["one.wav"], (), 1.0, 8, False, "Why?")
    next(answers)
    turns = next(answers)[0]
    answers.close()
    turns, talk, ask, stop = page.stop(turns)
    assert turns[0].answer.ending == "stopped" and "stopped" in talk and ask.visible and not stop.visible
    assert page.stop(turns)[0] == turns


def test_comparison_keeps_what_is_known(page, clips, monkeypatch):
    asked = []
    ask = page.listener.ask
    monkeypatch.setattr(page.listener, "ask", lambda *given: asked.append(given[2]) or ask(*given))
    given = (clips, ["one.wav"])
    known = last(page.compare(*given, (), 4, "Why?", 0.5))[0]
    known, html, *_ = last(page.compare(*given, known, 4, "Why?", 0.0))
    assert asked == [1.0, 0.5, 0.0] and html.count('class="compared"') == 3
    last(page.sweep(*given, known, 4, "Why?"))
    assert asked[3:] == [0.75, 0.25]
    assert len(last(page.compare(*given, known, 4, "And?", 0.5))[0]) == 2  # another question begins anew
    assert "There is no clip" in last(page.compare(clips, [], (), 4, "Why?", 0.5))[2]
    stopped = (*known, replace(known[0], answer=replace(known[0].answer, ending=None)))
    assert page.stop_comparing(stopped)[0] == known


@pytest.fixture(scope="module")
def folder(tmp_path_factory, listener):
    folder = tmp_path_factory.mktemp("models") / "tiny-salmonn"
    config = tiny_config(fixed_length=False)
    tiny_model(config).save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    return folder


def texts(blocks):
    values = [str(getattr(block, "value", "")) for block in blocks.blocks.values()]
    labels = [str(getattr(block, "label", "")) for block in blocks.blocks.values()]
    return "\n".join(values + labels)


def test_page_of_a_folder(folder):
    blocks = web.load_page(str(folder), "cpu", tasks=["asr"])
    shown = texts(blocks)
    assert blocks.title == "SALMONN · tiny-salmonn" and "Transcribe" in shown and "Tell a story" not in shown
    assert "LoRA strength" not in shown  # it has none
    with pytest.raises(ValueError, match="not in the prompt bank"):
        web.load_page(str(folder), tasks=["swimming"])


def test_page_of_an_untrained_nano_says_so(folder, monkeypatch):
    monkeypatch.setattr(demo, "find_nano", lambda: folder)
    assert "nothing has taught the LLM to listen" in texts(web.load_page())
    assert "nothing has taught the LLM to listen" not in texts(web.load_page(str(folder)))


def test_space(folder, monkeypatch):
    monkeypatch.setenv("SALMONN_MODEL", str(folder))
    monkeypatch.setenv("SALMONN_TASKS", "asr story")
    space = runpy.run_path(str(SPACE / "app.py"))
    assert isinstance(space["page"], gr.Blocks) and "tiny-salmonn" in space["page"].title
    assert "Tell a story" in texts(space["page"]) and np.isfinite(space["LIMITS"].clip_seconds)
