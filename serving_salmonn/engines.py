# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What answers a corpus: Transformers in one process a device, vLLM, or workers of Ray. All take the same batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from data_salmonn.audio import read_audio
from data_salmonn.extras import needs_extra
from serving_salmonn.requests import check_merged


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

    def describe(self) -> dict:
        """What decides about the answers, and must be the same where a job goes on."""
        return {
            "model": self.model,
            "adapter": self.adapter,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "generation": self.generation,
        }


class Engine(ABC):
    """Answers batches. `process` of `processes` is the share of the batches that this one is given; `is_main` one of them."""

    batch_size, takes_options = 8, False
    process, processes, is_main = 0, 1, True

    def __init__(self, settings: Settings):
        if settings.engine_options and not self.takes_options:
            raise ValueError(f"`engine_options` are for vLLM, got {', '.join(sorted(settings.engine_options))}.")
        self.settings = settings

    @cached_property
    def processor(self):
        from transformers import AutoProcessor

        # Importing it tells Transformers' Auto classes about SALMONN.
        import salmonn_transformers  # noqa: F401
        from conversion_salmonn.loading import find_base

        return AutoProcessor.from_pretrained(find_base(self.settings.model) or self.settings.model)

    @property
    def piece_seconds(self) -> float:
        """The longest that counts as one piece in a batch."""
        extractor = self.processor.feature_extractor
        return min(extractor.max_audio_seconds or extractor.chunk_length, extractor.chunk_length)

    @abstractmethod
    def answer(self, batches: Iterable[Sequence]) -> Iterator[list[dict]]:
        """The rows of the output for each batch of items, in any order."""

    def wait(self) -> None:
        """For the other processes."""

    def gather(self, values: list) -> list:
        """Those of all processes."""
        return values


class TransformersEngine(Engine):
    """This process, or one of those that `accelerate launch` or `torchrun` have started, each with its device."""

    def __init__(self, settings: Settings):
        from conversion_salmonn.loading import start_processes

        super().__init__(settings)
        self._state = start_processes()
        self.process, self.processes = self._state.process_index, self._state.num_processes
        self.is_main = self._state.is_main_process

    def answer(self, batches):
        answerer = Answerer(self.settings, self.settings.device or self._state.device)
        for batch in batches:
            yield answer_batch(answerer, batch)

    def wait(self):
        self._state.wait_for_everyone()

    def gather(self, values):
        from accelerate.utils import gather_object

        return gather_object(values)


class VllmEngine(Engine):
    """vLLM in this process. Batches are large: it makes its own of them."""

    batch_size, takes_options = 256, True

    def __init__(self, settings: Settings):
        super().__init__(settings)
        extra = sorted(
            settings.generation.keys()
            - {"max_new_tokens"}
            - ({"num_beams"} if settings.generation.get("num_beams") == 1 else set())
        )
        if extra:
            raise ValueError(
                f"`generation` of vLLM is greedy and takes `max_new_tokens` only, got {', '.join(extra)}."
            )
        if settings.adapter is not None:
            raise ValueError(f"`adapter` {settings.adapter} is not for vLLM: `salmonn merge` makes one model of both.")
        check_merged(settings.model)
        with needs_extra("vllm"):
            import vllm  # noqa: F401

    def answer(self, batches):
        answerer = VllmAnswerer(self.settings, self.processor)
        for batch in batches:
            yield answer_batch(answerer, batch)


class RayEngine(Engine):
    """
    Workers of Ray Data, on this machine or, where `RAY_ADDRESS` says so, on a cluster whose machines share the folders. Each
    has the model on a device of its own. They answer, and this process keeps the journal: a batch that is lost with its
    worker is made again by another one, and a row that comes twice is written once.
    """

    def __init__(self, settings: Settings):
        super().__init__(settings)
        if settings.workers is not None and settings.workers < 1:
            raise ValueError(f"`workers` must be at least 1, got {settings.workers}.")
        if settings.device is not None:
            raise ValueError(f"`device` must be left to Ray, got {settings.device!r}.")
        with needs_extra("ray"):
            import ray.data  # noqa: F401

    def answer(self, batches):
        from serving_salmonn.ray_workers import answer_on_ray

        return answer_on_ray(self.settings, batches)


