# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Questions about clips: a clip is encoded once, asked about as often as one likes, and answers come token by token.

    listener = Listener(model, processor)
    clip = listener.listen("clip.wav")
    for answer in listener.ask([clip], "What happens here?"):
        print(answer.text)  # as far as it has been written

Nothing here knows of a page: `demo_salmonn.web` shows it.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from demo_salmonn.limits import Limits
from demo_salmonn.meter import PartMeter, PartUse
from session_salmonn import PromptCache, make_prompt


READABLE = "WAV, FLAC, OGG and MP3 files can be read"


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """
    A clip that the model has heard.

    `samples` are of shape `(samples,)` at `sampling_rate`, `log_mel` is what Whisper reads, `(mel_bins, frames)` at 100 frames a
    second, and `audio_embeds`, `(audio_tokens, hidden_size)`, what the LLM reads. `parts` is what encoding took.
    """

    name: str
    path: str
    samples: np.ndarray
    sampling_rate: int
    log_mel: np.ndarray
    audio_embeds: torch.Tensor
    segments: int
    parts: Mapping[str, PartUse]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sampling_rate

    @property
    def audio_tokens(self) -> int:
        return len(self.audio_embeds)

    @property
    def encoding_seconds(self) -> float:
        return sum(use.seconds for use in self.parts.values())


@dataclass(frozen=True)
class Answer:
    """
    An answer, or as much of it as has been written.

    `ending` is `None` while it is written, and then why it ended: `"complete"`, `"length"` (as long as was allowed) or
    `"time"` (no longer allowed). `seconds` counts from the moment that the model began with it.
    """

    question: str
    lora_scale: float
    text: str = ""
    audio_tokens: int = 0
    text_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    parts: Mapping[str, PartUse] = field(default_factory=dict)
    ending: str | None = None


