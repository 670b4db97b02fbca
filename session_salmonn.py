# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Several questions about the same clips: each clip is encoded once, and what prompts begin with is computed once.

    session = SalmonnSession(model, processor, "clip.wav")
    session.ask("Who speaks?")
    session.ask("What about?", remember=True)
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache
from transformers.utils import logging

from loops_salmonn import find_loop


logger = logging.get_logger(__name__)

_PLACEHOLDER_CLIP = np.zeros(1, dtype=np.float32)  # stands for a clip in a prompt that is rendered as text


@dataclass(eq=False)
class _Prefix:
    """What one prompt and its answer left: their ids, the audio in them, and keys and values of all but the last id."""

    input_ids: torch.LongTensor  # (tokens,)
    audio_embeds: torch.Tensor  # (audio_tokens, hidden_size)
    lora_scale: float | None
    head_mask: torch.Tensor | None
    keys_and_values: DynamicCache


class PromptCache:
    """
    Generates like the model's `generate`, and computes only what no earlier prompt began with.

    Keys and values of a token depend on all before it: those of the prompts and answers so far are kept, and the next
    prompt goes on from the one with which it shares the longest beginning. Answers are those of `generate`, up to
    rounding.

    Args:
        model (`SalmonnForConditionalGeneration`):
            The model. Its weights must not change.
        size (`int`, *optional*, defaults to 2):
            How many prompts are remembered. Each takes the memory of its keys and values.
    """

    def __init__(self, model, size: int = 2):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"`size` must be an integer of at least 1, got {size!r}.")
        self.model, self.size = model, size
        self._prefixes: list[_Prefix] = []

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor,
        audio_embeds: torch.Tensor,
        lora_scale: float | None = None,
        head_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.LongTensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(1, sequence_length)`):
                One prompt, without padding, with a placeholder for each audio token.
            audio_embeds (`torch.Tensor` of shape `(audio_tokens, hidden_size)`):
                `pooler_output` of `get_audio_features` for the clips of the prompt.
            lora_scale (`float`, *optional*):
                As for `generate`. Prompts with another one share nothing.
            head_mask (`torch.Tensor` of shape `(num_hidden_layers, num_attention_heads)`, *optional*):
                As for `generate`. Prompts with another one share nothing.
            kwargs (`dict`, *optional*):
                Passed on to `generate`. Beams and several sequences are searched without what is kept.

        Returns:
            `torch.LongTensor` of shape `(1, sequence_length + new_tokens)`: prompt and continuation.

        Raises:
            ValueError: if `input_ids` is not one prompt.
        """
        if input_ids.ndim != 2 or len(input_ids) != 1:
            raise ValueError(f"`input_ids` must be of shape (1, sequence_length), got {tuple(input_ids.shape)}.")
        kwargs |= {"attention_mask": torch.ones_like(input_ids), "lora_scale": lora_scale}
        if head_mask is not None:
            kwargs["head_mask"] = head_mask
        if not self._has_one_sequence(kwargs):
            return self.model.generate(input_ids, audio_embeds=audio_embeds, **kwargs)

        is_audio = input_ids[0] == self.model.config.audio_token_id
        self.model.model.check_placeholders(is_audio.sum(), len(audio_embeds))
        length, cache = self._take_longest(input_ids[0], audio_embeds, lora_scale, head_mask)
        heard = int(is_audio[:length].sum())
        if heard < len(audio_embeds):
            kwargs["audio_embeds"] = audio_embeds[heard:]
        output = self.model.generate(input_ids, past_key_values=cache, **kwargs)
        ids = output[0, : cache.get_seq_length()]
        self._prefixes = [*self._prefixes, _Prefix(ids, audio_embeds, lora_scale, head_mask, cache)][-self.size :]
        return output

    def _has_one_sequence(self, kwargs: dict) -> bool:
        config = kwargs.get("generation_config") or self.model.generation_config
        plain = all(
            (kwargs.get(name) or getattr(config, name, None) or 1) == 1
            for name in ("num_beams", "num_return_sequences")
        )
        # these keep caches of their own
        other = ("assistant_model", "prompt_lookup_num_tokens", "cache_implementation", "return_dict_in_generate")
        return plain and not any(kwargs.get(name) or getattr(config, name, None) for name in other)

    def _take_longest(
        self,
        input_ids: torch.LongTensor,
        audio_embeds: torch.Tensor,
        lora_scale: float | None,
        head_mask: torch.Tensor | None,
    ) -> tuple[int, DynamicCache]:
        """The keys and values that can be gone on from, cut to the tokens that are the same, and how many these are."""
        lengths = [
            self._common_length(prefix, input_ids, audio_embeds)
            if prefix.lora_scale == lora_scale and prefix.head_mask is head_mask
            else 0
            for prefix in self._prefixes
        ]
        if max(lengths, default=0) == 0:
            return 0, DynamicCache(config=self.model.config.get_text_config(decoder=True))
        best = lengths.index(max(lengths))
        prefix, length = self._prefixes[best], lengths[best]
        # a sliding window forgets what it would have to go back to, and a state cannot go back at all
        can_be_cut = all(layer.is_croppable and not layer.is_sliding for layer in prefix.keys_and_values.layers)
        if length < len(prefix.input_ids) and not can_be_cut:
            return 0, DynamicCache(config=self.model.config.get_text_config(decoder=True))
        del self._prefixes[best]  # it is changed from here on
        prefix.keys_and_values.crop(length - len(prefix.input_ids))
        return length, prefix.keys_and_values

    def _common_length(self, prefix: _Prefix, input_ids: torch.LongTensor, audio_embeds: torch.Tensor) -> int:
        """
        Tokens that the prompt has in common with an earlier one, of which one at least is left to be computed. None
        unless a clip begins among them: keys and values are not cut down, and lost for other clips, for a few words.
        """
        length = min(len(prefix.input_ids), len(input_ids) - 1)
        same = prefix.input_ids[:length] == input_ids[:length]
        positions = (input_ids[:length] == self.model.config.audio_token_id).nonzero().flatten()
        rows = min(len(positions), len(prefix.audio_embeds))
        same[positions[:rows]] &= (prefix.audio_embeds[:rows] == audio_embeds[:rows]).all(-1)
        length = int(same.long().cumprod(0).sum())
        return length if len(positions) and length > positions[0] else 0


class SalmonnSession:
    """
    Questions about the same clips, each answered as if it were the first unless it is to be remembered.

    Args:
        model (`SalmonnForConditionalGeneration`):
            The model, on its device.
        processor (`SalmonnProcessor`):
            Its processor.
        audio (`np.ndarray`, `torch.Tensor`, `str` or list of these):
            The clips: waveforms of shape `(samples,)` at the rate of the processor, paths or URLs. They stand in each
            prompt in this order, before the first question.
        generation (`dict`, *optional*):
            What is passed on to `generate` with each question.

    Raises:
        ValueError: if there is no clip, or one cannot be read.
    """

    def __init__(self, model, processor, audio, **generation):
        self.model, self.processor, self.generation = model, processor, generation
        self.turns: list[tuple[str, str]] = []  # questions and answers so far
        self._cache = PromptCache(model)
        clips = list(audio) if isinstance(audio, (list, tuple)) else [audio]
        inputs = processor(text=processor.audio_token * len(clips), audio=clips, return_tensors="pt")
        features = {name: inputs[name].to(model.device) for name in processor.feature_extractor.model_input_names}
        self.audio_tokens = model._count_audio_tokens(**features)
        with torch.no_grad():
            self.audio_embeds = model.get_audio_features(**features, return_dict=True).pooler_output

    def ask(self, question: str, remember: bool = False, **generation) -> str:
        """
        What the model answers.

        Args:
            question (`str`):
                What is asked about the clips.
            remember (`bool`, *optional*, defaults to `False`):
                Whether the model sees the questions and answers of the session so far.
            generation (`dict`, *optional*):
                Passed on to `generate`, before what the session was given: `lora_scale`, `max_new_tokens`, ...
        """
        generation = self.generation | generation
        may_be_empty = generation.get("head_mask") is not None  # which stands for an instruction
        if not isinstance(question, str) or not (question.strip() or may_be_empty):
            raise ValueError(f"`question` must be a text that is not empty, got {question!r}.")
        history = self.turns if remember else []
        input_ids = make_prompt(self.processor, self.audio_tokens, [*history, (question, None)])
        output = self._cache.generate(input_ids.to(self.model.device), self.audio_embeds, **generation)
        if find_loop(output[0, input_ids.shape[1] :].tolist()) is not None:
            logger.warning("An answer says the same words over and over.")
        answer = self.processor.decode(output[0, input_ids.shape[1] :], skip_special_tokens=True).strip()
        self.turns.append((question, answer))
        return answer


def make_prompt(processor, audio_tokens: Sequence[int], turns: Sequence[tuple[str, str | None]]) -> torch.LongTensor:
    """
    Ids of a prompt as the processor makes them from clips, without the clips.

    Args:
        processor (`SalmonnProcessor`):
            The processor.
        audio_tokens (`list[int]`):
            Audio tokens of each clip. The clips stand before the first question.
        turns (`list[tuple[str, str]]`):
            Questions with their answers, the last with `None`.

    Returns:
        `torch.LongTensor` of shape `(1, sequence_length)`.
    """
    messages = []
    for number, (asked, answered) in enumerate(turns):
        clips = [{"type": "audio", "audio": _PLACEHOLDER_CLIP} for _ in audio_tokens] if number == 0 else []
        messages.append({"role": "user", "content": [*clips, {"type": "text", "text": asked}]})
        if answered is not None:
            messages.append({"role": "assistant", "content": answered})
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expanded = (processor.audio_token * count for count in audio_tokens)
    text = "".join(itertools.chain(*itertools.zip_longest(text.split(processor.audio_token), expanded, fillvalue="")))
    # as in `apply_chat_template`: a template may have written the first token of the text already
    bos_token = processor.tokenizer.bos_token
    has_bos = bos_token is not None and text.startswith(bos_token)
    return processor.tokenizer(text, add_special_tokens=not has_bos, return_tensors="pt").input_ids


__all__ = ["PromptCache", "SalmonnSession"]
