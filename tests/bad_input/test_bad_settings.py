# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Configurations and feature extractors: values of other types, sizes that no model has, numbers that are none."""

import pytest
import torch
from refusals import refuses

from configuration_beats import BeatsConfig
from feature_extraction_beats import BeatsFeatureExtractor
from feature_extraction_salmonn import SalmonnFeatureExtractor
from tiny_salmonn import noise, tiny_config


NAN, INF = float("nan"), float("inf")
QFORMER = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}

CONFIGS = [
    *[("connector_type", value) for value in (None, "nonsense", 5, "")],
    *[("num_query_tokens", value) for value in (1.5, 0, -1, 10**9, "1", None)],
    *[("window_seconds", value) for value in (NAN, INF, 0, -1, 0.001, 100, "1")],
    *[("stride_seconds", value) for value in (NAN, 0, -1, 0.5, 100, "1", None)],
    *[("audio_token_id", value) for value in (None, -1, 601, 10**9, 2, 1.5, "600")],
    *[("connector_num_attention_heads", value) for value in (0, -1, 10**9, "4")],
    *[("connector_hidden_size", value) for value in (0, -1, 10**9, 1.5)],
    *[("max_segments_at_once", value) for value in (0, -1, "1")],
    *[("max_audio_seconds", value) for value in (0, -1, NAN, "30")],
    *[("speech_config", value) for value in ([1], "whisper", 5, {"model_type": "bert"})],
    *[("beats_config", value) for value in (3, "beats", [1])],
    *[("text_config", value) for value in (5, "llama")],
    *[("hidden_size", {"qformer_config": {**QFORMER, "hidden_size": value}}) for value in (0, -1, 25, 10**9, "24")],
    *[("num_attention_heads", {"qformer_config": {**QFORMER, "num_attention_heads": value}}) for value in (0, -1, 5)],
    *[("num_hidden_layers", {"qformer_config": {**QFORMER, "num_hidden_layers": value}}) for value in (0, -1, 10**9)],
    *[("pad_last_window", value) for value in ("no", 1, None)],
    *[("fixed_length", value) for value in (2, "yes")],
    *[("transcription_prompt_ids", value) for value in ([1], [600, 600], "a", 5)],
    *[("dtype", value) for value in ("float99", "nonsense", "Tensor")],
    ("torch_dtype", "float99"),
    ("num_query_tokens", {"num_query_token": 3}),
    ("connector_hidden_size", {"conector_hidden_size": 24}),
]


@pytest.mark.parametrize(("name", "value"), CONFIGS)
def test_salmonn_configs(name, value):
    is_other = isinstance(value, dict) and name not in ("speech_config", "beats_config", "text_config")
    with refuses(f"`{name}`"):
        tiny_config(**(value if is_other else {name: value}))


BEATS_CONFIGS = [
    *[("num_hidden_layers", value) for value in (0, -1, 10**9, "2", 1.5)],
    *[("hidden_size", value) for value in (0, -1, 769, 10**12, "768")],
    *[("num_attention_heads", value) for value in (0, 7, -1)],
    *[("intermediate_size", value) for value in (0, -4, 10**12)],
    *[("hidden_dropout", value) for value in (2, -0.1, NAN, "0.1")],
    *[("attention_dropout", value) for value in (1.01, NAN)],
    *[("layerdrop", value) for value in (-1, 2, NAN)],
    *[("layer_norm_eps", value) for value in (NAN, INF, -1.0)],
    *[("initializer_range", value) for value in (NAN, -1.0)],
    *[("hidden_act", value) for value in (5, "nonsense", None)],
    *[("fbank_std", value) for value in (0, -1, NAN, INF)],
    *[("fbank_mean", value) for value in (NAN, INF)],
    *[("num_buckets", value) for value in (0, 3, -4)],
    *[("max_bucket_distance", value) for value in (0, 80)],
    *[("num_mel_bins", value) for value in (0, 100, -16)],
    *[("patch_size", value) for value in (0, 7)],
    *[("num_conv_pos_embeddings", value) for value in (0, -1)],
    *[("num_conv_pos_embedding_groups", value) for value in (0, 7)],
    ("dtype", "float99"),
    ("torch_dtype", "Tensor"),
    ("hidden_size", {"hiden_size": 768}),
    ("num_hidden_layers", {"num_hiden_layers": 2}),
]


@pytest.mark.parametrize(("name", "value"), BEATS_CONFIGS)
def test_beats_configs(name, value):
    with refuses(f"`{name}`"):
        BeatsConfig(**(value if isinstance(value, dict) else {name: value}))
    with refuses(f"`{name}`"):
        tiny_config(beats_config=value if isinstance(value, dict) else {name: value})


