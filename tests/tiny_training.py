# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What the tests of training train: a SALMONN with random ears and an LLM that reads, sixteen clips of two tones, and
recipes for both on disk.

The LLM (`fixtures/tiny_llm.safetensors`, made by `make_tiny_llm.py`) has been taught to repeat the two words that stand
among five audio tokens, or to begin a story with them; a random one could not be steered by what it hears.
"""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file

from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import LLMS, tiny_config, tiny_processor
from training_salmonn.recipes import Recipe, load_recipe


LLM_FILE = Path(__file__).parent / "fixtures" / "tiny_llm.safetensors"
NOUNS = ("dog", "car", "man", "people")
VERBS = ("talk", "hear", "write", "describe")
TEXTS = [f"{noun} {verb}" for verb in VERBS for noun in NOUNS]


def make_story(number: int) -> str:
    """What the LLM tells about the clip of `TEXTS[number]`: eight words that begin with those heard."""
    noun, verb = number % 4, number // 4
    return " ".join(f"{NOUNS[(noun + i) % 4]} {VERBS[(verb + i) % 4]}" for i in range(4))


def small_config(segment_seconds: int = 2, **settings):
    """Segments of 2 s, which make 5 audio tokens."""
    speech_config = {"model_type": "whisper", "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4}
    text_config = {"vocab_size": 601, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    beats_config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    qformer_config = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    defaults = {
        "speech_config": speech_config | {"encoder_ffn_dim": 48, "num_mel_bins": 80, "max_source_positions": 100},
        "beats_config": beats_config | {"patch_embed_dim": 24},
        "qformer_config": qformer_config | {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96},
        "text_config": text_config | {"num_attention_heads": 4} | LLMS["llama"],
    }
    return tiny_config(segment_seconds=segment_seconds, **defaults | settings)


def small_model(seed: int = 0, **settings) -> SalmonnForConditionalGeneration:
    """Ears are random, and large enough to hear by; the LLM is the one that reads."""
    torch.manual_seed(seed)
    model = SalmonnForConditionalGeneration._from_config(small_config(**settings))
    with torch.no_grad():
        for part in filter(None, (model.model.speech_encoder, model.model.beats)):
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    weights = {name: tensor.float() for name, tensor in load_file(LLM_FILE).items()}
    model.lm_head.weight.data = weights.pop("lm_head.weight")
    model.model.language_model.load_state_dict(weights)
    model.generation_config.pad_token_id = 0
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    return model.eval()


def add_adapter(model, seed: int = 0):
    """An adapter with LoRA that matters."""
    torch.manual_seed(seed)
    model.add_adapter(model.lora_config(lora_dropout=0.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=2.0)
    return model.eval()


def small_processor(**settings):
    return tiny_processor(small_config(**settings))


def tones(number: int, seconds: float = 1.5) -> np.ndarray:
    """The clip of `TEXTS[number]`: one of four low tones for the noun, then one of four high ones for the verb."""
    time = np.arange(int(16000 * seconds)) / 16000
    low, high = 200 * 1.5 ** (number % 4), 1200 * 1.4 ** (number // 4)
    clip = np.where(time < seconds / 2, np.sin(2 * np.pi * low * time), np.sin(2 * np.pi * high * time))
    hiss = np.random.default_rng(number).standard_normal(len(time))
    return (0.3 * clip + 0.002 * hiss).astype(np.float32)


def save_model(folder: Path, **settings) -> Path:
    """A model and its processor, on disk as users have them."""
    small_model(**settings).save_pretrained(folder)
    small_processor(**settings).save_pretrained(folder)
    return folder


def save_clips(folder: Path, task: str = "asr", texts: list[str] | None = None) -> Path:
    """Sixteen clips and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / f"{task}.jsonl"
    with open(manifest, "w", encoding="utf-8") as file:
        for number, text in enumerate(texts or TEXTS):
            soundfile.write(folder / f"{number}.wav", tones(number), 16000)
            file.write(json.dumps({"path": f"{number}.wav", "text": text, "task": task}) + "\n")
    return manifest


# What makes seconds of a shipped recipe: steps and sizes. What it trains, on what and how, stays as it is shipped.
SHRUNK = {
    "model_dtype": "float32",
    "bf16": False,
    "lora_dropout": 0.0,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "max_steps": 30,
    "learning_rate": 3e-4,
    "lora_learning_rate": None,
    "warmup_steps": 5,
    "weight_decay": 0.0,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": None,
    "dataloader_num_workers": 0,
    "train_sampling_strategy": "random",
    "generation_max_new_tokens": 12,
    "concatenate_probability": 0.0,
    "feature_cache": None,
    "logging_strategy": "no",  # curves would be drawn, which takes longer than the steps
    "save_strategy": "no",
    "report_to": ["none"],
}
SHRUNK_TASKS = {
    "alignment": {"max_steps": 40, "learning_rate": 0.01},
    "longform": {"concatenate_max_seconds": 8.0},
    "activate": {
        **{"per_device_train_batch_size": 1, "max_steps": 12, "learning_rate": 5e-3, "lr_scheduler_type": "constant"},
        **{"warmup_steps": 0, "logging_strategy": "steps", "logging_steps": 1},
        **{"num_answers": 4, "answer_min_words": 3, "answer_max_new_tokens": 12},
    },
}


def shrink(name: str | Path, **fields) -> dict:
    """Fields that make seconds of the shipped recipe `name`, and then `fields`."""
    fields = SHRUNK | SHRUNK_TASKS.get(name, {}) | fields
    return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}


def load_shrunk(name: str | Path, **fields) -> Recipe:
    """The shipped recipe `name`, made small, with `fields`."""
    return load_recipe(name, **shrink(name, **fields))
