# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""One question about one clip to a model that is in memory, and how likely an answer to it is."""

import numpy as np
import torch


def make_conversation(clip: np.ndarray, prompt: str | None, answer: str | None = None) -> list[dict]:
    """A clip and what is asked about it, which may be nothing, and the answer."""
    content = [{"type": "audio", "audio": clip}]
    if prompt:
        content.append({"type": "text", "text": prompt})
    conversation = [{"role": "user", "content": content}]
    return conversation if answer is None else [*conversation, {"role": "assistant", "content": answer}]


@torch.no_grad()
def answer_loss(
    model, processor, clip: np.ndarray, prompt: str | None, answer: str, audio_embeds: torch.Tensor | None = None
) -> tuple[float, int, torch.Tensor]:
    """
    Mean -log P of the tokens of `answer`, in nats, how many there are, and the embeddings of `clip`, `(samples,)` of
    16 kHz. Given as `audio_embeds` the next time, they are not computed again: what is heard does not depend on what is
    asked.
    """
    inputs = processor.apply_chat_template(
        [make_conversation(clip, prompt, answer)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"output_labels": True},
    ).to(model.device)
    features = {key: inputs.pop(key) for key in ("input_features", "input_features_mask", "segment_ids")}
    if audio_embeds is None:
        audio_embeds = model.get_audio_features(**features, return_dict=True).pooler_output
    loss = model(**inputs, audio_embeds=audio_embeds).loss.item()
    return loss, int((inputs["labels"] >= 0).sum()), audio_embeds


@torch.no_grad()
def ask(model, processor, clip: np.ndarray, prompt: str | None, **generation) -> list[tuple[str, bool]]:
    """
    Answers to `prompt` about `clip`, `(samples,)` of 16 kHz, each with whether the model came to an end by itself.

    `generation` goes to `generate`: with `num_return_sequences` there are as many answers.
    """
    inputs = processor.apply_chat_template(
        [make_conversation(clip, prompt)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)
    output = model.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1] :]
    endings = model.generation_config.eos_token_id
    endings = torch.as_tensor(processor.tokenizer.eos_token_id if endings is None else endings, device=output.device)
    finished = torch.isin(output, endings).any(-1).tolist()
    texts = processor.batch_decode(output, skip_special_tokens=True)
    return [(text.strip(), is_finished) for text, is_finished in zip(texts, finished)]
