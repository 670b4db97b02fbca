# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What encoding a clip costs, beside the least that it can: its matrix products, convolutions and attention alone.

    python benchmarks/encoders.py                                  Whisper-base and BEATs-base, random weights
    python benchmarks/encoders.py --seconds 3 10 30 --output runs/benchmarks
"""

from collections.abc import Callable

import numpy as np
import torch
from side_by_side import Benchmark
from torch.overrides import TorchFunctionMode

from configuration_salmonn import SalmonnConfig
from feature_extraction_salmonn import SalmonnFeatureExtractor
from modeling_salmonn import SalmonnModel


RATE = 16000
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
        self.calls: list[Callable[[], torch.Tensor]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.linear:
            rows, weight = args[0].reshape(-1, args[0].shape[-1]), args[1].T
            self.calls.append(lambda: torch.mm(rows, weight))
        elif function in (torch.conv1d, torch.conv2d):
            self.calls.append(lambda: function(*args, **kwargs))
        elif function is torch.nn.functional.scaled_dot_product_attention:
            self.calls.append(lambda: function(*args[:3]))  # without its mask
        return function(*args, **kwargs)

    def run(self) -> None:
        for call in self.calls:
            call()


def encode(model: SalmonnModel, extractor: SalmonnFeatureExtractor, clips: list[np.ndarray]):
    """A function that encodes the clips, and one that runs nothing but their matrix products."""
    inputs = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad(), Products() as products:
        model.get_audio_features(**inputs)
    return lambda: model.get_audio_features(**inputs), products.run


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument(
        "--seconds", type=float, nargs="*", default=[3.0, 10.0, 30.0], help="lengths of clips"
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
                "its matrix products alone": padded_floor,
                "at its real length": short,
                "its matrix products alone ": short_floor,
            },
        )
    lengths = (1.5, 2, 3, 4, 6, 8, 12, 20)
    clips = [clip(seconds, seed) for seed, seconds in enumerate(lengths)]
    together, _ = encode(*real, clips)
    alone = [encode(*real, [one])[0] for one in clips]
    ordered, _ = zip(*(encode(*real, clips[first : first + 4]) for first in (0, 4)))
    benchmark.compare(
        f"clips of {', '.join(f'{length:g}' for length in lengths)} s at their real lengths",
        {
            "one by one": lambda: [run() for run in alone],
            "one batch": together,
            "two batches by length": lambda: [run() for run in ordered],
        },
    )
    benchmark.save(options.output, "encoders")


if __name__ == "__main__":
    main()