def test_names_that_are_no_fields_are_said(caplog):
    """Files hold names of other tools, so they load; that a name has no effect is said."""
    with caplog.at_level("WARNING"):
        BeatsConfig(frobnication=1)
    assert "`frobnication` is no field of BeatsConfig" in caplog.text


EXTRACTORS = [
    *[(BeatsFeatureExtractor, "num_mel_bins", value) for value in (0, -3, 10**9, "128", 1.5, True)],
    *[(BeatsFeatureExtractor, "fbank_std", value) for value in (0, -1, NAN, INF, "1")],
    *[(BeatsFeatureExtractor, "fbank_mean", value) for value in (NAN, INF, 1e300, None)],
    *[(BeatsFeatureExtractor, "sampling_rate", value) for value in (0, 1, -1, NAN, "16000")],
    *[(BeatsFeatureExtractor, "padding_value", value) for value in (NAN, INF, "0")],
    (BeatsFeatureExtractor, "feature_size", 3),
    *[(SalmonnFeatureExtractor, "feature_size", value) for value in (-1, 10**9, "80", 1.5)],
    *[(SalmonnFeatureExtractor, "num_fbank_bins", value) for value in (-1, 10**9, None)],
    *[(SalmonnFeatureExtractor, "chunk_length", value) for value in (0, -1, 10**9, 1.5, "30")],
    *[(SalmonnFeatureExtractor, "hop_length", value) for value in (0, -160, 1.5)],
    *[(SalmonnFeatureExtractor, "n_fft", value) for value in (0, -1, "400")],
    *[(SalmonnFeatureExtractor, "sampling_rate", value) for value in (0, 1, -1, NAN, None)],
    *[(SalmonnFeatureExtractor, "padding_value", value) for value in (NAN, INF)],
    *[(SalmonnFeatureExtractor, "max_audio_seconds", value) for value in (0, -1, NAN, INF, "30")],
    *[(SalmonnFeatureExtractor, "fixed_length", value) for value in ("yes", 1, None)],
    *[(SalmonnFeatureExtractor, "fbank_std", value) for value in (0, NAN)],
]


@pytest.mark.parametrize(("extractor", "name", "value"), EXTRACTORS)
def test_settings_of_extractors(extractor, name, value):
    with refuses(f"`{name}`"):
        extractor(**{name: value})


@pytest.fixture(scope="module", params=[BeatsFeatureExtractor, SalmonnFeatureExtractor])
def extractor(request):
    return request.param()


CLIP = noise(1)
WAVEFORMS = {
    "None": None,
    "a string": "a.wav",
    "a number": 5,
    "a dict": {"array": CLIP},
    "empty": [],
    "an empty array": CLIP[:0],
    "an empty clip among others": [CLIP, CLIP[:0]],
    "two rows": CLIP.reshape(2, -1),
    "three axes": CLIP.reshape(1, 1, -1),
    "rows of unequal length": [[[0.1], [0.1, 0.2]]],
    "int16": (CLIP * 30000).astype("int16"),
    "int16 as floats": CLIP * 30000,
    "integers": [1, 2, 3],
    "complex": CLIP.astype("complex64"),
    "bool": CLIP > 0,
    "NaN": CLIP * NAN,
    "inf": [CLIP, CLIP * INF],
    "beyond float32": CLIP.astype("float64") * 1e300,
    "int16 as a tensor": torch.ones(16000, dtype=torch.int16),
    "NaN as a tensor": torch.full((16000,), NAN),
    "None among clips": [CLIP, None],
    "a string among clips": [CLIP, "a.wav"],
}


@pytest.mark.parametrize("case", WAVEFORMS)
def test_waveforms(extractor, case):
    with refuses("`raw_speech"):
        extractor(WAVEFORMS[case], sampling_rate=16000)


@pytest.mark.parametrize("rate", [None, 0, -1, 8000, 16001, "16000", NAN])
def test_rates(extractor, rate):
    with refuses("`sampling_rate`"):
        extractor(CLIP, sampling_rate=rate)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "", "cpu:x", 99])
def test_devices(extractor, device):
    with refuses("`device`"):
        extractor(CLIP, sampling_rate=16000, device=device)


@pytest.mark.parametrize("length", [0, -3, 1.5, "9"])
def test_lengths(length):
    with refuses("`max_length`"):
        BeatsFeatureExtractor()(CLIP, sampling_rate=16000, max_length=length, truncation=True)
