"""Models on several devices, with parts on none while they do not run, and exported."""

import pytest
import torch

from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import VARIANTS, ask, noise, question, tiny_config, tiny_model, tiny_processor


def test_device_map_and_attention_by_part(tmp_path):
    tiny_model(tiny_config()).save_pretrained(tmp_path)
    model = SalmonnForConditionalGeneration.from_pretrained(
        tmp_path, device_map="auto", attn_implementation={"text_config": "eager", "beats_config": "sdpa"}
    )
    assert model.model.language_model.config._attn_implementation == "eager"
    assert model.model.beats.config._attn_implementation == "sdpa"
    assert model.model.speech_encoder.config is model.config.speech_config
    model.set_attn_implementation("eager")
    assert model.model.beats.config._attn_implementation == "eager"
    assert model.device.type == "cpu"


@pytest.mark.parametrize("connector", ["qformer", "linear", "cross attention"])
def test_what_belongs_together_is_never_split_over_devices(connector):
    model = tiny_model(tiny_config(**VARIANTS[connector]))
    layers = {"BeatsEncoderLayer", "BeatsPositionalConvEmbedding", "WhisperEncoderLayer", "LlamaDecoderLayer"}
    assert layers | {type(model.model.connector).__name__} <= set(model._no_split_modules)


@pytest.mark.parametrize("connector", ["qformer", "linear", "cross attention"])
def test_every_part_can_be_offloaded(connector, tmp_path):
    """Weights on disk are there only while their own module runs: none may be read past it."""
    config = tiny_config(**VARIANTS[connector])
    inputs = ask(tiny_processor(config), question(noise(2.3, 1)))
    model = tiny_model(config)
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path / "model")
    parts = [f"model.{name}" for name, _ in model.model.named_children()] + ["lm_head"]
    for offloaded in (parts[:3], parts[3:]):
        places = {part: "disk" if part in offloaded else "cpu" for part in parts}
        loaded = SalmonnForConditionalGeneration.from_pretrained(
            tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
        )
        torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=0)


def test_exported_encoders_take_any_number_of_segments():
    model = tiny_model(tiny_config()).model

    class Hearing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_features, input_features_mask):
            return self.model.get_audio_features(input_features, input_features_mask, return_dict=True).pooler_output

    features = tiny_processor(tiny_config()).feature_extractor(
        [noise(2), noise(3), noise(1)], 16000, return_tensors="pt"
    )
    inputs = features["input_features"], features["input_features_mask"]
    segments = torch.export.Dim("segments", max=8)
    with torch.no_grad():
        exported = torch.export.export(
            Hearing(), tuple(x[:2] for x in inputs), dynamic_shapes=({0: segments}, {0: segments})
        )
        torch.testing.assert_close(exported.module()(*inputs), Hearing()(*inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"speech_config": None}, {"fixed_length": False}])
def test_the_parts_of_generation_are_exported_with_the_encoder_of_audio(settings):
    config = tiny_config(segment_seconds=4, **settings)
    model, inputs = tiny_model(config), dict(ask(tiny_processor(config), question(noise(4, 1))))
    exporters = pytest.importorskip("transformers.exporters")
    exported = exporters.DynamoExporter().export_for_generation(model, inputs, exporters.DynamoConfig()).components
    assert {"audio_encoder", "connector", "language_model", "lm_head", "decode"} <= set(exported)
    features = {name: inputs[name] for name in ("input_features", "input_features_mask", "segment_ids")}
    program = exported["audio_encoder"].program.module()
    with torch.no_grad():
        expected = model.get_encoder("audio")(**features, return_dict=True).last_hidden_state
        torch.testing.assert_close(program(**features).last_hidden_state, expected, atol=1e-5, rtol=0)
