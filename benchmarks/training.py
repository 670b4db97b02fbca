# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What a step of training costs, with and without the cache of the frozen encoders' features.

    python benchmarks/training.py                          salmonn-nano: LoRA, connector and norms
    python benchmarks/training.py --model ./base --batch-size 8 --seconds 10 --output runs/benchmarks
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from side_by_side import Benchmark

from cli_salmonn.inference import load
from demo_salmonn.demo import find_nano
from training_salmonn.collator import SalmonnDataCollator
from training_salmonn.feature_cache import FeatureCache
from training_salmonn.frozen_encoders import freeze_encoders


RATE = 16000


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument(
        "--model", type=Path, help="folder of a model with an adapter (default: salmonn-nano)"
    )
    benchmark.parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip (default: 10)")
    benchmark.parser.add_argument("--batch-size", type=int, default=4)
    options = benchmark.parse_args()
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
