# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Makes `fixtures/tiny_llm.safetensors`, the LLM of `tiny_training.py`:

    PYTHONPATH=. python tests/make_tiny_llm.py

A LLaMA of two layers learns to read: the embeddings of two words stand somewhere among five audio tokens, in noise.
Asked to transcribe, it repeats them; asked for a story, it goes on from them. It learns all phrasings of the bank.
"""

import logging

import numpy as np
import torch
from safetensors.torch import save_file
from tiny_training import LLM_FILE, TEXTS, make_story, small_config, small_processor
from torch import nn

from data_salmonn.prompts import PromptBank
from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import AUDIO_TOKEN_ID, question


STEPS, BATCH_SIZE, LEARNING_RATE = 2000, 48, 3e-3
logger = logging.getLogger(__name__)


def make_rows(processor) -> dict[str, torch.Tensor]:
    """Every text with every phrasing of both tasks, as the processor makes batches, and the two words as tokens."""
    bank, batch = PromptBank.load(), {"input_ids": [], "attention_mask": [], "labels": [], "words": []}
    asked = [(task, prompt) for task in ("asr", "story") for prompt in bank[task].prompts["en"]]
    for number, text in enumerate(TEXTS):
        conversations = [
            question(np.full(24000, 0.1, "float32"), text=prompt, answer=text if task == "asr" else make_story(number))
            for task, prompt in asked
        ]
        inputs = processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={
                "output_labels": True,
                "padding_side": "right",
                "padding": "max_length",
                "max_length": 96,
            },
        )
        for name in ("input_ids", "attention_mask", "labels"):
            batch[name].append(inputs[name])
        words = processor.tokenizer(text, add_special_tokens=False).input_ids
        batch["words"].append(torch.tensor([words] * len(asked)))
    return {name: torch.cat(parts) for name, parts in batch.items()}


def hear(table: torch.Tensor, row: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """
    Embeddings `(rows, length, hidden)` in which two of the audio tokens, in order, are words, more or less clearly, and
    the rest noise.
    """
    embeds = table[row["input_ids"]].clone()
    loudness = torch.empty(len(embeds), 1, 1).uniform_(0.1, 1.0, generator=generator)
    noise = loudness * table.std() * torch.randn(*embeds.shape, generator=generator)
    is_audio = row["input_ids"] == AUDIO_TOKEN_ID
    embeds = torch.where(is_audio[..., None], noise, embeds)
    for i, words in enumerate(row["words"]):
        places = is_audio[i].nonzero()[:, 0]
        chosen = places[torch.randperm(len(places), generator=generator)[: len(words)].sort().values]
        embeds[i, chosen] += table[words] * torch.empty(len(words), 1).uniform_(0.5, 1.5, generator=generator)
    return embeds


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = SalmonnForConditionalGeneration._from_config(small_config())
    table = model.get_input_embeddings().weight.requires_grad_(False).mul_(20)
    parts = nn.ModuleList([model.model.language_model.layers, model.model.language_model.norm, model.lm_head])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.05)
    rows = make_rows(small_processor())
    for step in range(STEPS):
        index = torch.randint(len(rows["words"]), (BATCH_SIZE,), generator=generator)
        row = {name: values[index] for name, values in rows.items()}
        embeds = hear(table, row, generator)
        logits = model(inputs_embeds=embeds, attention_mask=row["attention_mask"]).logits
        # smoothed: who is sure of everything passes no gradient on to the ears
        loss = nn.functional.cross_entropy(
            logits[:, :-1, :AUDIO_TOKEN_ID].flatten(0, 1), row["labels"][:, 1:].flatten(), label_smoothing=0.1
        )
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            logger.info("%d %.4f", step, loss.item())
    weights = {**model.model.language_model.state_dict(), "lm_head.weight": model.lm_head.weight}
    save_file({name: tensor.detach().half().contiguous() for name, tensor in weights.items()}, LLM_FILE)


if __name__ == "__main__":
    main()