ENGINES: dict[str, type[Engine]] = {"transformers": TransformersEngine, "vllm": VllmEngine, "ray": RayEngine}


class _Answerer(ABC):
    """Answers conversations about clips that are in memory."""

    processor: object
    batch_size: int

    def answer(self, clips: Sequence[np.ndarray], questions: Sequence[str | None]) -> list[str]:
        """
        An answer for each clip, `(samples,)` of 16 kHz, and its question; without one it is transcribed, piece by piece if it
        is longer than the model was trained on.
        """
        from feature_extraction_salmonn import cut_at_silence

        extractor = self.processor.feature_extractor
        longest = extractor.max_audio_seconds
        units = []  # (place, clip, what to ask)
        for place, (clip, question) in enumerate(zip(clips, questions, strict=True)):
            pieces = [clip]
            if question is None and longest is not None and len(clip) > longest * extractor.sampling_rate:
                samples = min(extractor.segment_samples, int(longest * extractor.sampling_rate))
                pieces = cut_at_silence(clip, samples, extractor.sampling_rate)
            asked = self.processor.transcription_prompt if question is None else question
            units += [(place, piece, asked) for piece in pieces]
        answers: list[list[str]] = [[] for _ in clips]
        for start in range(0, len(units), self.batch_size):
            group = units[start : start + self.batch_size]
            for (place, _, _), text in zip(group, self.generate(group), strict=True):
                answers[place].append(text)
        return [" ".join(text for text in texts if text) for texts in answers]

    @abstractmethod
    def generate(self, units: list[tuple[int, np.ndarray, str]]) -> list[str]:
        """The answers to what is asked of each clip."""


def _conversation(clip: np.ndarray, question: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": question}]}]


class Answerer(_Answerer):
    """A model of Transformers on one device."""

    def __init__(self, settings: Settings, device=None):
        from conversion_salmonn.loading import choose_device, load_with_adapter

        device = choose_device(device)
        dtype = settings.dtype or ("float32" if device.type == "cpu" else "auto")
        model, self.processor = load_with_adapter(settings.model, settings.adapter, dtype)
        self.model, self.batch_size, self.generation = model.to(device), settings.batch_size, settings.generation

    def generate(self, units):
        import torch

        inputs = self.processor.apply_chat_template(
            [_conversation(clip, question) for _, clip, question in units],
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
        import vllm

        options = settings.engine_options | ({} if settings.dtype is None else {"dtype": settings.dtype})
        self.processor, self.batch_size = processor, settings.batch_size
        self.engine = vllm.LLM(settings.model, **options)
        defaults = self.engine.get_default_sampling_params()
        self.sampling = vllm.SamplingParams(
            temperature=0, max_tokens=settings.generation.get("max_new_tokens") or defaults.max_tokens
        )

    def generate(self, units):
        prompts = []
        for _, clip, question in units:
            text = self.processor.apply_chat_template(
                _conversation(clip, question), add_generation_prompt=True, tokenize=False
            )
            prompts.append({"prompt": text, "multi_modal_data": {"audio": [clip]}})
        outputs = self.engine.generate(prompts, self.sampling, use_tqdm=False)
        ids = [output.outputs[0].token_ids for output in outputs]
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def answer_batch(answerer: _Answerer, batch: Sequence) -> list[dict]:
    """The rows of the output for the items of a batch. A clip that cannot be read has an `error` in place of an answer."""
    rows = [
        {"id": item.id, "question": item.question, "answer": None, "seconds": item.seconds, "error": None}
        for item in batch
    ]
    readable, clips = [], []
    for row, item in zip(rows, batch):
        try:
            clips.append(read_audio(list(item.paths)))
            readable.append(row)
        except ValueError as error:
            row["error"] = str(error)
    if clips:
        for row, answer in zip(readable, answerer.answer(clips, [row["question"] for row in readable])):
            row["answer"] = answer
    return rows
