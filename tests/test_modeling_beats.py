# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""BEATs: equal to the released code, blind to padding, at home in Transformers."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForAudioClassification, pipeline
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from configuration_beats import BeatsConfig
from conversion_salmonn.convert_beats import convert_beats, load_beats_checkpoint
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import (
    BeatsForAudioClassification,
    BeatsModel,
    BeatsPositionalConv,
    relative_position_buckets,
)


FIXTURES = Path(__file__).parent / "fixtures" / "beats"
EXPECTED = load_file(FIXTURES / "expected.safetensors")
ATTENTIONS = ["eager", "sdpa"]
TOLERANCE = {"atol": 5e-5, "rtol": 1e-5}


def tiny_config(**settings) -> BeatsConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"patch_embed_dim": 24, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    return BeatsConfig(**sizes | {"num_labels": 5} | settings)


def tiny_model(model_class=BeatsForAudioClassification, attention="eager", **settings):
    """A small model with random weights, large enough that everything in it matters to the output."""
    torch.manual_seed(0)
    model = model_class._from_config(tiny_config(**settings), attn_implementation=attention).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def clips() -> dict[str, torch.Tensor]:
    """Filter banks of the clips, each at least one second and at most 30 s long."""
    extractor = BeatsFeatureExtractor()
    with np.load(FIXTURES / "waveforms.npz") as file:
        waveforms = {name: file[name] / 2.0**15 for name in file.files}
    waveforms = {name: np.pad(clip[:480000], (0, max(0, 16000 - len(clip)))) for name, clip in waveforms.items()}
    return {name: torch.from_numpy(extractor.extract_fbank(clip[None])) for name, clip in waveforms.items()}


@pytest.fixture(scope="module", params=ATTENTIONS)
def released(request) -> BeatsForAudioClassification:
    """The released tiny checkpoint, once for each attention."""
    config, state, _ = load_beats_checkpoint(FIXTURES / "BEATs_tiny.pt")
    model = BeatsForAudioClassification._from_config(config, attn_implementation=request.param).eval()
    model.load_state_dict(state)
    return model


