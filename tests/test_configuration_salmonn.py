"""Lengths, defaults and errors of the configuration, and the sizes of the released models."""

import json

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, Qwen2Config

from configuration_beats import BeatsConfig
from configuration_salmonn import SalmonnConfig, count_windows, seconds_to_frames
from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import tiny_config


@pytest.mark.parametrize(("seconds", "frames"), [(0.333333, 17), (0.25, 12), (0.35, 18), (0.1, 5), (30, 1500)])
def test_seconds_become_frames_as_in_the_released_code(seconds, frames):
    assert seconds_to_frames(seconds) == frames


@pytest.mark.parametrize("window", [1, 5, 17])
@pytest.mark.parametrize("stride", [1, 3, 17])
def test_windows_are_counted_as_unfold_counts_them(window, stride):
    for frames in range(window, 60):
        assert count_windows(frames, window, stride) == torch.arange(frames).unfold(0, window, stride).shape[0]
        starts = count_windows(frames, window, stride, pad_last_window=True)
        assert (starts - 2) * stride + window < frames <= (starts - 1) * stride + window or starts == 1
    lengths = torch.arange(1, 60)
    expected = [count_windows(int(length), window, stride) for length in lengths]
    assert count_windows(lengths, window, stride).tolist() == expected


def test_a_segment_shorter_than_a_window_has_one_window():
    assert count_windows(3, 17, 17) == count_windows(3, 17, 17, pad_last_window=True) == 1


def test_default_is_the_released_13b_model():
    config = SalmonnConfig()
    assert (config.window_frames, config.stride_frames, config.num_audio_tokens(1500)) == (17, 17, 88)
    assert SalmonnConfig(pad_last_window=True).num_audio_tokens(1500) == 89  # the papers' formula
    assert config.encoder_width == config.qformer_config.encoder_hidden_size == 1280 + 768
    assert config.audio_config is config.speech_config
    assert (config.segment_columns, config.count_frames(3000)) == (3000, 1500)


def test_beats_alone():
    config = tiny_config(speech_config=None, segment_seconds=10)
    assert config.encoder_width == config.qformer_config.encoder_hidden_size == config.beats_config.hidden_size
    assert config.audio_config is config.beats_config and config.num_mel_bins == 0 and config.num_fbank_bins == 128
    # 10 s have 998 filter bank frames, which are 62 columns of 8 patches, which are 29 windows of 17
    assert (config.segment_columns, config.count_frames(1000), config.num_audio_tokens(496)) == (1000, 496, 29)
    assert config.count_frames(torch.tensor([1000, 100])).tolist() == [496, 48]
    assert SalmonnConfig(speech_config=None).segment_seconds == 30


@pytest.mark.parametrize(("llm", "total"), [("13b", 33.33), ("7b", 30.18)])
def test_the_trained_part_has_the_papers_number_of_parameters(llm, total):
    """About 33 M (arXiv 2310.13289, section 4.1): Q-Former, projection and LoRA."""
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    text_config = {"model_type": "llama", "vocab_size": 32001} | sizes
    config = SalmonnConfig() if llm == "13b" else SalmonnConfig(text_config=text_config)
    with torch.device("meta"):
        model = SalmonnForConditionalGeneration(config)
        adapted = get_peft_model(model, model.lora_config())
    counts = {"lora": 0, "projection": 0, "layer_norm": 0, "qformer": 0, "query_tokens": 0}
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            part = "layer_norm" if ".model.speech_layer_norm" in name or "beats_layer_norm" in name else None
            part = part or next(part for part in ("lora", "projection", "qformer", "query_tokens") if part in name)
            counts[part] += parameter.numel()
    counts["qformer"] += counts["query_tokens"]
    expected = {"13b": (22.84, 3.94, 6.55), "7b": (22.84, 3.15, 4.19)}[llm]
    measured = [counts[part] / 1e6 for part in ("qformer", "projection", "lora")]
    assert measured == pytest.approx(expected, abs=0.006)
    assert sum(measured) == pytest.approx(total, abs=0.006)
    assert counts["layer_norm"] == 2 * (1280 + 768)


@pytest.mark.parametrize(("window_seconds", "hidden_size", "millions"), [(0.1, 2048, 23.6), (0.4, 800, 24.6)])
def test_the_linear_connector_has_the_size_of_the_papers(window_seconds, hidden_size, millions):
    """arXiv 2309.13963, table 2: 23.6 M for 300 tokens and 24.6 M for 75."""
    config = SalmonnConfig(
        beats_config=None,
        connector_type="linear",
        window_seconds=window_seconds,
        stride_seconds=window_seconds,
        connector_hidden_size=hidden_size,
    )
    with torch.device("meta"):
        connector = SalmonnForConditionalGeneration(config).model.connector
    assert config.num_audio_tokens(1500) == 30 / window_seconds
    assert sum(parameter.numel() for parameter in connector.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_round_trip(tmp_path):
    for settings in (
        {},
        {"beats_config": None},
        {"speech_config": None},
        {"window_seconds": None, "num_query_tokens": 80},
        {"llm": "qwen2"},
    ):
        config = tiny_config(**settings)
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert loaded.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {"_name_or_path": ""}
        assert (loaded.beats_config is None) == (config.beats_config is None)
        assert (loaded.speech_config is None) == (config.speech_config is None)
        assert loaded.text_config.model_type == config.text_config.model_type
        assert loaded.encoder_width == config.encoder_width


def test_sub_configurations_may_be_objects():
    text_config = Qwen2Config(vocab_size=700, hidden_size=32, num_attention_heads=4, num_key_value_heads=2)
    config = tiny_config(text_config=text_config, beats_config=BeatsConfig(hidden_size=32, num_attention_heads=4))
    assert config.text_config is text_config


def test_the_sub_configuration_of_beats_loads_from_the_folder_of_the_whole(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    assert BeatsConfig.from_pretrained(tmp_path).hidden_size == 32
    assert json.loads((tmp_path / "config.json").read_text())["beats_config"]["model_type"] == "beats"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"connector_type": "mlp"}, "connector_type"),
        ({"num_query_tokens": 0}, "num_query_tokens"),
        ({"connector_type": "linear", "num_query_tokens": 2}, "num_query_tokens"),
        ({"connector_type": "linear", "window_seconds": None}, "window_seconds"),
        ({"window_seconds": 40.0}, "window_seconds"),
        ({"window_seconds": 0.001}, "window_seconds"),
        ({"stride_seconds": None}, "stride_seconds"),
        ({"stride_seconds": 0.0}, "stride_seconds"),
        ({"audio_token_id": 601}, "audio_token_id"),
        ({"transcription_prompt_ids": [1, 5]}, "transcription_prompt_ids"),
        ({"connector_type": "cross_attention", "connector_num_attention_heads": 5}, "connector_num_attention_heads"),
        (
            {"speech_config": None, "beats_config": None},
            "`speech_config` and `beats_config` must be given, got None for both",
        ),
        ({"text_config": {"model_type": "gemma2", "vocab_size": 601, "hidden_size": 32}}, "final_logit_softcapping"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segment_seconds": 10}, "`segment_seconds` must be 30 with this `speech_config`, .* got 10"),
        ({"speech_config": None, "segment_seconds": 0}, "`segment_seconds` must be at least 1, got 0"),
        ({"speech_config": None, "beats_config": {"num_mel_bins": 64}}, "patches of 16 and 128 filter banks"),
        ({"speech_config": None, "segment_seconds": 2, "window_seconds": 3.0}, "`window_seconds` must be between"),
    ],
)
def test_segments_that_the_encoders_do_not_have_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SalmonnConfig(**settings)
