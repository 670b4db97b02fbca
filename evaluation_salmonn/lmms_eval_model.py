# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
SALMONN as a chat model of lmms-eval:

    lmms-eval --model=salmonn --model_args pretrained=./salmonn-13b --tasks mmau_test_mini --batch_size 8
"""

import json

import numpy as np
import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from tqdm.auto import tqdm

from conversion_salmonn.loading import load_with_adapter
from data_salmonn.audio import read_audio


# Ends of answers that lmms-eval adds where a task names none: what separates examples in few-shot prompts of text models.
# An answer of several paragraphs is not to be cut there.
DEFAULT_UNTIL = ["\n\n"]


class Salmonn(lmms):
    """
    Answers the chat messages of tasks: any number of clips of any length, text, several turns.

    Args:
        pretrained (`str`):
            Folder or Hub id of a SALMONN, or of an adapter, whose base model it finds.
        adapter (`str`, *optional*):
            Folder of an adapter for a model without one.
        batch_size (`int`, *optional*, defaults to 1):
            Prompts at a time.
        device (`str`, *optional*):
            By default the one that accelerate gives this process.
        dtype (`str`, *optional*):
            Of the weights: float32 on a CPU, else the model's own by default.
        num_beams (`int`, *optional*):
            For tasks that name none. The papers search with 4.
        lora_scale (`float`, *optional*):
            Strength of LoRA, 1 is as trained.

    Raises `ValueError` if the model cannot be loaded, see [`load_with_adapter`], or `batch_size` is no positive number.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        num_beams: int | None = None,
        lora_scale: float | None = None,
        max_batch_size: int | None = None,  # which lmms-eval passes to every model
    ):
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"`batch_size` must be a positive integer, got {batch_size!r}.")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        # lmms-eval passes a device on only if it is asked for one, and then the same to all processes
        on_own = self._world_size > 1 or device is None
        self.device = self.accelerator.device if on_own else torch.device(device)
        dtype = dtype or ("float32" if self.device.type == "cpu" else "auto")
        model, self.processor = load_with_adapter(pretrained, adapter, dtype)
        self.model = model.to(self.device)
        self.batch_size = int(batch_size)
        defaults = {"num_beams": num_beams, "lora_scale": lora_scale}
        self.defaults = {name: value for name, value in defaults.items() if value is not None}

    def generate_until(self, requests) -> list[str]:
        """The answers to requests of lmms-eval, in their order. Requests with the same settings share batches."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[2], sort_keys=True), []).append(number)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="Answering", unit="prompt", disable=self.rank != 0) as bar:
            for numbers in groups.values():
                for first in range(0, len(numbers), self.batch_size):
                    batch = numbers[first : first + self.batch_size]
                    for number, answer in zip(batch, self._answer([requests[number] for number in batch])):
                        context, _, generation, *_ = requests[number].args
                        answers[number] = answer
                        self.cache_hook.add_partial("generate_until", (context, generation), answer)
                    bar.update(len(batch))
        return answers

    @torch.no_grad()
    def _answer(self, requests) -> list[str]:
        conversations = [self._read_conversation(request) for request in requests]
        generation, ends = read_generation(requests[0].args[2])
        inputs = self.processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.device)
        output = self.model.generate(**inputs, **self.defaults | generation)
        texts = self.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [cut(text, ends).strip() for text in texts]

    def _read_conversation(self, request) -> list[dict]:
        _, to_messages, _, index, task, split = request.args
        messages = make_messages(to_messages, self.task_dict[task][split][index])
        return [
            {"role": message["role"], "content": [read_part(part, task) for part in message["content"]]}
            for message in messages
        ]

    def loglikelihood(self, requests):
        raise NotImplementedError("SALMONN generates answers in lmms-eval: tasks of `loglikelihood` are not supported")

    def generate_until_multi_round(self, requests):
        raise NotImplementedError(
            "SALMONN answers in one round in lmms-eval: tasks of several rounds are not supported"
        )


def make_messages(to_messages, doc: dict) -> list[dict]:
    """
    The messages of a document. Those that a task does not make itself, lmms-eval makes of pictures and films only: it takes
    a clip as `datasets` decodes it for a film, or refuses it. They are made here in the same order, media and then text.
    """
    task = getattr(to_messages, "__self__", None)
    config = getattr(task, "config", None)
    if config is None or config.doc_to_messages is not None or config.doc_to_visual is None:
        return to_messages(doc)
    parts = [media if _is_part(media) else {"type": "audio", "url": media} for media in task.doc_to_visual(doc) or []]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": task.doc_to_text(doc)}]}]


def _is_part(media) -> bool:
    return isinstance(media, dict) and "type" in media


def read_part(part: dict, task: str) -> dict:
    """A part of a message as our processor takes it, its clip read. Raises `ValueError` on pictures and films."""
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    clip = part.get("url") or part
    if part["type"] != "audio" or not (isinstance(clip, (str, dict)) or hasattr(clip, "get_all_samples")):
        kind = part["type"] if part["type"] != "audio" else type(clip).__name__
        raise ValueError(f"`tasks` must be of text and audio for SALMONN, got {kind} in {task}.")
    if isinstance(clip, dict) and clip.get("array") is not None:
        samples = np.asarray(clip["array"])
        # of two axes the short one is that of channels: torchcodec's, as VoiceBench passes it on, come first
        clip = clip | {"array": samples.T if samples.ndim == 2 and samples.shape[0] < samples.shape[1] else samples}
    return {"type": "audio", "audio": read_audio(clip)}


def read_generation(settings: dict) -> tuple[dict, list[str]]:
    """Arguments of `generate` for the settings of a task, and what ends an answer besides."""
    settings = dict(settings)
    until = settings.pop("until", None) or []
    until = [until] if isinstance(until, str) else list(until)
    ends = [] if until == DEFAULT_UNTIL else [end for end in until if end]
    sampling = {name: settings.pop(name, None) for name in ("temperature", "top_p", "top_k")}
    temperature = sampling["temperature"]
    do_sample = settings.pop("do_sample", temperature is not None and temperature > 0)
    if do_sample and temperature == 0:
        do_sample = False  # lmms-eval's way to say that nothing is drawn
    if do_sample:
        settings |= {name: value for name, value in sampling.items() if value is not None}
    settings = {name: value for name, value in settings.items() if value is not None}
    return {**settings, "do_sample": bool(do_sample)}, ends


def cut(text: str, ends: list[str]) -> str:
    """`text` up to the first of `ends` in it."""
    found = [position for end in ends if (position := text.find(end)) >= 0]
    return text[: min(found)] if found else text
