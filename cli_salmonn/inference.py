# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A model that is loaded, asked about clips, and has them transcribed with times."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from cli_salmonn.streaming import AnswerStreamer
from conversion_salmonn.loading import choose_device, load_with_adapter
from data_salmonn.audio import Recording
from data_salmonn.transcripts import Segment
from session_salmonn import SalmonnSession


if TYPE_CHECKING:  # the Space does without
    from beats_salmonn import SpeechDetector

logger = logging.getLogger(__name__)


def load(model: str | Path, device: str | None = None, dtype: str | None = None, adapter: str | Path | None = None):
    """
    The model in the folder (or of the Hub id) `model`, ready to answer on `device`, and its processor, see
    [`load_with_adapter`].

    A CPU computes in float32 unless `dtype` is given: float16 is slow there.
    """
    device = choose_device(device)
    dtype = dtype or ("float32" if device.type == "cpu" else "auto")
    loaded, processor = load_with_adapter(model, adapter, dtype)
    return loaded.to(device), processor


def prepare(processor, audio, question: str | None):
    """
    Model inputs for `question` about `audio` (a path or 16 kHz waveform, or a list of these); without a question, for
    a transcription of each, for which `generate` makes the prompt and goes through long audio piece by piece.
    """
    if question is None:
        return processor(audio=audio, return_tensors="pt")
    clips = audio if isinstance(audio, list) else [audio]
    content = [*({"type": "audio", "audio": clip} for clip in clips), {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )


def decode(processor, inputs, output: torch.Tensor) -> str:
    """The answer in what `generate` returned for `inputs`, of one row: continuation, after the prompt if there is one."""
    prompt_length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return processor.decode(output[0, prompt_length:], skip_special_tokens=True).strip()


class Listener:
    """
    A model that answers about clips.

    `generation` are arguments of `generate`; those that are `None` are left to the model. With `stream`, answers appear on
    standard output while they are written, unless the model searches with beams, whose words are not final before the end.
    With a `detector`, pieces in which it hears no speech are not transcribed: their text is empty.
    """

    def __init__(self, model, processor, stream: bool = False, detector: "SpeechDetector | None" = None, **generation):
        self.model, self.processor, self.detector = model, processor, detector
        self.generation = {name: value for name, value in generation.items() if value is not None}
        beams = self.generation.get("num_beams", getattr(model.generation_config, "num_beams", None))
        self.streamer = AnswerStreamer(processor) if stream and beams in (None, 1) else None
        if self.streamer is not None:
            self.generation["streamer"] = self.streamer

    @torch.no_grad()
    def answer(self, clips: list[np.ndarray], questions: Sequence[str], name: str = "the clip") -> Iterator[str]:
        """
        What the model answers to each of `questions` about `clips`, 16 kHz, which stand in one prompt in this order and
        are encoded once. `name` is what they are called in a warning.
        """
        self._warn_about_long_clips(clips, name)
        session = SalmonnSession(self.model, self.processor, clips, **self.generation)
        for question in questions:
            answer = session.ask(question)
            self._finish()
            yield answer

    def transcribe(self, clip: np.ndarray | Recording, name: str = "the clip") -> Iterator[Segment]:
        """
        What is said in `clip`, samples `(samples,)` of 16 kHz or a recording: of one that is longer than the model was
        trained on in pieces, as [`~SalmonnForConditionalGeneration.transcribe`] cuts them, each as soon as it is there. Of a
        long recording no more is in memory than the pieces that are transcribed.
        """
        rate = self.processor.feature_extractor.sampling_rate
        seconds = (len(clip) if isinstance(clip, np.ndarray) else clip.num_samples) / rate
        pieces = self.processor.feature_extractor.split_for_transcription(clip)
        first_two = list(itertools.islice(pieces, 2))
        is_whole, pieces = len(first_two) == 1, itertools.chain(first_two, pieces)
        del first_two
        # one by one where the first is there sooner for it, and the whole not later
        one_by_one = self.streamer is not None or self.model.device.type == "cpu"
        at_once = 1 if one_by_one else self.model.config.max_segments_at_once
        # what has been printed cannot be transcribed again, if it went round in circles: of several pieces each is whole
        generation = dict(self.generation)
        if not is_whole:
            generation.pop("streamer", None)
        start = 0
        hidden = True if self.streamer is not None or is_whole else None  # or else if stderr is no terminal
        with tqdm(desc=f"Transcribing {name}", total=round(seconds), unit="s", leave=False, disable=hidden) as bar:
            while group := list(itertools.islice(pieces, at_once)):
                for piece, text in zip(group, self._transcribe(group, generation)):
                    end = start + len(piece)
                    bar.update(round(end / rate) - bar.n)
                    if self.streamer is not None and "streamer" not in generation:
                        self.streamer.write(text)
                    yield Segment(round(start / rate, 3), round(end / rate, 3), text)
                    start = end
        self._finish()

    def _transcribe(self, pieces: list[np.ndarray], generation: dict) -> list[str]:
        """The text of each piece, none where nothing is said."""
        has_speech = [self.detector is None or self.detector.has_speech(piece) for piece in pieces]
        spoken = [piece for piece, is_spoken in zip(pieces, has_speech) if is_spoken]
        if not spoken:
            return [""] * len(pieces)
        inputs = prepare(self.processor, spoken, None).to(self.model.device)
        output = iter(self.model.generate(**inputs, **generation))
        return [
            self.processor.decode(next(output), skip_special_tokens=True).strip() if is_spoken else ""
            for is_spoken in has_speech
        ]

    def _warn_about_long_clips(self, clips: list[np.ndarray], name: str) -> None:
        extractor = self.processor.feature_extractor
        seconds, longest = max(map(len, clips)) / extractor.sampling_rate, extractor.max_audio_seconds
        if longest is not None and seconds > longest:
            logger.warning(
                f"{name} is {seconds:.0f} s long, and this model was trained on {longest:g} s: its answer may leave much of "
                "it out. Without a question it is transcribed piece by piece."
            )

    def _finish(self) -> None:
        if self.streamer is not None:
            self.streamer.finish()
