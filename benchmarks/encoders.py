# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What encoding a clip costs, beside the least that it can: its matrix products, convolutions and attention alone.

    python benchmarks/encoders.py                                  Whisper-base and BEATs-base, random weights
    python benchmarks/encoders.py --seconds 3 10 30 --output runs/benchmarks
"""

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from side_by_side import Benchmark
from torch.overrides import TorchFunctionMode

import audio_encoder_salmonn
from configuration_salmonn import SalmonnConfig
from feature_extraction_salmonn import SalmonnFeatureExtractor
from modeling_salmonn import SalmonnModel


RATE = 16000
BATCH = [1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0]  # seconds
WHISPER_BASE = {
    **{"model_type": "whisper", "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8},
    **{"encoder_ffn_dim": 2048, "num_mel_bins": 80},
}
QFORMER = {"hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 3072}
TINY_LLM = {
    **{"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 2},
}


def build(fixed_length: bool) -> tuple[SalmonnModel, SalmonnFeatureExtractor]:
    config = SalmonnConfig(
        speech_config=WHISPER_BASE,
        beats_config={},
        qformer_config=QFORMER,
        text_config=TINY_LLM,
        audio_token_id=63,
        fixed_length=fixed_length,
    )
    torch.manual_seed(0)
    model = SalmonnModel(config).eval()
    return model, SalmonnFeatureExtractor(fixed_length=fixed_length)


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


class Products(TorchFunctionMode):
    """Keeps the matrix products of what runs below it, to run them again alone."""

    def __init__(self):
        super().__init__()
        self.linears: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.others: list[Callable[[], torch.Tensor]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.linear:
            self.linears.append((args[0].reshape(-1, args[0].shape[-1]), args[1].T))
        elif function in (torch.conv1d, torch.conv2d):
            self.others.append(lambda: function(*args, **kwargs))
        elif function is torch.nn.functional.scaled_dot_product_attention:
            self.others.append(lambda: function(*args[:3]))  # without its mask
        return function(*args, **kwargs)

    def run(self) -> None:
        for rows, weight in self.linears:
            torch.mm(rows, weight)
        for call in self.others:
            call()


def stack(clips: list[Products]) -> Products:
    """The products of several clips, with the rows of all that meet the same weight below each other."""
    stacked = Products()
    stacked.linears = [
        (torch.cat([rows for rows, _ in calls]), calls[0][1]) for calls in zip(*(clip.linears for clip in clips))
    ]
    stacked.others = [call for clip in clips for call in clip.others]
    return stacked


def encode(model: SalmonnModel, extractor: SalmonnFeatureExtractor, clips: list[np.ndarray]):
    """A function that encodes the clips, and their matrix products."""
    inputs = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad(), Products() as products:
        model.get_audio_features(**inputs)
    return lambda: model.get_audio_features(**inputs), products


def in_one_pass(run: Callable[[], object]) -> None:
    """As long as the longest of a batch: what a GPU does."""
    with patch.object(audio_encoder_salmonn, "LEAST_SHARE_OF_AUDIO", 0.0):
        run()


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument(
        "--seconds", type=float, nargs="*", default=[3.0, 10.0, 30.0], help="lengths of clips"
    )
    benchmark.parser.add_argument(
        "--batch", type=float, nargs="+", default=BATCH, help="lengths of clips in one batch"
    )
    options = benchmark.parse_args()
    fixed, real = build(fixed_length=True), build(fixed_length=False)
    for seconds in options.seconds:
        padded, padded_floor = encode(*fixed, [clip(seconds)])
        short, short_floor = encode(*real, [clip(seconds)])
        benchmark.compare(
            f"a clip of {seconds:g} s",
            {
                "padded to 30 s, as released": padded,
                "its matrix products alone": padded_floor.run,
                "at its real length": short,
                "its matrix products alone ": short_floor.run,
            },
        )
    clips = [clip(seconds, seed) for seed, seconds in enumerate(options.batch)]
    together, _ = encode(*real, clips)
    alone, floors = zip(*(encode(*real, [one]) for one in clips))
    benchmark.compare(
        f"clips of {', '.join(f'{length:g}' for length in options.batch)} s at their real lengths",
        {
            "one by one": lambda: [run() for run in alone],
            "one batch": together,
            "one batch, all as long as the longest": lambda: in_one_pass(together),
            "matrix products, one by one": lambda: [floor.run() for floor in floors],
            "matrix products of all clips at once": stack(floors).run,
        },
    )
    benchmark.save(options.output, "encoders")


if __name__ == "__main__":
    main()
