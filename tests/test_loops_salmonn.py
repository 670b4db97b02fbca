"""Answers that go round in circles: found, said, and transcribed again."""

import pytest
import torch
from transformers import LogitsProcessor
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from loops_salmonn import find_loop
from session_salmonn import SalmonnSession
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor


BEGINNING = [7, 3, 9, 4]


@pytest.mark.parametrize("period", [1, 2, 5, 16])
@pytest.mark.parametrize("rest", [0, 1])
def test_loops_are_found_with_one_repetition_kept(period, rest):
    phrase = list(range(100, 100 + period))
    answer = BEGINNING + phrase * (80 // period)
    answer += phrase[: rest % period]  # cut off within the phrase
    assert find_loop(answer) == len(BEGINNING) + period


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [5],
        BEGINNING,
        [*BEGINNING, *[5] * 20],  # "no, no, no"
        [*BEGINNING, *[5] * 40, 6],  # and then something else
        list(range(200)),
        [*range(20)] * 3,  # a refrain
    ],
)
def test_other_answers_are_none(answer):
    assert find_loop(answer) is None


class Insists(LogitsProcessor):
    """Wants one token above all others, after each of some prompts of a batch."""

    def __init__(self, token: int, rows: list[int]):
        self.token, self.rows = token, rows

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        for row in self.rows:
            if row < len(scores):
                scores[row, self.token] += 100
        return scores


@pytest.fixture(scope="module")
def parts():
    processor = tiny_processor(tiny_config())
    config = tiny_config(transcription_prompt_ids=processor.transcription_prompt_ids(), max_audio_seconds=4)
    return tiny_model(config), processor


def test_only_what_goes_round_in_circles_is_transcribed_again(parts):
    model, processor = parts
    inputs = processor.feature_extractor([noise(2, 1), noise(3, 2)], sampling_rate=16000, return_tensors="pt")
    options = {"max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0}
    plain = model.transcribe(**inputs, **options)
    with CaptureLogger(logging.get_logger("generation_salmonn")) as log:
        found = model.transcribe(**inputs, **options, logits_processor=[Insists(5, [0])])
    assert "1 of 2 pieces of audio were answered with the same words over and over" in log.out
    assert find_loop(found[0].tolist()) is None and find_loop([5] * 30) is not None
    expected = model.transcribe(**inputs, **options, no_repeat_ngram_size=4, logits_processor=[Insists(5, [0])])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], plain[1])  # as it was


def test_pieces_of_a_long_clip_are_transcribed_again(parts):
    model, processor = parts
    inputs = processor(audio=noise(7, 1), return_tensors="pt")
    options = {"max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0}
    with CaptureLogger(logging.get_logger("generation_salmonn")) as log:
        found = model.generate(**inputs, **options, logits_processor=[Insists(5, [0, 1])])
    assert "2 of 2 pieces" in log.out
    assert found.shape == (1, 60) and find_loop(found[0].tolist()) is None


def test_what_was_streamed_is_only_said(parts):
    model, processor = parts
    inputs = processor.feature_extractor(noise(2, 1), sampling_rate=16000, return_tensors="pt")

    class Streamer:
        def __init__(self):
            self.ids = []

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self): ...

    streamer = Streamer()
    options = {"max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0, "streamer": streamer}
    with CaptureLogger(logging.get_logger("generation_salmonn")) as log:
        found = model.transcribe(**inputs, **options, logits_processor=[Insists(5, [0])])
    assert "over and over." in log.out and "again" not in log.out
    assert found[0].tolist() == [5] * 30 == streamer.ids[-30:]


def test_a_session_says_so(parts):
    model, processor = parts
    options = {"max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0, "logits_processor": [Insists(5, [0])]}
    with CaptureLogger(logging.get_logger("session_salmonn")) as log:
        SalmonnSession(model, processor, noise(2)).ask("What is this?", **options)
    assert "An answer says the same words over and over" in log.out
