# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What stands behind the web page, on a tiny model: clips that are encoded once, answers that are streamed."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from data_salmonn.prompts import PromptBank
from demo_salmonn import presets
from demo_salmonn.limits import Limits
from demo_salmonn.session import Listener
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


LIMITS = Limits(clip_seconds=40, new_tokens=12, clips=3, question_characters=60)


@pytest.fixture(scope="module")
def listener():
    config = tiny_config(segment_seconds=30, fixed_length=False)
    return Listener(with_adapter(tiny_model(config)), tiny_processor(config), LIMITS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in (
        ("one.wav", 1.5),
        ("two.wav", 2.2),
        ("long.wav", 31),
        ("too_long.flac", 41),
        ("empty.wav", 0),
    ):
        soundfile.write(folder / name, noise(seconds, len(name)), 16000)
    (folder / "broken.mp3").write_bytes(b"ID3 this is no music")
    samples = noise(1)
    samples[7] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16000, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def clips(listener, files):
    return [listener.listen(files / "one.wav"), listener.listen(files / "two.wav")]


@pytest.fixture
def calls(listener):
    """How often the encoders and the LLM are run."""
    counts = {"speech_encoder": 0, "beats": 0, "language_model": 0}

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    hooks = [getattr(listener.model.model, name).register_forward_hook(count(name)) for name in counts]
    yield counts
    for hook in hooks:
        hook.remove()


def read(path):
    return soundfile.read(path, dtype="float32")[0]


def last(answers):
    *_, answer = answers
    return answer


def test_clip_is_what_the_model_hears(listener, files, clips):
    for clip, name in zip(clips, ("one.wav", "two.wav")):
        inputs = ask(listener.processor, question(read(files / name)))
        features = listener.model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
        torch.testing.assert_close(clip.audio_embeds, features.pooler_output)
        assert clip.name == name and clip.audio_tokens == (inputs["input_ids"] == 600).sum()
        assert clip.seconds == len(read(files / name)) / 16000 and clip.segments == 1
        assert clip.log_mel.shape == (80, round(100 * clip.seconds))
        assert set(clip.parts) == {"features", "Whisper", "BEATs", "connector"} and clip.encoding_seconds > 0


def test_long_clip_has_segments_in_one_picture(listener, files):
    clip = listener.listen(files / "long.wav", "mine")
    assert clip.name == "mine" and clip.segments == 2 and clip.log_mel.shape == (80, 3100)
    inputs = ask(listener.processor, question(read(files / "long.wav")))
    assert clip.audio_tokens == (inputs["input_ids"] == 600).sum()


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_answer_is_that_of_generate(listener, files, clips, calls, scale):
    inputs = ask(listener.processor, question(read(files / "one.wav"), read(files / "two.wav"), text="Why?"))
    expected = listener.model.generate(**inputs, lora_scale=scale, num_beams=1, max_new_tokens=6)
    new_tokens = expected[0, inputs["input_ids"].shape[1] :]
    calls.update(dict.fromkeys(calls, 0))
    answers = list(listener.ask(clips, " Why? ", scale, 6))
    assert answers[-1].text == listener.processor.decode(new_tokens, skip_special_tokens=True).strip()
    assert answers[-1].new_tokens == len(new_tokens) == calls["language_model"]
    assert calls["speech_encoder"] == calls["beats"] == 0  # not encoded again
    assert [answer.new_tokens for answer in answers] == [*range(1, len(new_tokens) + 1), len(new_tokens)]
    assert all(answer.ending is None for answer in answers[:-1]) and answers[-1].ending is not None
    audio_tokens = int((inputs["input_ids"] == 600).sum())
    assert answers[-1].audio_tokens == audio_tokens
    assert answers[-1].text_tokens == inputs["input_ids"].shape[1] - audio_tokens
    assert set(answers[-1].parts) == {"LLM prefill", "LLM token"}


def test_scale_of_lora_matters_and_is_put_back(listener, clips):
    before = last(listener.ask(clips[:1], "Why?"))
    assert last(listener.ask(clips[:1], "Why?", 0.0)).text != before.text
    assert last(listener.ask(clips[:1], "Why?")).text == before.text


def test_history_is_read(listener, clips):
    alone = last(listener.ask(clips[:1], "And then?"))
    after = last(listener.ask(clips[:1], "And then?", history=[("What is it?", "A dog.")]))
    assert after.text_tokens > alone.text_tokens and after.audio_tokens == alone.audio_tokens


def test_endings(listener, clips, monkeypatch):
    free = last(listener.ask(clips, "Why?"))
    assert free.ending == "length" and free.new_tokens == LIMITS.new_tokens
    monkeypatch.setattr(listener, "limits", replace(LIMITS, answer_seconds=1e-9))
    late = last(listener.ask(clips, "Why?"))
    assert late.ending == "time" and late.new_tokens == 1
    monkeypatch.setattr(listener, "limits", LIMITS)
    monkeypatch.setattr(listener.model.generation_config, "eos_token_id", list(range(600)))  # every token is an end
    complete = last(listener.ask(clips, "Why?"))
    assert complete.ending == "complete" and complete.new_tokens == 1


def test_closing_stops_the_model(listener, clips, calls):
    closed = threading.Event()

    def wait(*_):
        if calls["language_model"] == 1:  # the first token is written, the second one waits until nobody reads it
            closed.wait(60)

    answers = listener.ask(clips, "Why?")
    hook = listener.model.model.language_model.layers[0].register_forward_hook(wait)
    try:
        assert next(answers).new_tokens == 1
        answers.close()
    finally:
        closed.set()
        with listener._lock:  # until the model is free again
            hook.remove()
    assert calls["language_model"] == 2


def test_visitors_do_not_disturb_one_another(listener, clips):
    scales = (1.0, 0.0, 0.5)
    alone = [last(listener.ask(clips, "Why?", scale)).text for scale in scales]
    together = dict.fromkeys(scales)

    def visit(scale):
        together[scale] = last(listener.ask(clips, "Why?", scale)).text

    visitors = [threading.Thread(target=visit, args=(scale,)) for scale in scales]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert list(together.values()) == alone and len(set(alone)) > 1


def test_what_goes_wrong_in_the_model_is_raised(listener, clips, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(listener.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(listener.ask(clips, "Why?"))
    monkeypatch.undo()
    assert last(listener.ask(clips, "Why?")).text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "broken.mp3",
            "“broken.mp3” cannot be read as audio. WAV, FLAC, OGG and MP3 files can be read, of up to 40 s.",
        ),
        ("too_long.flac", "“too_long.flac” is 41 s long; at most 40 s are taken."),
        ("empty.wav", "“empty.wav” holds no sound"),
        ("nan.wav", "“nan.wav” cannot be read as audio"),
        ("absent.wav", "“absent.wav” cannot be read"),
    ],
)
def test_files_that_cannot_be_taken(listener, files, calls, name, message):
    with pytest.raises(ValueError, match=message):
        listener.listen(files / name)
    assert calls["speech_encoder"] == 0


