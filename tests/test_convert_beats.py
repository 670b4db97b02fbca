# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Conversion of released BEATs checkpoints: all of it or nothing, and no tensor lost."""

from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from conversion_salmonn.convert_beats import build_beats_state_dict, convert_beats, load_beats_checkpoint
from modeling_beats import BeatsForAudioClassification, BeatsModel


FIXTURES = Path(__file__).parent / "fixtures" / "beats"
FINE_TUNED, SELF_SUPERVISED = FIXTURES / "BEATs_tiny.pt", FIXTURES / "BEATs_tiny_ssl.pt"


@pytest.fixture
def checkpoint() -> dict:
    return torch.load(FINE_TUNED, weights_only=True)


def save(checkpoint: dict, folder: Path) -> Path:
    torch.save(checkpoint, folder / "changed.pt")
    return folder / "changed.pt"


def test_fine_tuned_checkpoint(checkpoint):
    config, state, kind = load_beats_checkpoint(FINE_TUNED)
    assert kind == "fine-tuned"
    assert config.num_labels == 527
    assert config.id2label == checkpoint["label_dict"]
    assert config.label2id["/m/tiny003"] == 3
    torch.testing.assert_close(state["classifier.weight"], checkpoint["model"]["predictor.weight"], rtol=0, atol=0)
    BeatsForAudioClassification(config).load_state_dict(state)


def test_self_supervised_checkpoint():
    config, state, kind = load_beats_checkpoint(SELF_SUPERVISED)
    assert kind == "self-supervised"
    BeatsModel(config).load_state_dict(state)


def test_folder_loads_by_auto_classes(tmp_path):
    folder = convert_beats(FINE_TUNED, tmp_path / "beats")
    assert [path.name for path in tmp_path.iterdir()] == ["beats"]
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    code = {"audio_reading_salmonn.py", "configuration_beats.py", "feature_extraction_beats.py", "modeling_beats.py"}
    assert {path.name for path in folder.iterdir()} == names | code
    model = AutoModelForAudioClassification.from_pretrained(folder)
    _, state, _ = load_beats_checkpoint(FINE_TUNED)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert AutoFeatureExtractor.from_pretrained(folder).num_mel_bins == 128

    folder = convert_beats(SELF_SUPERVISED, tmp_path / "ssl")
    assert isinstance(AutoModel.from_pretrained(folder), BeatsModel)


@pytest.mark.parametrize("embed_dim, conv_pos, classes", [(16, 9, 3), (24, 8, 1), (48, 16, 7)])
def test_other_sizes(tmp_path, embed_dim, conv_pos, classes):
    """Nothing of the layout depends on the sizes; there is no projection where patches are as wide as the encoder."""
    cfg = torch.load(SELF_SUPERVISED, weights_only=True)["cfg"]
    cfg |= {"embed_dim": embed_dim, "encoder_embed_dim": 48, "encoder_attention_heads": 6, "encoder_layers": 3}
    cfg |= {
        "encoder_ffn_embed_dim": 20,
        "conv_pos": conv_pos,
        "num_buckets": 32,
        "max_distance": 64,
        "conv_bias": True,
    }
    cfg |= {"finetuned_model": True, "predictor_class": classes, "predictor_dropout": 0}
    state = {
        "patch_embedding.weight": (embed_dim, 1, 16, 16),
        "patch_embedding.bias": (embed_dim,),
        "layer_norm.weight": (embed_dim,),
        "layer_norm.bias": (embed_dim,),
        "post_extract_proj.weight": (48, embed_dim),
        "post_extract_proj.bias": (48,),
        "encoder.pos_conv.0.weight_g": (1, 1, conv_pos),
        "encoder.pos_conv.0.weight_v": (48, 3, conv_pos),
        "encoder.pos_conv.0.bias": (48,),
        "encoder.layer_norm.weight": (48,),
        "encoder.layer_norm.bias": (48,),
        "predictor.weight": (classes, 48),
        "predictor.bias": (classes,),
    }
    for layer in (f"encoder.layers.{index}." for index in range(3)):
        attention = f"{layer}self_attn."
        state |= {f"{attention}{name}_proj.weight": (48, 48) for name in ("q", "k", "v", "out")}
        state |= {f"{attention}{name}_proj.bias": (48,) for name in ("q", "k", "v", "out")}
        state |= {f"{attention}grep_a": (1, 6, 1, 1), f"{attention}grep_linear.weight": (8, 8)}
        state |= {f"{attention}grep_linear.bias": (8,), f"{attention}relative_attention_bias.weight": (32, 6)}
        state |= {f"{layer}fc1.weight": (20, 48), f"{layer}fc1.bias": (20,)}
        state |= {f"{layer}fc2.weight": (48, 20), f"{layer}fc2.bias": (48,)}
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            state |= {f"{layer}{norm}.weight": (48,), f"{layer}{norm}.bias": (48,)}
    if embed_dim == 48:
        del state["post_extract_proj.weight"], state["post_extract_proj.bias"]
    state = {name: torch.ones(shape) for name, shape in state.items()}

    folder = convert_beats(save({"cfg": cfg, "model": state}, tmp_path), tmp_path / "beats")
    model = AutoModelForAudioClassification.from_pretrained(folder)
    with torch.no_grad():
        assert model(torch.zeros(2, 40, 128)).logits.shape == (2, classes)