class TestReleasedCode:
    @pytest.mark.parametrize("name", ["short", "speech", "pair", "stereo", "long"])
    @torch.no_grad()
    def test_patches_and_outputs(self, released, clips, name):
        step = 41 if name == "long" else 5
        patches = []
        hook = released.beats.feature_projection.layer_norm.register_forward_hook(
            lambda *args: patches.append(args[2])
        )
        outputs = released.beats(clips[name])
        hook.remove()
        torch.testing.assert_close(patches[0][0, ::step], EXPECTED[f"{name}/beats_patch"], **TOLERANCE)
        torch.testing.assert_close(outputs.last_hidden_state[0, ::step], EXPECTED[f"{name}/beats_out"], **TOLERANCE)
        assert outputs.last_hidden_state.shape[1] == clips[name].shape[1] // 16 * 8

    @torch.no_grad()
    def test_layers_and_position_bias(self, released, clips):
        hidden_states = released.beats(clips["speech"], output_hidden_states=True).hidden_states
        assert len(hidden_states) == 3
        for index in range(2):
            expected = EXPECTED[f"speech/beats_layer{index}"]
            torch.testing.assert_close(hidden_states[index + 1][0, ::5], expected, **TOLERANCE)
        bias = released.beats.relative_attention_bias(112)
        torch.testing.assert_close(bias[0, :, :24], EXPECTED["speech/beats_pos_bias_head_q_k"], **TOLERANCE)

    @torch.no_grad()
    def test_classification(self, released, clips):
        probabilities = released(clips["speech"]).logits.sigmoid()
        torch.testing.assert_close(probabilities[0], EXPECTED["speech/probs"], atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_with_gradients_enabled_nothing_changes(self, released, clips):
        """Only without gradients do the layers share a buffer."""
        expected = released(clips["speech"]).logits
        with torch.enable_grad():
            torch.testing.assert_close(released(clips["speech"]).logits, expected, atol=1e-6, rtol=1e-6)

    @torch.no_grad()
    def test_self_supervised(self, clips):
        config, state, _ = load_beats_checkpoint(FIXTURES / "BEATs_tiny_ssl.pt")
        model = BeatsModel(config).eval()
        model.load_state_dict(state)
        hidden_states = model(clips["speech"]).last_hidden_state
        torch.testing.assert_close(hidden_states[0, ::5], EXPECTED["speech/ssl_beats_out"], **TOLERANCE)

    @torch.no_grad()
    def test_batch_equals_single_clips(self, released, clips):
        names = ["short", "stereo", "speech"]
        frames = max(clips[name].shape[1] for name in names)
        features = torch.zeros(3, frames, 128)
        mask = torch.zeros(3, frames, dtype=torch.long)
        for row, name in enumerate(names):
            features[row, : clips[name].shape[1]] = clips[name]
            mask[row, : clips[name].shape[1]] = 1
        hidden_states = released.beats(features, mask).last_hidden_state
        logits = released(features, mask).logits
        for row, name in enumerate(names):
            alone = released.beats(clips[name]).last_hidden_state[0]
            torch.testing.assert_close(hidden_states[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)
            assert not hidden_states[row, len(alone) :].any()
            torch.testing.assert_close(logits[row], released(clips[name]).logits[0], atol=1e-5, rtol=1e-5)


class TestPadding:
    @pytest.mark.parametrize("attention", ATTENTIONS)
    @pytest.mark.parametrize("frames", [16, 31, 32, 47, 70])
    @torch.no_grad()
    def test_padding_changes_nothing(self, attention, frames):
        model = tiny_model(attention=attention)
        features = torch.randn(2, 112, 128)
        mask = (torch.arange(112) < torch.tensor([[112], [frames]])).long()
        tokens = model._get_feat_extract_output_lengths(frames)
        # what stands in padded frames is nobody's business, beginning with those of a column that is not whole
        noise = torch.where(mask.bool()[..., None], features, 100.0)
        outputs = model(noise, mask, output_hidden_states=True)
        alone = model(features[1:, :frames], output_hidden_states=True)
        torch.testing.assert_close(outputs.logits[1:], alone.logits, atol=1e-5, rtol=1e-5)
        hidden_states = outputs.hidden_states[-1][1]
        torch.testing.assert_close(hidden_states[:tokens], alone.hidden_states[-1][0], atol=1e-5, rtol=1e-5)
        assert not hidden_states[tokens:].any()

    @pytest.mark.parametrize("attention", ATTENTIONS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_a_row_of_padding_is_zero_and_has_finite_gradients(self, attention, dtype):
        model = tiny_model(attention=attention).to(dtype)
        mask = torch.tensor([[1] * 40, [1] * 15 + [0] * 25])
        outputs = model(torch.randn(2, 40, 128), mask, output_hidden_states=True)
        assert outputs.logits.dtype == dtype
        assert not outputs.hidden_states[-1][1].any()
        assert not outputs.logits[1].any()
        outputs.logits.float().sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())

    def test_token_mask(self):
        model = tiny_model()
        mask = (torch.arange(50) < torch.tensor([[50], [32], [31]])).long()
        tokens = model._get_feature_vector_attention_mask(mask)
        assert tokens.shape == (3, 24)
        assert tokens.sum(1).tolist() == model._get_feat_extract_output_lengths(mask.sum(1)).tolist() == [24, 16, 8]


class TestParts:
    @pytest.mark.parametrize("num_buckets, max_distance", [(320, 800), (32, 128), (8, 20)])
    def test_buckets_one_by_one(self, num_buckets, max_distance):
        positions = torch.arange(-1500, 1501)
        buckets = relative_position_buckets(positions, num_buckets, max_distance)
        half = num_buckets // 2
        for position, bucket in zip(positions.tolist(), buckets.tolist()):
            distance, exact = abs(position), half // 2
            if distance >= exact:
                growth = math.log(distance / exact) / math.log(max_distance / exact)
                distance = min(half - 1, exact + int(growth * (half - exact) + 1e-6))
            assert bucket == distance + (half if position > 0 else 0)

    def test_position_bias_one_by_one(self):
        bias = tiny_model(BeatsModel).relative_attention_bias
        values = bias(24)
        assert values.shape == (1, 4, 24, 24)
        for query, key in [(0, 0), (0, 23), (23, 0), (5, 17), (17, 5)]:
            bucket = relative_position_buckets(torch.tensor(key - query), 320, 800)
            assert torch.equal(values[0, :, query, key], bias.weight[bucket])

    @torch.no_grad()
    def test_attention_head_by_head(self):
        model = tiny_model(BeatsModel)
        attention, length = model.layers[1].self_attn, 16
        hidden_states, padding = torch.randn(1, length, 32), torch.zeros(1, 1, 1, length)
        bias = model.relative_attention_bias(length)
        heads = []
        for head in range(4):
            columns = slice(8 * head, 8 * head + 8)
            query, key, value = (
                hidden_states[0] @ projection.weight[columns].T + projection.bias[columns]
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            update, reset = attention.gru_rel_pos_linear(query).view(length, 2, 4).sum(-1).sigmoid().T
            gate = update * (reset * attention.gru_rel_pos_const[0, head, 0, 0] - 1) + 2
            scores = query @ key.T / math.sqrt(8) + gate[:, None] * bias[0, head]
            heads.append(scores.softmax(-1) @ value)
        expected = attention.out_proj(torch.cat(heads, dim=-1))
        torch.testing.assert_close(attention(hidden_states, bias, padding)[0][0], expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("kernel_size", [7, 8])
    def test_positional_convolution_keeps_the_length(self, kernel_size):
        model = tiny_model(BeatsModel, num_conv_pos_embeddings=kernel_size)
        assert model(torch.randn(1, 40, 128)).last_hidden_state.shape == (1, 16, 32)

    @pytest.mark.parametrize("channels", [4, 12, 16])
    @pytest.mark.parametrize("autocast", [False, True])
    @torch.no_grad()
    def test_positional_convolution_in_bfloat16(self, channels, autocast):
        """Few channels in a group and an even kernel are what oneDNN gets wrong on CPUs with AMX."""
        torch.manual_seed(0)
        conv, states = (
            BeatsPositionalConv(4 * channels, 4 * channels, 64, padding=32, groups=4),
            torch.randn(2, 4 * channels, 50),
        )
        expected = conv(states)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            actual = conv(states) if autocast else conv.to(torch.bfloat16)(states.to(torch.bfloat16))
        torch.testing.assert_close(actual.float(), expected, atol=0.02, rtol=0.01)

    def test_patches_as_wide_as_the_encoder_are_not_projected(self):
        model = tiny_model(BeatsModel, patch_embed_dim=32)
        assert isinstance(model.feature_projection.projection, nn.Identity)
        assert model(torch.randn(1, 40, 128)).last_hidden_state.shape == (1, 16, 32)

    def test_deep_norm_scales_residuals(self):
        assert tiny_model(BeatsModel).layers[0].residual_scale == math.sqrt(2)
        assert tiny_model(BeatsModel, deep_norm=False).layers[0].residual_scale == 1.0

    @pytest.mark.parametrize(
        "features, mask, message",
        [
            (torch.zeros(1, 128, 40), None, r"\(batch_size, frames, 128\), got \(1, 128, 40\)"),
            (torch.zeros(40, 128), None, r"got \(40, 128\)"),
            (torch.zeros(1, 15, 128), None, "at least 16 frames.*got 15"),
            (
                torch.zeros(1, 40, 128),
                torch.ones(1, 39),
                r"`attention_mask` must be of shape \(1, 40\).*got \(1, 39\)",
            ),
        ],
    )
    def test_inputs_that_are_refused(self, features, mask, message):
        with pytest.raises(ValueError, match=message):
            tiny_model(BeatsModel)(features, mask)


class TestTraining:
    @pytest.mark.parametrize("attention", ATTENTIONS)
    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_gradient_checkpointing(self, attention, use_reentrant):
        features, labels = torch.randn(2, 40, 128), torch.tensor([1, 3])
        gradients = []
        for checkpointing in (False, True):
            model = tiny_model(
                attention=attention, hidden_dropout=0, attention_dropout=0, feat_proj_dropout=0, layerdrop=0
            )
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.train()
            model(features, labels=labels).loss.backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        for name, gradient in gradients[0].items():
            assert gradient is not None and gradient.any(), name
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)

    def test_layerdrop_skips_layers_in_training_only(self):
        model = tiny_model(BeatsModel, layerdrop=1.0)
        calls = []
        for layer in model.layers:
            layer.register_forward_hook(lambda *args: calls.append(1))
        model.train()(torch.randn(1, 32, 128))
        assert len(calls) == 0
        model.eval()(torch.randn(1, 32, 128))
        assert len(calls) == 2

    def test_losses(self):
        features = torch.randn(2, 40, 128)
        model = tiny_model()
        logits = model(features).logits
        events = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]])
        expected = nn.functional.binary_cross_entropy_with_logits(logits, events.float())
        torch.testing.assert_close(model(features, labels=events).loss, expected)
        torch.testing.assert_close(model(features, labels=events.float()).loss, expected)
        one_hot = nn.functional.one_hot(torch.tensor([1, 4]), 5).float()
        expected = nn.functional.binary_cross_entropy_with_logits(logits, one_hot)
        torch.testing.assert_close(model(features, labels=torch.tensor([1, 4])).loss, expected)
        with pytest.raises(ValueError, match=r"`labels` must be of shape \(2, 5\).*got \(2, 4\)"):
            model(features, labels=events[:, :4])

        model.config.problem_type = "single_label_classification"
        expected = nn.functional.cross_entropy(logits, torch.tensor([1, 4]))
        torch.testing.assert_close(model(features, labels=torch.tensor([1, 4])).loss, expected)
        model.config.problem_type = "regression"
        expected = nn.functional.mse_loss(logits, events.float())
        torch.testing.assert_close(model(features, labels=events.float()).loss, expected)

    def test_freeze_base_model(self):
        model = tiny_model()
        model.freeze_base_model()
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trainable == ["classifier.weight", "classifier.bias"]

    def test_a_new_model_is_initialised(self):
        model = BeatsForAudioClassification(tiny_config())
        conv = model.beats.pos_conv_embed.conv.parametrizations.weight
        torch.testing.assert_close(conv.original0, torch.norm_except_dim(conv.original1, 2, 2))
        assert (model.beats.layers[0].self_attn.gru_rel_pos_const == 1).all()
        assert torch.isfinite(model(torch.randn(1, 32, 128)).logits).all()