def test_length_is_seen_before_decoding(listener, files, monkeypatch):
    monkeypatch.setattr("cli_salmonn.audio_files.read_clip", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="41 s long"):
        listener.listen(files / "too_long.flac")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "  "}, "There is no question"),
        ({"question": "w" * 61}, "has 61 characters; at most 60"),
        ({"question": "What is <|audio|>?"}, "must not hold '<|audio|>'"),
        ({"clips": 0}, "There is no clip"),
        ({"clips": 4}, "about 4 clips; at most 3"),
        ({"lora_scale": 1.5}, "from 0 to 1, got 1.5"),
        ({"lora_scale": float("nan")}, "from 0 to 1, got nan"),
        ({"max_new_tokens": 0}, "1 to 12 tokens, got 0"),
        ({"max_new_tokens": 13}, "1 to 12 tokens, got 13"),
    ],
)
def test_questions_that_cannot_be_asked(listener, clips, changes, message):
    given = {"question": "Why?", **changes, "clips": [clips[0]] * changes.get("clips", 1)}
    with pytest.raises(ValueError, match=message.replace("|", r"\|").replace("?", r"\?")):
        listener.ask(**given)  # at once, not when the answer is waited for


def test_prompt_must_fit(listener, clips, monkeypatch):
    monkeypatch.setattr(listener.model.config.text_config, "max_position_embeddings", 20)
    with pytest.raises(ValueError, match="room for 20: ask about fewer or shorter clips"):
        listener.ask(clips, "Why?")


def test_model_without_lora(files, clips):
    config = tiny_config(fixed_length=False)
    plain = Listener(tiny_model(config), tiny_processor(config), LIMITS)
    assert not plain.has_lora and last(plain.ask(clips, "Why?", 1.0, 2)).new_tokens == 2
    with pytest.raises(ValueError, match="no LoRA adapter"):
        plain.ask(clips, "Why?", 0.5)


@pytest.mark.parametrize("value", [0, -1, float("inf"), "10", True])
def test_limits_are_numbers_above_zero(value):
    with pytest.raises(ValueError, match="`clip_seconds`"):
        Limits(clip_seconds=value)


def test_presets_come_from_the_prompt_bank():
    bank = PromptBank.load()
    for tasks in (presets.TASKS, presets.nano_tasks()):
        offered = presets.load_presets(tasks)
        assert [preset.question for preset in offered] == [bank.test_prompt(preset.task) for preset in offered]
        assert len({preset.label for preset in offered}) == len(offered) and presets.STORY in tasks
    assert set(presets.LABELS) <= set(bank.tasks)
    assert presets.load_presets(["story"])[0].label == "Tell a story"
    with pytest.raises(ValueError, match="needs a `question`"):
        presets.load_presets(["speech_QA"])
    with pytest.raises(ValueError, match="'swimming' is not in the prompt bank"):
        presets.load_presets(["swimming"])
