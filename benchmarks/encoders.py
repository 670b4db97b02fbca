# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What encoding a clip costs, beside the least that it can: its matrix products, convolutions and attention alone.

    python benchmarks/encoders.py                                  Whisper-base and BEATs-base, random weights
    python benchmarks/encoders.py --seconds 3 10 30 --output runs/benchmarks
    python benchmarks/encoders.py --variants 10                    in bfloat16, in 8 bits (needs torchao), compiled
    python benchmarks/encoders.py --released ../SALMONN --released-python ../salmonn-env/bin/python

With `--released` the released code encodes the same lengths in turns: its folder (the branch `salmonn`), and the Python of an
environment that it runs in. It needs no torchaudio here: it gets filter banks.

    pip install torch==2.13.0 transformers==4.28.1 "numpy<2" peft==0.3.0 soundfile sentencepiece
"""

import copy
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from side_by_side import Benchmark
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.utils import is_torchao_available

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


class Released:
    """The released code, in a process of its own."""

    def __init__(self, folder: Path, python: str):
        command = [python, str(Path(__file__).with_name("released_encoders.py")), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        while line := self.process.stdout.readline():  # what it prints while it loads comes first
            if line.strip() == "ready":
                return
        raise ValueError(f"`--released-python` {python} cannot run the code in {folder}, see above.")

    def encode(self, seconds: float) -> float:
        """CPU seconds of a clip."""
        self.process.stdin.write(f"{seconds}\n")
        return float(self.process.stdout.readline())


def in_one_pass(run: Callable[[], object]) -> None:
    """As long as the longest of a batch: what a GPU does."""
    with patch.object(audio_encoder_salmonn, "LEAST_SHARE_OF_AUDIO", 0.0):
        run()


def in_other_numbers(model: PreTrainedModel) -> dict[str, PreTrainedModel]:
    """Copies in bfloat16, and, where torchao is installed, with encoders that multiply in integers of 8 bits."""
    copies = {"bfloat16": copy.deepcopy(model).bfloat16()}
    if is_torchao_available():
        copies["encoders of 8 bits"] = in_eight_bits(model)
    else:
        print("encoders of 8 bits are left out: pip install torchao")
    return copies


def in_eight_bits(model: PreTrainedModel) -> PreTrainedModel:
    """Weights are stored in 8 bits, activations are rounded to 8 bits as they come."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    audio_encoder = model.get_encoder("audio")
    for encoder in (audio_encoder.speech_encoder, audio_encoder.beats):
        if encoder is not None:
            quantize_(encoder, Int8DynamicActivationInt8WeightConfig())
    return model


def compare_variants(
    benchmark: Benchmark, model: SalmonnModel, extractor: SalmonnFeatureExtractor, seconds: float
) -> None:
    """Other numbers and compiled code: what they cost, and how far audio embeddings move."""
    inputs = extractor([clip(seconds)], sampling_rate=RATE, return_tensors="pt")
    compiled = copy.deepcopy(model)
    compiled.speech_encoder.compile()
    compiled.beats.compile()
    variants = {"float32": model, **in_other_numbers(model), "compiled": compiled}
    embeds = {}
    with torch.no_grad():
        for name, variant in variants.items():
            start = time.process_time()
            embeds[name] = variant.get_audio_features(**inputs).pooler_output.float()
            change = (embeds[name] - embeds["float32"]).norm() / embeds["float32"].norm()
            print(f"{name}: {time.process_time() - start:.1f} CPU s the first time, embeddings change by {change:.2%}")
    alternatives = {name: partial(variant.get_audio_features, **inputs) for name, variant in variants.items()}
    benchmark.compare(f"a clip of {seconds:g} s at its real length", alternatives)


def compare_batches(
    benchmark: Benchmark, model: SalmonnModel, extractor: SalmonnFeatureExtractor, lengths: list[float]
) -> None:
    """Clips of several lengths at once and one by one."""
    clips = [clip(seconds, seed) for seed, seconds in enumerate(lengths)]
    together, _ = encode(model, extractor, clips)
    alone, floors = zip(*(encode(model, extractor, [one]) for one in clips))
    benchmark.compare(
        f"clips of {', '.join(f'{length:g}' for length in lengths)} s at their real lengths",
        {
            "one by one": lambda: [run() for run in alone],
            "one batch": together,
            "one batch, all as long as the longest": lambda: in_one_pass(together),
            "matrix products, one by one": lambda: [floor.run() for floor in floors],
            "matrix products of all clips at once": stack(floors).run,
        },
    )


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument(
        "--seconds", type=float, nargs="*", default=[3.0, 10.0, 30.0], help="lengths of clips"
    )
    benchmark.parser.add_argument(
        "--batch", type=float, nargs="*", default=BATCH, help="lengths of clips in one batch"
    )
    benchmark.parser.add_argument(
        "--variants", type=float, nargs="*", default=[], help="lengths of clips in other numbers and compiled"
    )
    benchmark.parser.add_argument("--released", type=Path, metavar="FOLDER", help="folder of the released code")
    benchmark.parser.add_argument(
        "--released-python", metavar="PYTHON", help="Python that runs it (default: this one)"
    )
    options = benchmark.parse_args()
    released = options.released and Released(options.released, options.released_python or sys.executable)
    fixed, real = build(fixed_length=True), build(fixed_length=False)
    for seconds in options.seconds:
        padded, padded_floor = encode(*fixed, [clip(seconds)])
        short, short_floor = encode(*real, [clip(seconds)])
        alternatives = {
            "padded to 30 s": padded,
            "its matrix products alone": padded_floor.run,
            "at its real length": short,
            "its matrix products alone ": short_floor.run,
        }
        if released:
            alternatives = {"released code": partial(released.encode, seconds), **alternatives}
        benchmark.compare(f"a clip of {seconds:g} s", alternatives)
    for seconds in options.variants:
        compare_variants(benchmark, *real, seconds)
    if options.batch:
        compare_batches(benchmark, *real, options.batch)
    benchmark.save(options.output, "encoders")


if __name__ == "__main__":
    main()
