# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What answers a corpus: Transformers in one process a device, vLLM, or workers of Ray. All take the same batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from data_salmonn.extras import needs_extra
from serving_salmonn.answerers import Answerer, Settings, VllmAnswerer, answer_batch
from serving_salmonn.requests import check_merged, longest_piece


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
        """The longest that counts as one piece in a batch: a piece of a transcription, or else a segment."""
        extractor = self.processor.feature_extractor
        return longest_piece(extractor) or extractor.chunk_length

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
        greedy = {name: value for name, value in settings.generation.items() if (name, value) != ("num_beams", 1)}
        extra = sorted(greedy.keys() - {"max_new_tokens"})
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
