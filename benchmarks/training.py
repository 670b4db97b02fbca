# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What a step of training costs, with and without the cache of the frozen encoders' features.

    python benchmarks/training.py                          salmonn-nano: LoRA, connector and norms
    python benchmarks/training.py --model ./base --batch-size 8 --seconds 10 --output runs/benchmarks
    python benchmarks/training.py --compute                computed: what the cache can save at the released sizes

Computed are the operations of the encoders, which the cache saves, and of the LLM's forward and backward pass, which stay:
counted on tensors without data.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from side_by_side import Benchmark
from torch.utils.flop_counter import FlopCounterMode
from training_memory import QUESTION_TOKENS, RELEASED

from audio_encoder_salmonn import known_frames
from cli_salmonn.inference import load
from configuration_salmonn import SalmonnConfig
from demo_salmonn.demo import find_nano
from modeling_salmonn import SalmonnForConditionalGeneration
from training_salmonn.collator import SalmonnDataCollator
from training_salmonn.feature_cache import FeatureCache
from training_salmonn.frozen_encoders import freeze_encoders


RATE = 16000
FRAMES_PER_SECOND = 100  # of filter banks


def count_operations(config: SalmonnConfig, seconds: float) -> tuple[float, float]:
    """Operations for a clip: of the encoders, and of the LLM with frozen weights, forward and backward."""
    frames = round(seconds * FRAMES_PER_SECOND) - 2
    columns = config.segment_columns if config.fixed_length else frames + 2
    with torch.device("meta"):
        model = SalmonnForConditionalGeneration(config).eval().requires_grad_(False)
        encoder = model.model.audio_encoder
        features = torch.empty(1, config.num_mel_bins + config.num_fbank_bins, columns)
        (audio_tokens,) = encoder.count_audio_tokens([frames], columns)
        embeds = torch.empty(1, audio_tokens + QUESTION_TOKENS, config.text_config.hidden_size, requires_grad=True)
        with FlopCounterMode(display=False) as hearing:
            with known_frames([frames]):
                encoder(features, torch.ones(1, columns))
        with FlopCounterMode(display=False) as reading:
            tokens = embeds.shape[1]
            mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool)  # one that Transformers does not look into
            output = model.model.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
            model.lm_head(output.last_hidden_state).sum().backward()
    return hearing.get_total_flops(), reading.get_total_flops()


def compute(seconds: float) -> None:
    sizes = {"salmonn-nano": SalmonnConfig.from_pretrained(find_nano())}
    sizes |= {f"SALMONN-{name}": SalmonnConfig(**settings) for name, settings in RELEASED.items()}
    print(
        f"a clip of {seconds:g} s, {QUESTION_TOKENS} tokens of text\n{'':<24}{'encoders':>10}{'LLM':>10}{'cached step':>13}"
    )
    for name, config in sizes.items():
        hearing, reading = count_operations(config, seconds)
        print(f"  {name:<22}{hearing / 1e12:>9.2f}T{reading / 1e12:>9.2f}T{reading / (hearing + reading):>13.2f}")


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument(
        "--model", type=Path, help="folder of a model with an adapter (default: salmonn-nano)"
    )
    benchmark.parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip (default: 10)")
    benchmark.parser.add_argument("--batch-size", type=int, default=4)
    benchmark.parser.add_argument("--compute", action="store_true", help="count operations and measure nothing")
    options = benchmark.parse_args()
    if options.compute:
        return compute(options.seconds)
    model, processor = load(options.model or find_nano())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or "modules_to_save" in name)
    model.freeze_encoders().train()
    rng = np.random.default_rng(0)
    rows = [
        {
            "audio": {
                "array": rng.normal(0, 0.1, round(options.seconds * RATE)).astype("float32"),
                "sampling_rate": RATE,
            },
            "text": "A dog barks, and somebody laughs in the distance.",
            "task": "audiocaption",
        }
        for _ in range(options.batch_size)
    ]
    collator = SalmonnDataCollator(processor)

    def step(collate) -> None:
        with torch.enable_grad():
            model(**collate(rows)).loss.backward()
        model.zero_grad()

    batch = collator(rows)
    embeds = model.get_audio_features(
        **{name: batch[name] for name in processor.feature_extractor.model_input_names}
    ).pooler_output.detach()
    tokens = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    benchmark.compare(
        f"{options.batch_size} clips of {options.seconds:g} s, encoded in each step",
        {
            "a step": lambda: step(collator),
            "of it, the loader": lambda: collator(rows),
            "of it, the LLM, forward and backward": lambda: step(lambda _: tokens | {"audio_embeds": embeds}),
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        freeze_encoders(model)
        cache = FeatureCache(folder, model, processor.feature_extractor)
        cache.build([row["audio"]["array"] for row in rows])
        cached = SalmonnDataCollator(cache.cached_processor(processor))
        benchmark.compare(
            f"{options.batch_size} clips of {options.seconds:g} s, from the cache",
            {"a step": lambda: step(cached), "of it, the loader": lambda: cached(rows)},
        )
    benchmark.save(options.output, "training")


if __name__ == "__main__":
    main()