class Listener:
    """
    A model that listens to clips and is asked about them. It may be called from several threads, which then wait for
    one another: the strength of LoRA, and what the meter watches, are properties of the model.

    Args:
        model (`SalmonnForConditionalGeneration`): the model, on its device.
        processor (`SalmonnProcessor`): its processor.
        limits (`Limits`, *optional*): what one question may take.
    """

    def __init__(self, model, processor, limits: Limits | None = None):
        self.model, self.processor, self.limits = model, processor, limits or Limits()
        self.has_lora = any("lora_" in name for name, _ in model.named_parameters())
        self._lock = threading.Lock()
        self._cache = PromptCache(model, size=4)  # of a few visitors, or of a few strengths of LoRA

    @property
    def sampling_rate(self) -> int:
        return self.processor.feature_extractor.sampling_rate

    def listen(self, path: str | Path, name: str | None = None) -> EncodedClip:
        """
        Reads and encodes the audio file `path`, shown as `name`.

        Raises `ValueError`, in a sentence for the visitor, if it is no audio, holds none, or is too long.
        """
        name = name or Path(path).name
        samples = self._read(path, name)
        meter = PartMeter()
        with self._lock, torch.no_grad():
            with meter.part("features"):
                inputs = self.processor.feature_extractor(samples, self.sampling_rate, return_tensors="pt")
            features, mask = inputs["input_features"], inputs["input_features_mask"]
            with meter.watch(self.model):
                embeds = self.model.get_audio_features(
                    features.to(self.model.device), mask.to(self.model.device), return_dict=True
                ).pooler_output
        mel_bins = self.model.config.num_mel_bins or self.model.config.num_fbank_bins
        frames = -(-len(samples) // self.processor.feature_extractor.hop_length)
        log_mel = features[:, :mel_bins].transpose(0, 1).flatten(1)[:, :frames]  # segments side by side
        return EncodedClip(
            name=name,
            path=str(path),
            samples=samples,
            sampling_rate=self.sampling_rate,
            log_mel=log_mel.numpy(),
            audio_embeds=embeds,
            segments=len(features),
            parts=dict(meter.parts),
        )

    def _read(self, path: str | Path, name: str) -> np.ndarray:
        """Samples of a file, whose length is looked at before it is decoded."""
        from cli_salmonn.audio_files import read_clip

        longest = self.limits.clip_seconds
        # not every format that can be decoded has a header that soundfile knows
        with contextlib.suppress(soundfile.SoundFileError):
            header = soundfile.info(str(path))
            if header.frames == 0:
                raise ValueError(f"“{name}” holds no sound: it is 0 s long.")
            self._check_length(header.frames / header.samplerate, name)
        try:
            samples = read_clip(path)
        except ValueError as error:
            raise ValueError(f"“{name}” cannot be read as audio. {READABLE}, of up to {longest:g} s.") from error
        self._check_length(len(samples) / self.sampling_rate, name)
        return samples

    def _check_length(self, seconds: float, name: str) -> None:
        if seconds > self.limits.clip_seconds:
            raise ValueError(f"“{name}” is {seconds:.0f} s long; at most {self.limits.clip_seconds:g} s are taken.")

    def ask(
        self,
        clips: Sequence[EncodedClip],
        question: str,
        lora_scale: float = 1.0,
        max_new_tokens: int | None = None,
        history: Sequence[tuple[str, str]] = (),
    ) -> Iterator[Answer]:
        """
        Asks about clips that have been listened to, in one prompt in this order.

        Args:
            clips: what is asked about.
            question: what is asked.
            lora_scale: strength of LoRA, 1 as trained, 0 off.
            max_new_tokens: longest answer, `limits.new_tokens` unless given.
            history: earlier questions and answers about the same clips that the model is to remember.

        Returns:
            An iterator over the answer as it grows; the last one has an `ending`. Closing the iterator stops the model.

        Raises:
            ValueError: in a sentence for the visitor, at once, on what cannot be asked.
        """
        limits = self.limits
        max_new_tokens = limits.new_tokens if max_new_tokens is None else max_new_tokens
        if not isinstance(question, str) or not question.strip():
            raise ValueError("There is no question: write one, or choose a task.")
        if len(question) > limits.question_characters:
            raise ValueError(
                f"The question has {len(question)} characters; at most {limits.question_characters} are taken."
            )
        if not clips:
            raise ValueError("There is no clip to ask about: add one first.")
        if len(clips) > limits.clips:
            raise ValueError(f"The question is about {len(clips)} clips; at most {limits.clips} are taken at once.")
        if not 1 <= max_new_tokens <= limits.new_tokens or int(max_new_tokens) != max_new_tokens:
            raise ValueError(f"The longest answer must be 1 to {limits.new_tokens} tokens, got {max_new_tokens}.")
        if not 0 <= lora_scale <= 1:
            raise ValueError(f"The strength of LoRA must be a number from 0 to 1, got {lora_scale}.")
        if lora_scale != 1 and not self.has_lora:
            raise ValueError("This model has no LoRA adapter, so its strength cannot be changed.")
        turns = [*history, (question.strip(), None)]
        input_ids = make_prompt(self.processor, [clip.audio_tokens for clip in clips], turns)
        self._check_context(input_ids.shape[1], int(max_new_tokens))
        audio_tokens = sum(clip.audio_tokens for clip in clips)
        text_tokens = input_ids.shape[1] - audio_tokens
        start = Answer(question.strip(), float(lora_scale), audio_tokens=audio_tokens, text_tokens=text_tokens)
        return self._stream(start, input_ids, torch.cat([clip.audio_embeds for clip in clips]), int(max_new_tokens))

    def _check_context(self, prompt_tokens: int, new_tokens: int) -> None:
        context = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if context is not None and prompt_tokens + new_tokens > context:
            raise ValueError(
                f"Clips, question and answer take up to {prompt_tokens + new_tokens} tokens, but this model's LLM has "
                f"room for {context}: ask about fewer or shorter clips."
            )

    def _stream(
        self, start: Answer, input_ids: torch.LongTensor, audio_embeds: torch.Tensor, max_new_tokens: int
    ) -> Iterator[Answer]:
        tokens: queue.SimpleQueue = queue.SimpleQueue()  # of ids, then of None or of what went wrong
        meter, stop = PartMeter(), _Stop(self.limits.answer_seconds)
        device = self.model.device

        def generate():
            problem = None
            try:
                with self._lock, meter.watch(self.model):
                    stop.start()
                    self._cache.generate(
                        input_ids.to(device),
                        audio_embeds,
                        lora_scale=start.lora_scale if self.has_lora else None,
                        max_new_tokens=max_new_tokens,
                        num_beams=1,  # tokens of a beam search are not final before its end
                        stopping_criteria=[stop],
                        streamer=_QueueStreamer(tokens),
                    )
            except Exception as error:
                problem = error  # raised again where the answer is waited for
            tokens.put(problem)

        ids: list[int] = []
        answer = start
        threading.Thread(target=generate, daemon=True).start()
        try:
            while isinstance(item := tokens.get(), int):
                ids.append(item)
                text = self.processor.decode(ids, skip_special_tokens=True).strip()
                answer = replace(answer, text=text.removesuffix("\ufffd"), new_tokens=len(ids), seconds=stop.seconds)
                yield answer
            if item is not None:
                raise item
            ending = "complete" if ids and ids[-1] in self._end_ids() else "time" if stop.is_late else "length"
            text = self.processor.decode(ids, skip_special_tokens=True).strip()
            yield replace(answer, text=text, seconds=stop.seconds, parts=dict(meter.parts), ending=ending)
        finally:
            stop.cancelled.set()

    def _end_ids(self) -> list[int]:
        ids = self.model.generation_config.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


class _Stop(StoppingCriteria):
    """Ends generation when its time is over, or when nobody waits for the answer any more."""

    def __init__(self, most_seconds: float):
        self.most_seconds, self.cancelled, self.is_late = most_seconds, threading.Event(), False
        self._start = time.perf_counter()

    def start(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        self.is_late = self.seconds > self.most_seconds
        return torch.full(input_ids.shape[:1], self.is_late or self.cancelled.is_set(), device=input_ids.device)


class _QueueStreamer(BaseStreamer):
    """Hands on each new token as soon as there is one."""

    def __init__(self, tokens: queue.SimpleQueue):
        self._tokens, self._prompt_is_next = tokens, True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_is_next:  # `generate` begins with the prompt
            self._prompt_is_next = False
            return
        for token in value.flatten().tolist():
            self._tokens.put(token)

    def end(self) -> None:
        """Nothing: `None` in the queue, put behind the last token, says that there is no more."""
