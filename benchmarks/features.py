# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What the features of a clip cost, beside Whisper's own extractor and kaldi-native-fbank.

    pip install kaldi-native-fbank
    python benchmarks/features.py --output runs/benchmarks
"""

import numpy as np
from side_by_side import Benchmark
from transformers import WhisperFeatureExtractor

from feature_extraction_beats import BeatsFeatureExtractor
from feature_extraction_salmonn import SalmonnFeatureExtractor


RATE = 16000


def kaldi_fbank(clip: np.ndarray):
    import kaldi_native_fbank as kaldi

    options = kaldi.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80  # it refuses the 128 of BEATs: some would hold no frequency
    fbank = kaldi.OnlineFbank(options)
    fbank.accept_waveform(RATE, (clip * 2**15).tolist())
    return np.stack([fbank.get_frame(index) for index in range(fbank.num_frames_ready)])


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 30.0], help="lengths of clips")
    options = benchmark.parse_args()
    whisper, beats = WhisperFeatureExtractor(), BeatsFeatureExtractor()
    fixed, real = SalmonnFeatureExtractor(), SalmonnFeatureExtractor(fixed_length=False)
    for seconds in options.seconds:
        clip = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
        alternatives = {
            "both, padded to 30 s": lambda: fixed(clip, sampling_rate=RATE),
            "both, at real length": lambda: real(clip, sampling_rate=RATE),
            "Whisper's extractor alone": lambda: whisper(clip, sampling_rate=RATE),
            "128 filter banks alone": lambda: beats(clip, sampling_rate=RATE),
        }
        try:
            kaldi_fbank(clip[:RATE])
            alternatives["80 filter banks by kaldi-native-fbank"] = lambda: kaldi_fbank(clip)
        except ImportError:
            print("kaldi-native-fbank is not installed and left out")
        benchmark.compare(f"a clip of {seconds:g} s", alternatives)
    benchmark.save(options.output, "features")


if __name__ == "__main__":
    main()
