# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What can be wrong with a converted model when it answers: made clips, greedy, the same on every machine."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from conversion_salmonn.file_checks import FAILED, PASSED, SKIPPED, Check
from conversion_salmonn.loading import load_with_adapter
from data_salmonn.normalizers import get_normalizer


RATE = 16000
QUESTION = "Describe the sound in one sentence."
SENTENCE = "The weather is very nice today, and we will go for a walk."
MAX_NEW_TOKENS = 40
# How far logits of the same clip may be apart, in their standard deviations: the noise of rounding, and no more.
TOLERANCE = {torch.float32: 1e-3}
TOLERANCE_16_BIT = 0.1
LEAST_SHARE = 0.5  # of the words of a sentence, in what a model that works makes of it


def make_clips() -> list[np.ndarray]:
    """Noise, a rising tone and clicks, of 1, 2 and 3 seconds."""
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(RATE)
    seconds = np.arange(2 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * (300 * seconds + 200 * seconds**2))
    clicks = np.zeros(3 * RATE)
    clicks[:: RATE // 4] = 0.8
    return [clip.astype(np.float32) for clip in (noise, tone, clicks)]


def check_answers(
    folder: str | os.PathLike, speech: np.ndarray | None = None, device: str = "cpu", dtype: str = "float32"
) -> Iterator[Check]:
    """
    Loads the model in `folder` and checks what it answers.

    `speech` is [`SENTENCE`] spoken, float32 of 16 kHz; without it, it is not checked whether the model hears words.
    """
    try:
        model, processor = load_with_adapter(folder, dtype=dtype)
    except (ValueError, OSError, RuntimeError) as error:
        yield Check("loading", FAILED, f"the model cannot be loaded: {str(error).strip().splitlines()[0]}")
        return
    model = model.to(device)
    yield Check(
        "loading", PASSED, f"{model.num_parameters():,} parameters as {str(model.dtype).removeprefix('torch.')}"
    )
    yield from check_loaded(model, processor, speech)


@torch.no_grad()
def check_loaded(model, processor, speech: np.ndarray | None = None) -> Iterator[Check]:
    """The same for a model that is loaded, in eval mode."""
    clips = make_clips()
    together = _logits(model, processor, clips)
    alone = torch.cat([_logits(model, processor, [clip]) for clip in clips])
    limit = TOLERANCE.get(model.dtype, TOLERANCE_16_BIT)
    if not together.isfinite().all():
        yield Check(
            "finite logits",
            FAILED,
            "NaN or infinity: the weights are finite, so the dtype is too small for what is computed. Try bfloat16 or float32",
        )
        return
    yield Check("finite logits", PASSED, f"of {len(clips)} made clips")
    yield _compare_batch(together, alone, limit)
    yield _check_repeats(model, processor, clips[1])
    spread = _distance(alone[0], alone[1])
    if spread <= limit:
        yield Check(
            "audio matters",
            FAILED,
            f"noise and a tone give the same answer (logits {spread:.1e} apart): the connector is not trained, or not that "
            "of these encoders",
        )
    else:
        yield Check("audio matters", PASSED, f"logits of noise and of a tone are {spread:.2f} apart")
    yield _check_lora(model, processor, clips[0], alone[0], limit)
    yield _check_text(model, processor, clips[1])
    yield _check_speech(model, processor, speech)


def _inputs(model, processor, clips: Sequence[np.ndarray]):
    content = {"type": "text", "text": QUESTION}
    conversations = [[{"role": "user", "content": [{"type": "audio", "audio": clip}, content]}] for clip in clips]
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device)


def _logits(model, processor, clips: Sequence[np.ndarray]) -> torch.Tensor:
    """Of the first token of the answer to each clip, `(clips, vocabulary)`, float32 on the CPU."""
    return model(**_inputs(model, processor, clips), logits_to_keep=1).logits[:, -1].float().cpu()


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest difference of logits, in standard deviations of these."""
    return ((first - second).abs().max() / first.std()).item()


def _compare_batch(together: torch.Tensor, alone: torch.Tensor, limit: float) -> Check:
    apart = max(_distance(one, other) for one, other in zip(alone, together))
    if apart > limit:
        return Check(
            "batch as single",
            FAILED,
            f"clips in a batch get other logits than alone, {apart:.1e} standard deviations apart and at most {limit:g} are "
            "rounding: look at the padding side of the tokenizer, which must be left",
        )
    return Check("batch as single", PASSED, f"logits are {apart:.1e} apart")


def _check_repeats(model, processor, clip: np.ndarray) -> Check:
    inputs = _inputs(model, processor, [clip])
    first, second = (_answer(model, inputs) for _ in range(2))
    if not torch.equal(first, second):
        return Check(
            "same twice", FAILED, "the same question has two answers: dropout is on, or generation_config.json samples"
        )
    return Check("same twice", PASSED, f"{len(first)} tokens")


def _answer(model, inputs) -> torch.Tensor:
    """The ids of a greedy answer to one prompt."""
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, num_beams=1, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :].cpu()


def _check_lora(model, processor, clip: np.ndarray, logits: torch.Tensor, limit: float) -> Check:
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return Check("LoRA acts", SKIPPED, "there is none")
    with model._scale_lora(0.0):
        without = _logits(model, processor, [clip])[0]
    apart = _distance(logits, without)
    if apart <= limit:
        return Check("LoRA acts", FAILED, f"without it logits are the same ({apart:.1e} apart): it is not active")
    return Check("LoRA acts", PASSED, f"without it logits are {apart:.2f} apart")


def _check_text(model, processor, clip: np.ndarray) -> Check:
    ids = _answer(model, _inputs(model, processor, [clip])).tolist()
    text = processor.decode(ids, skip_special_tokens=True).strip()
    if not text:
        return Check(
            "an answer",
            FAILED,
            "the answer to a tone is empty: as a rule the LLM is not the one that the checkpoint was trained with, such as "
            "Vicuna 1.5 in the place of 1.1",
        )
    if len(ids) == MAX_NEW_TOKENS and len(set(ids)) < MAX_NEW_TOKENS // 8:
        return Check("an answer", FAILED, f"the answer to a tone repeats itself without end: {text[:60]!r}")
    return Check("an answer", PASSED, f"to a rising tone: {text[:80]!r}")


def _check_speech(model, processor, speech: np.ndarray | None) -> Check:
    if speech is None:
        return Check("speech", SKIPPED, "no voice: pip install espeakng-loader, or install espeak-ng")
    inputs = processor(audio=speech, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, num_beams=1, do_sample=False)
    text = processor.decode(output[0], skip_special_tokens=True).strip()
    normalize = get_normalizer("basic")
    said, heard = normalize(SENTENCE).split(), set(normalize(text).split())
    share = sum(word in heard for word in said) / len(said)
    if share < LEAST_SHARE:
        return Check(
            "speech",
            FAILED,
            f"{share:.0%} of the words of a spoken sentence are in its transcript, {text[:80]!r}: encoders, connector and "
            "LLM do not belong together, or are not trained",
        )
    return Check("speech", PASSED, f"{share:.0%} of the words of a spoken sentence: {text[:80]!r}")
