"""Pipelines, streaming and decoding with a draft, on the settings of the shipped `salmonn-nano`."""

from threading import Thread

import pytest
import torch
from test_assemble import BEATS
from tiny_nano import save_nano
from transformers import AutoModelForMultimodalLM, AutoProcessor, TextIteratorStreamer, TextStreamer, pipeline
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from conversion_salmonn.convert_beats import convert_beats
from test_sharing_salmonn import run_elsewhere
from tiny_salmonn import ask, noise, question


# of different widths, all, and less than the second to which clips are padded
SECONDS = (2.78, 2.75, 0.4, 5.0)
CLIPS = [noise(seconds, seed) for seed, seconds in enumerate(SECONDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_nano(tmp_path_factory.mktemp("nano") / "salmonn-nano")


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


def answer(model, processor, inputs, **settings) -> str:
    output = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(output, skip_special_tokens=True)


def test_settings_are_those_that_are_shipped(model, processor):
    config, generation = model.config, model.generation_config
    assert (config.fixed_length, config.pad_last_window, config.num_query_tokens) == (False, True, 2)
    assert (generation.num_beams, generation.do_sample) == (1, False)
    assert "up_proj" in str(model.peft_config["default"].target_modules)
    assert processor.apply_chat_template(question(CLIPS[0], text="What?")) == (
        "<|im_start|>user\n<|audio|> What?<|im_end|>\n"
    )


def test_features_of_any_clips_can_be_put_together(processor):
    shapes = {tuple(value.shape) for clip in CLIPS for value in processor(audio=clip).values()}
    assert shapes == {(1, 208, 3000), (1, 3000), (1,)}


@pytest.mark.parametrize("batch_size", [2, 3])
def test_transcription_in_batches(folder, model, processor, batch_size):
    with CaptureLogger(logging.get_logger("transformers")) as log:
        transcribe = pipeline("automatic-speech-recognition", model=folder)
        results = transcribe([clip.copy() for clip in CLIPS], batch_size=batch_size, max_new_tokens=8)
    texts = [result["text"] for result in results]
    expected = [
        answer(model, processor, processor.apply_transcription_request(clip), max_new_tokens=8) for clip in CLIPS
    ]
    assert texts == expected and all(texts)
    assert not any(text.startswith(" ") for text in texts)
    assert "not supported" not in log.out


def test_clips_of_any_number_of_segments_are_transcribed_in_a_batch(folder):
    clips = [noise(5, 1), noise(40, 2), noise(0.4, 3)]
    transcribe = pipeline("automatic-speech-recognition", model=folder)
    expected = [transcribe(clip.copy(), max_new_tokens=8)["text"] for clip in clips]
    results = transcribe([clip.copy() for clip in clips], batch_size=3, max_new_tokens=8)
    assert [result["text"] for result in results] == expected and all(expected)


def test_chats_in_batches(folder, model, processor):
    chats = [question(clip, text=text) for clip, text in zip(CLIPS, ("What?", "What is this?", "Yes?", "No?"))]
    ask_model = pipeline("any-to-any", model=folder)
    results = ask_model(chats, batch_size=2, return_full_text=False, max_new_tokens=8)
    texts = [result[0]["generated_text"] for result in results]
    assert texts == [
        result[0]["generated_text"] for result in ask_model(chats, return_full_text=False, max_new_tokens=8)
    ]
    expected = [answer(model, processor, ask(processor, chat), max_new_tokens=8) for chat in chats]
    assert [text.strip() for text in texts] == [text.strip() for text in expected] and all(texts)


def test_chats_about_long_clips_are_not_cut_in_batches(folder):
    ask_model = pipeline("any-to-any", model=folder)
    chats = [question(noise(40, 1)), question(noise(1, 2))]
    with pytest.raises(ValueError, match="need `batch_size=1`"):
        ask_model(chats, batch_size=2, max_new_tokens=2)
    assert len(ask_model(chats, max_new_tokens=2)) == 2


def test_streaming(model, processor, capsys):
    inputs = ask(processor, question(CLIPS[0]))
    expected = answer(model, processor, inputs, max_new_tokens=12)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    thread = Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, "max_new_tokens": 12})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()
    model.generate(
        **inputs,
        max_new_tokens=12,
        streamer=TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")


def test_decoding_with_a_draft(model, processor):
    inputs = ask(processor, question(CLIPS[0]))
    expected = model.generate(**inputs, max_new_tokens=12)
    assert torch.equal(model.generate(**inputs, max_new_tokens=12, prompt_lookup_num_tokens=3), expected)


CLASSIFY = """
import json
import numpy as np
from transformers import pipeline
classify = pipeline("audio-classification", model=sys.argv[1], trust_remote_code=True)
clip = np.random.default_rng(0).standard_normal(32000).astype(np.float32) * 0.1
print(json.dumps({"labels": [answer["label"] for answer in classify(clip, top_k=3)]}))
"""


def test_beats_where_nothing_of_ours_is_installed(tmp_path):
    folder = convert_beats(BEATS, tmp_path / "beats")
    labels = run_elsewhere(CLASSIFY, folder, cwd=tmp_path)["labels"]
    assert labels == [
        answer["label"] for answer in pipeline("audio-classification", model=str(folder))(noise(2), top_k=3)
    ]


def test_folders_that_ask_for_beams_still_load(folder, tmp_path):
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    model.generation_config.num_beams = 4
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert again.generation_config.num_beams == 4
    assert again.generate(**ask(processor, question(CLIPS[0])), max_new_tokens=3).shape[0] == 1