class TestTransformers:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("attention", ATTENTIONS)
    @torch.no_grad()
    def test_half_precision(self, released, clips, attention, dtype):
        model = BeatsForAudioClassification._from_config(released.config, attn_implementation=attention).eval()
        model.load_state_dict(released.state_dict())
        logits = model.to(dtype)(clips["speech"]).logits
        assert logits.dtype == dtype
        tolerance = 0.01 if dtype == torch.float16 else 0.08
        torch.testing.assert_close(logits.float(), released(clips["speech"]).logits, atol=tolerance, rtol=0)

    @torch.no_grad()
    def test_attention_weights(self):
        outputs = tiny_model()(torch.randn(1, 40, 128), output_attentions=True, output_hidden_states=True)
        assert [weights.shape for weights in outputs.attentions] == [(1, 4, 16, 16)] * 2
        assert len(outputs.hidden_states) == 3
        assert len(tiny_model()(torch.randn(1, 40, 128), return_dict=False)) == 1

    def test_compiles_to_one_graph(self):
        model, features, mask = tiny_model(attention="sdpa"), torch.randn(2, 40, 128), torch.ones(2, 40)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(compiled(features, mask).logits, model(features, mask).logits)

    def test_save_and_load(self, tmp_path):
        model = tiny_model()
        model.save_pretrained(tmp_path)
        for loaded in (AutoModelForAudioClassification.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
            state = getattr(loaded, "beats", loaded).state_dict()
            for name, tensor in model.beats.state_dict().items():
                assert torch.equal(state[name], tensor), name
        base = tmp_path / "base"
        model.beats.save_pretrained(base)
        loaded, report = BeatsForAudioClassification.from_pretrained(base, output_loading_info=True)
        assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
        assert torch.equal(loaded.beats.layers[0].fc1.weight, model.beats.layers[0].fc1.weight)

    def test_missing_weights_are_initialised(self):
        model = BeatsForAudioClassification.from_pretrained(None, config=tiny_config(), state_dict={})
        assert (model.beats.layers[1].self_attn.gru_rel_pos_const == 1).all()
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())

    @torch.no_grad()
    def test_pipeline(self, released):
        extractor = BeatsFeatureExtractor()
        with np.load(FIXTURES / "waveforms.npz") as file:
            clip = (file["speech"] / 2.0**15).astype(np.float32)
        with CaptureLogger(logging.get_logger("transformers.pipelines.base")) as log:
            classify = pipeline("audio-classification", model=released, feature_extractor=extractor, device="cpu")
        assert "not supported" not in log.out
        clips = [clip, clip[:20000]]
        # Transformers chooses the sigmoid for several labels by itself from 5.23 on
        first, same = (classify(clips, function_to_apply="sigmoid", batch_size=size)[0] for size in (1, 2))
        best = int(EXPECTED["speech/probs"].argmax())
        assert first[0]["label"] == same[0]["label"] == released.config.id2label[best]
        assert first[0]["score"] == pytest.approx(EXPECTED["speech/probs"].max().item(), abs=1e-4)

    @pytest.mark.ecosystem
    def test_loads_where_the_project_is_not_installed(self, tmp_path):
        folder = convert_beats(FIXTURES / "BEATs_tiny.pt", tmp_path / "model")
        script = tmp_path / "elsewhere.py"
        script.write_text(f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].endswith(("_beats", "_salmonn")):
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Absent())
import numpy as np, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

for folder in ({str(folder)!r}, "again"):
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "beats"
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    inputs = extractor(np.full(16000, 0.1), sampling_rate=16000, return_tensors="pt")
    base = AutoModel.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(base).__name__ == "BeatsModel"
    with torch.no_grad():
        assert model(**inputs).logits.shape == (1, 527)
        assert base(**inputs).last_hidden_state.shape == (1, 48, 64)
    model.save_pretrained("again")
    extractor.save_pretrained("again")
""")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(script)]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
