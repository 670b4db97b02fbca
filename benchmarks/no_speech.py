# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
How often a model that transcribes writes words about clips in which nothing is said, and how often the verdict of a BEATs,
"nothing is said", is wrong.

    salmonn nano make speech data/speech/test_unseen_voice --split test_unseen_voice --count 200
    salmonn nano make sounds data/sounds/test --split test --count 200
    python benchmarks/no_speech.py ./salmonn-nano --tagger checkpoints/salmonn-nano/beats \\
        --speech data/speech/test_unseen_voice --sounds data/sounds/test

Silence, constants, noise and hum are made here, from a seed. Without MODEL nothing is transcribed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed

from beats_salmonn import SpeechDetector
from beats_salmonn.speech import NO_SPEECH_THRESHOLD
from data_salmonn.audio import read_audio


RATE = 16000
KINDS = ("silence", "constant", "white noise", "pink noise", "brown noise", "hum")
LEVELS = (-60, -40, -20, -6)  # dB of full scale
THRESHOLDS = (0.5, 0.9, 0.95, 0.99)
SNRS = (20, 10, 0)  # dB


def make_noise(kind: str, level: float, seconds: float, draw: np.random.Generator) -> np.ndarray:
    """A clip of 16 kHz whose loudest sample is `level` dB of full scale."""
    count = round(seconds * RATE)
    if kind == "silence":
        return np.zeros(count, np.float32)
    if kind == "constant":
        samples = np.ones(count)
    elif kind == "hum":
        time, mains = np.arange(count) / RATE, draw.choice([50, 60])
        samples = sum(
            draw.uniform(0, 1) / n * np.sin(2 * np.pi * n * mains * time + draw.uniform(0, 6)) for n in range(1, 8)
        )
    else:
        slope = {"white noise": 0, "pink noise": 0.5, "brown noise": 1}[kind]
        spectrum = np.fft.rfft(draw.standard_normal(count)) / np.maximum(1, np.arange(count // 2 + 1)) ** slope
        samples = np.fft.irfft(spectrum, count)
    return (samples / np.abs(samples).max() * 10 ** (level / 20)).astype(np.float32)


def make_noises(count: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """`count` clips of 0.5 to 6 s, of all kinds and levels in turn."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        kind, level = KINDS[number % len(KINDS)], LEVELS[number // len(KINDS) % len(LEVELS)]
        yield kind, make_noise(kind, level, draw.uniform(0.5, 6), draw)


def read_clips(folder: str) -> Iterator[np.ndarray]:
    for path in tqdm(sorted(Path(folder).rglob("*.wav")), desc=folder, leave=False, disable=None):
        yield read_audio(path)


def add_noise(clip: np.ndarray, decibels: float, draw: np.random.Generator) -> np.ndarray:
    """A clip in pink noise that is `decibels` less powerful."""
    noise = make_noise("pink noise", 0, len(clip) / RATE, draw)[: len(clip)]
    noise = np.pad(noise, (0, len(clip) - len(noise)))
    return clip + noise * np.sqrt((clip**2).mean() / (noise**2).mean()) * 10 ** (-decibels / 20)


def share(flags) -> str:
    return f"{sum(flags)} of {len(flags)}"


def print_rates(name: str, probs: list[float]) -> None:
    rates = [f"{100 * np.mean(np.array(probs) > threshold):6.1f}" for threshold in THRESHOLDS]
    print(f"{name:28} {len(probs):5} " + " ".join(rates), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a SALMONN")
    parser.add_argument("--tagger", required=True, help="a BEATs with a classifier")
    parser.add_argument("--clips", type=int, default=120, help="of silence and noise (default: 120)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speech", nargs="*", default=[], help="folders of WAV files in which something is said")
    parser.add_argument("--sounds", nargs="*", default=[], help="folders of WAV files in which nothing is said")
    options = parser.parse_args()
    detector = SpeechDetector(options.tagger)

    noises = list(make_noises(options.clips, options.seed))
    print(
        f"{'nothing is said, by a threshold of':28} clips " + " ".join(f"{threshold:6g}" for threshold in THRESHOLDS)
    )
    probs = [detector.no_speech_prob(clip) for _, clip in noises]
    for kind in KINDS:
        print_rates(kind, [prob for prob, (other, _) in zip(probs, noises) if other == kind])
    for folder in options.sounds:
        print_rates(f"{folder}", [detector.no_speech_prob(clip) for clip in read_clips(folder)])
    for folder in options.speech:
        print_rates(f"{folder}", [detector.no_speech_prob(clip) for clip in read_clips(folder)])
        for decibels in SNRS:
            draw = np.random.default_rng(options.seed)
            noisy = [detector.no_speech_prob(add_noise(clip, decibels, draw)) for clip in read_clips(folder)]
            print_rates(f"  in pink noise, {decibels} dB", noisy)

    if options.model is not None:
        from cli_salmonn.inference import Listener, load
        from data_salmonn.transcripts import join
        from nano_salmonn.data_makers.quiet import NO_SPEECH  # what salmonn-nano is taught to write of such clips

        listener = Listener(*load(options.model))
        texts = [join(listener.transcribe(clip)) for _, clip in tqdm(noises, desc="Transcribing", disable=None)]
        print(f"\n{'something is transcribed':28} without the verdict, with it")
        for kind in KINDS:
            of_kind = [(text, prob) for text, prob, (other, _) in zip(texts, probs, noises) if other == kind]
            said = [text not in ("", NO_SPEECH) for text, _ in of_kind]
            left = [is_said and prob <= NO_SPEECH_THRESHOLD for is_said, (_, prob) in zip(said, of_kind)]
            example = next((text for (text, _), is_said in zip(of_kind, said) if is_said), "")
            print(f"{kind:28} {share(said)}, {share(left)}, such as {example!r}")


if __name__ == "__main__":
    main()