def test_truncated_file(tmp_path):
    for size in (0, 1000, 300_000):
        (tmp_path / "cut.pt").write_bytes(FINE_TUNED.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"cut\.pt"):
            convert_beats(tmp_path / "cut.pt", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["cut.pt"]


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pt"):
        load_beats_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("content", [[1, 2], {"weights": torch.ones(2)}, {"cfg": None, "model": {}}])
def test_another_kind_of_file(tmp_path, content):
    with pytest.raises(ValueError, match=r"changed\.pt is no BEATs checkpoint"):
        load_beats_checkpoint(save(content, tmp_path))


def test_unknown_tensor(tmp_path, checkpoint):
    checkpoint["model"]["quantize.embedding.weight"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"changed\.pt.*quantize\.embedding\.weight"):
        load_beats_checkpoint(save(checkpoint, tmp_path))


@pytest.mark.parametrize(
    "name, ours", [("post_extract_proj.bias", "projection.bias"), ("predictor.bias", "classifier")]
)
def test_missing_tensor(tmp_path, checkpoint, name, ours):
    del checkpoint["model"][name]
    with pytest.raises(ValueError, match=f"lacks.*{ours}"):
        convert_beats(save(checkpoint, tmp_path), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pt"]


def test_tensor_of_another_shape(tmp_path, checkpoint):
    checkpoint["model"]["encoder.layers.1.fc1.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"layers\.1\.fc1\.bias.*\(5,\)"):
        load_beats_checkpoint(save(checkpoint, tmp_path))


def test_position_biases_that_differ(tmp_path, checkpoint):
    name = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    checkpoint["model"][name] = checkpoint["model"][name] + 1
    with pytest.raises(ValueError, match="share one position bias"):
        load_beats_checkpoint(save(checkpoint, tmp_path))


@pytest.mark.parametrize(
    "name, value", [("layer_norm_first", True), ("gru_rel_pos", False), ("relative_position_embedding", False)]
)
def test_architectures_that_were_never_released(tmp_path, checkpoint, name, value):
    checkpoint["cfg"][name] = value
    with pytest.raises(ValueError, match=f"{name}.*must be {not value}.*got {value}"):
        load_beats_checkpoint(save(checkpoint, tmp_path))


@pytest.mark.parametrize("change", [{"encoder_attention_heads": 5}, {"embed_dim": "32"}])
def test_cfg_that_makes_no_sense(tmp_path, checkpoint, change):
    checkpoint["cfg"] |= change
    with pytest.raises(ValueError, match=r"changed\.pt cannot be converted: `cfg` describes no valid BEATs"):
        load_beats_checkpoint(save(checkpoint, tmp_path))


def test_cfg_that_lacks_a_setting(tmp_path, checkpoint):
    del checkpoint["cfg"]["encoder_layers"]
    with pytest.raises(ValueError, match="lacks encoder_layers"):
        load_beats_checkpoint(save(checkpoint, tmp_path))


def test_labels(tmp_path, checkpoint):
    del checkpoint["label_dict"][3]
    with pytest.raises(ValueError, match="`label_dict` must give each of the 527 classes a label"):
        load_beats_checkpoint(save(checkpoint, tmp_path))
    del checkpoint["label_dict"]
    config, _, _ = load_beats_checkpoint(save(checkpoint, tmp_path))
    assert config.num_labels == 527 and config.id2label[3] == "LABEL_3"


def test_existing_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        convert_beats(SELF_SUPERVISED, tmp_path / "out")
    with pytest.raises(ValueError, match=r"nowhere\.pt"):
        convert_beats(tmp_path / "nowhere.pt", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "precious.txt").read_text() == "keep"
    convert_beats(SELF_SUPERVISED, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "precious.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_encoder_of_a_fine_tuned_checkpoint(checkpoint):
    config, _, _ = load_beats_checkpoint(FINE_TUNED)
    BeatsModel(config).load_state_dict(build_beats_state_dict(checkpoint["model"], config))
