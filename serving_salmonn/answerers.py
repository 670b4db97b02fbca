# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A model that is loaded and answers batches of a corpus, in Transformers or in vLLM."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from beats_salmonn import SpeechDetector
from data_salmonn.audio import Recording, open_audio, read_audio
from data_salmonn.extras import needs_extra


@dataclass(frozen=True)
class Settings:
    """How a corpus is answered, see [`answer_corpus`]."""

    model: str
    adapter: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 8
    workers: int | None = None
    generation: dict = field(default_factory=dict)
    engine_options: dict = field(default_factory=dict)
    speech_tagger: str | None = None
    no_speech_threshold: float | None = None

    def describe(self) -> dict:
        """What decides about the answers, and must be the same where a job goes on."""
        return {
            "model": self.model,
            "adapter": self.adapter,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "generation": self.generation,
            "speech_tagger": self.speech_tagger,
            "no_speech_threshold": self.no_speech_threshold,
        }


class _Answerer(ABC):
    """Answers conversations about clips that are in memory."""

    processor: object
    batch_size: int
    detector: SpeechDetector | None = None

    def answer(self, clips: Sequence[np.ndarray | Recording], questions: Sequence[str | None]) -> list[list[dict]]:
        """
        The segments of the answer about each clip, `(samples,)` of 16 kHz: `start` and `end` in seconds, and `text`. A question
        has an answer of one segment. Without one a clip, which may be a recording then, is transcribed, piece by piece if it is
        longer than the model was trained on; a piece in which the detector, if there is one, hears no speech has no text.
        """
        segments: list[list[dict]] = [[] for _ in clips]
        units = self._find_units(clips, questions, segments)
        while group := list(itertools.islice(units, self.batch_size)):
            texts = self.generate([(piece, asked) for _, piece, asked in group])
            for (segment, _, _), text in zip(group, texts, strict=True):
                segment["text"] = text
        return segments

    def _find_units(self, clips, questions, segments: list[list[dict]]) -> Iterator[tuple[dict, np.ndarray, str]]:
        """Notes the segments of each clip, and gives those whose text is wanted, with samples and what to ask."""
        extractor = self.processor.feature_extractor
        rate = extractor.sampling_rate
        for found, clip, question in zip(segments, clips, questions, strict=True):
            asked = self.processor.transcription_prompt if question is None else question
            end = 0
            for piece in [clip] if question is not None else extractor.split_for_transcription(clip):
                start, end = end, end + len(piece)
                found.append({"start": round(start / rate, 3), "end": round(end / rate, 3)})
                if question is None and self.detector is not None and not self.detector.has_speech(piece):
                    found[-1]["text"] = ""
                    continue
                yield found[-1], piece, asked

    @abstractmethod
    def generate(self, units: list[tuple[np.ndarray, str]]) -> list[str]:
        """The answers to what is asked of each clip."""


def _conversation(clip: np.ndarray, question: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": question}]}]


class Answerer(_Answerer):
    """A model of Transformers on one device."""

    def __init__(self, settings: Settings, device=None):
        from conversion_salmonn.loading import choose_device, load_with_adapter

        device = choose_device(device)
        self.detector = _load_detector(settings, device)
        dtype = settings.dtype or ("float32" if device.type == "cpu" else "auto")
        model, self.processor = load_with_adapter(settings.model, settings.adapter, dtype)
        self.model, self.batch_size, self.generation = model.to(device), settings.batch_size, settings.generation

    def generate(self, units):
        import torch

        inputs = self.processor.apply_chat_template(
            [_conversation(clip, question) for clip, question in units],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.no_grad():
            output = self.model.generate(**inputs, **self.generation)
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]


class VllmAnswerer(_Answerer):
    """A model in an engine of vLLM."""

    def __init__(self, settings: Settings, processor):
        with needs_extra("vllm"):
            import vllm

        self.detector = _load_detector(settings, "cpu")  # the engine takes the memory of the GPU
        options = settings.engine_options | ({} if settings.dtype is None else {"dtype": settings.dtype})
        self.processor, self.batch_size = processor, settings.batch_size
        self.engine = vllm.LLM(settings.model, **options)
        defaults = self.engine.get_default_sampling_params()
        self.sampling = vllm.SamplingParams(
            temperature=0, max_tokens=settings.generation.get("max_new_tokens") or defaults.max_tokens
        )

    def generate(self, units):
        prompts = []
        for clip, question in units:
            text = self.processor.apply_chat_template(
                _conversation(clip, question), add_generation_prompt=True, tokenize=False
            )
            prompts.append({"prompt": text, "multi_modal_data": {"audio": [clip]}})
        outputs = self.engine.generate(prompts, self.sampling, use_tqdm=False)
        ids = [output.outputs[0].token_ids for output in outputs]
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def _load_detector(settings: Settings, device) -> SpeechDetector | None:
    return SpeechDetector.from_options(settings.speech_tagger, settings.no_speech_threshold, device)


def answer_batch(answerer: _Answerer, batch: Sequence) -> list[dict]:
    """
    The rows of the output for the items of a batch: transcriptions with their segments. A clip that cannot be read has an
    `error` in place of an answer.
    """
    rows, readable, clips = [], [], []
    for item in batch:
        row = {"id": item.id, "question": item.question, "answer": None, "segments": None}
        rows.append(row | {"seconds": item.seconds, "error": None})
        try:
            # what is transcribed may be hours long, and is read piece by piece
            clips.append((open_audio if item.question is None else read_audio)(list(item.paths)))
            readable.append(rows[-1])
        except ValueError as error:
            rows[-1]["error"] = str(error)
    if not clips:
        return rows
    for row, segments in zip(readable, answerer.answer(clips, [row["question"] for row in readable]), strict=True):
        row["answer"] = " ".join(segment["text"] for segment in segments if segment["text"])
        row["segments"] = segments if row["question"] is None else None
    return rows
