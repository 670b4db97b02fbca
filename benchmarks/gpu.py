# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
SALMONN of 7B sizes on one GPU in bfloat16, beside Qwen2-Audio and Granite Speech with an LLM of the same sizes. Weights are
random: the time does not depend on them.

    python benchmarks/gpu.py encode                    clips of 30 s a second, batches of 1 to 64
    python benchmarks/gpu.py generate                  time to the first token and tokens a second, beside memory bandwidth
    python benchmarks/gpu.py train                     a step with LoRA, and its peak memory
    python benchmarks/gpu.py all --tiny                the same of tiny sizes, on whatever there is: a rehearsal

Each command is one call of less than ten minutes on an H200.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
)


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a clone that is not installed

from configuration_salmonn import SalmonnConfig  # noqa: E402
from modeling_salmonn import SalmonnForConditionalGeneration  # noqa: E402


LLM_7B = {
    **{"model_type": "llama", "vocab_size": 32001, "hidden_size": 4096, "intermediate_size": 11008},
    **{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "pad_token_id": 0},
}
LLM_TINY = {
    **{"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0},
}
TINY_WHISPER = {
    **{"encoder_layers": 1, "encoder_attention_heads": 4, "d_model": 32, "encoder_ffn_dim": 48},
}
QUESTION, ANSWER = 24, 128  # tokens
Inputs = Callable[[int], dict[str, torch.Tensor]]


def build(name: str, tiny: bool, device: str) -> tuple[torch.nn.Module, Inputs]:
    """A model with random weights, and what makes its inputs for so many clips of 30 s."""
    llm = dict(LLM_TINY if tiny else LLM_7B)
    audio_token = llm["vocab_size"] - 1
    if name == "SALMONN":
        small = {"speech_config": {"model_type": "whisper", "num_mel_bins": 80, **TINY_WHISPER}}
        small |= {"beats_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}}
        small |= {"qformer_config": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}}
        config = SalmonnConfig(text_config=llm, audio_token_id=audio_token, **(small if tiny else {}))
        model_class, tokens = SalmonnForConditionalGeneration, config.num_audio_tokens(1500)
        audio = {"input_features": (config.num_mel_bins + config.num_fbank_bins, 3000)}
    elif name == "Qwen2-Audio":
        sizes = TINY_WHISPER if tiny else {}
        config = Qwen2AudioConfig(
            audio_config={"model_type": "qwen2_audio_encoder", **sizes}, text_config=llm, audio_token_index=audio_token
        )
        model_class, tokens = Qwen2AudioForConditionalGeneration, 750
        audio = {"input_features": (128, 3000), "feature_attention_mask": (3000,)}
    else:
        sizes = {"num_layers": 1, "hidden_dim": 32, "num_heads": 4} if tiny else {}
        projector = {"hidden_size": 32, "encoder_hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
        config = GraniteSpeechConfig(
            encoder_config={"model_type": "granite_speech_encoder", **sizes},
            projector_config={"model_type": "blip_2_qformer", **(projector if tiny else {})},
            text_config=llm,
            audio_token_id=audio_token,
            has_lora_adapter=False,
        )
        model_class = GraniteSpeechForConditionalGeneration
        # 1500 frames in windows of `window_size`, each of `window_size / downsample_rate` tokens
        tokens = -(-1500 // config.window_size) * (config.window_size // config.downsample_rate)
        audio = {"input_features": (1500, 160)}
    with torch.device(device):
        model = model_class._from_config(config, dtype=torch.bfloat16).eval()

    def inputs(batch: int) -> dict[str, torch.Tensor]:
        ids = torch.full((batch, tokens + QUESTION), 3, device=device)
        ids[:, 4 : 4 + tokens] = audio_token
        features = {
            key: torch.ones(batch, *shape, dtype=torch.long, device=device)
            if key.endswith("mask")
            else torch.randn(batch, *shape, device=device, dtype=torch.bfloat16)
            for key, shape in audio.items()
        }
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **features}

    return model, inputs


def clock(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median seconds of a run, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], float | None]]:
    """GiB that were in use at most inside; None on a CPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def find_bandwidth(device: str, tiny: bool) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(2**20 if tiny else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / clock(lambda: target.copy_(source), 5, device)


@torch.no_grad()
def encode(model, inputs: Inputs, options) -> Iterator[dict]:
    for batch in options.batches:
        features = {k: v for k, v in inputs(batch).items() if "features" in k or k == "feature_attention_mask"}
        if hasattr(model, "get_audio_features"):
            seconds = clock(lambda: model.get_audio_features(**features), options.repeats, options.device)
        else:  # Qwen2-Audio has no method of its own for it
            mel, base = features["input_features"], getattr(model, "model", model)
            seconds = clock(
                lambda: base.multi_modal_projector(base.audio_tower(mel, attention_mask=None).last_hidden_state),
                options.repeats,
                options.device,
            )
        yield {"batch": batch, "clips_per_second": batch / seconds}


@torch.no_grad()
def generate(model, inputs: Inputs, options) -> Iterator[dict]:
    bandwidth = find_bandwidth(options.device, options.tiny)
    llm = getattr(model, "model", model).language_model
    size = sum(p.numel() * p.element_size() for p in llm.parameters())
    length = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for batch in options.batches:
        prompt = inputs(batch)
        first = clock(lambda: model.generate(**prompt, max_new_tokens=1, **length), options.repeats, options.device)
        whole = clock(lambda: model.generate(**prompt, max_new_tokens=ANSWER, **length), 1, options.device)
        token = (whole - first) / (ANSWER - 1)
        yield {
            "batch": batch,
            "first_token_seconds": first,
            "tokens_per_second": batch / token,
            "share_of_bandwidth": size / token / bandwidth,  # weights are read once for each token of a batch
        }


def train(model, inputs: Inputs, options) -> Iterator[dict]:
    from peft import LoraConfig, inject_adapter_in_model

    llm = getattr(model, "model", model).language_model
    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"]), llm)
    model.train()
    for batch in [b for b in options.batches if b <= 16]:
        prompt = inputs(batch)
        labels = prompt["input_ids"].masked_fill(prompt["input_ids"] != 3, -100)

        def step():
            model(**prompt, labels=labels).loss.backward()
            model.zero_grad(set_to_none=True)

        with peak_memory(options.device) as peak:
            seconds = clock(step, options.repeats, options.device)
            yield {"batch": batch, "steps_per_second": 1 / seconds, "peak_gib": peak()}


QUESTIONS = {"encode": encode, "generate": generate, "train": train}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=[*QUESTIONS, "all"])
    parser.add_argument("--models", nargs="+", default=["SALMONN", "Qwen2-Audio", "Granite Speech"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that all of it runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    if options.device == "cpu" and not options.tiny:
        parser.error("models of 7B need a GPU; --tiny runs anywhere")
    rows = []
    for name in options.models:
        for question in QUESTIONS if options.question == "all" else [options.question]:
            model, inputs = build(name, options.tiny, options.device)
            for numbers in QUESTIONS[question](model, inputs, options):
                rows.append({"model": name, "question": question, **numbers})
                print(json.dumps(rows[-1]), flush=True)
            del model, inputs
            if options.device == "cuda":
                torch.cuda.empty_cache()
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
