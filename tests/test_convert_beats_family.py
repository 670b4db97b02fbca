# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
BEATs of other layouts than Microsoft's. `fixtures/beats_family` has tiny random ones, written and run by their own code: the
package openbeats 0.1.1 on PyPI (`OpenBeats.encode`), and `avex.models.beats` (`BEATs`), whose head is a linear layer on the
mean of the tokens.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

from conversion_salmonn.assemble import assemble
from conversion_salmonn.beats_loading import load_beats
from conversion_salmonn.beats_sources import PADS
from conversion_salmonn.convert_beats import convert_beats, load_beats_checkpoint
from processing_salmonn import SalmonnProcessor


FAMILY = Path(__file__).parent / "fixtures" / "beats_family"
SALMONN = Path(__file__).parent / "fixtures" / "salmonn"
EXPECTED = load_file(FAMILY / "expected.safetensors")
WAVEFORM = (0.1 * np.random.default_rng(5).standard_normal(10000)).astype(np.float32)
HEADS = {"espnet": "espnet", "avex": "avex_logits"}


def run(folder, auto_class):
    model = auto_class.from_pretrained(folder).eval()
    inputs = AutoFeatureExtractor.from_pretrained(folder)(WAVEFORM, 16000, return_tensors="pt")
    with torch.no_grad():
        return model, model(**inputs)


@pytest.mark.parametrize("name", ["openbeats", "openbeats_normalised", "avex"])
def test_embeddings_are_those_of_their_own_code(tmp_path, name):
    file = FAMILY / "avex" if name == "avex" else FAMILY / f"{name}.pt"
    model, outputs = run(convert_beats(file, tmp_path / "beats"), AutoModel)
    torch.testing.assert_close(outputs.last_hidden_state[0], EXPECTED[name], atol=5e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "again")  # with its own normalisation
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "beats")
    extractor.save_pretrained(tmp_path / "again")
    assert torch.equal(run(tmp_path / "again", AutoModel)[1].last_hidden_state, outputs.last_hidden_state)


@pytest.mark.parametrize("name", HEADS)
def test_logits_and_labels_are_those_of_their_own_code(tmp_path, name):
    model, outputs = run(convert_beats(FAMILY / name, tmp_path / "beats"), AutoModelForAudioClassification)
    torch.testing.assert_close(outputs.logits[0], EXPECTED[HEADS[name]], atol=5e-5, rtol=0)
    if name == "espnet":
        assert model.config.id2label == {0: "dog", 1: "cat", 2: "car"}
        assert model.config.problem_type == "single_label_classification"
        scores = pipeline("audio-classification", str(tmp_path / "beats"))(WAVEFORM, top_k=3)
        expected = EXPECTED["espnet"].softmax(-1)
        assert {row["label"]: row["score"] for row in scores} == pytest.approx(
            dict(zip(("dog", "cat", "car"), expected.tolist())), abs=1e-5
        )
    else:
        assert model.config.id2label == {0: "Felis catus", 1: "Corvus corax", 2: "Canis lupus", 3: "Tyto alba"}
        assert model.config.problem_type == "multi_label_classification"


def test_files_are_read_without_converting_them(tmp_path):
    model, extractor = load_beats(FAMILY / "openbeats_normalised.pt")
    assert (extractor.fbank_mean, extractor.fbank_std) == (11.7, 4.2)
    with torch.no_grad():
        states = model(**extractor(WAVEFORM, 16000, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(states[0], EXPECTED["openbeats_normalised"], atol=5e-5, rtol=0)


def test_a_salmonn_hears_with_the_normalisation_of_its_beats(tmp_path):
    qformer = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    beats = convert_beats(FAMILY / "openbeats_normalised.pt", tmp_path / "beats")
    folder = assemble(None, SALMONN / "llama", beats, tmp_path / "model", qformer=qformer, fixed_length=False)
    features = SalmonnProcessor.from_pretrained(folder).feature_extractor(WAVEFORM, 16000)["input_features"]
    own = AutoFeatureExtractor.from_pretrained(beats)(WAVEFORM, 16000)["input_features"][0]
    np.testing.assert_allclose(features[0, :, : len(own)].T, own, atol=1e-6)


def test_defaults_are_filled_in():
    config, _, _ = load_beats_checkpoint(FAMILY / "openbeats_normalised.pt")
    assert (config.max_bucket_distance, config.num_buckets, config.conv_bias) == (1280, 16, False)


def copy(tmp_path, name):
    return Path(shutil.copytree(FAMILY / name, tmp_path / name))


def rewrite(file: Path, **changes):
    settings = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_conf": {"beats_config": {}, "max_layer": 3}}, "max_layer=3"),
        (
            {"encoder_conf": {"beats_config": {}, "use_weighted_representation": True}},
            "use_weighted_representation=True",
        ),
        ({"decoder_conf": {"pooling": "max"}}, "pooling='max'"),
        ({"normalize": "utterance_mvn"}, "normalize='utterance_mvn'"),
        ({"encoder": "conformer"}, "encoder='conformer'"),
        ({"encoder_conf": {}}, "has no `beats_config` in its config.yaml: .* with --beats"),
        ({"token_list": ["dog", "<blank>", "<unk>"]}, "3 classes, but its config.yaml 3 tokens"),
        (
            {"encoder_conf": {"beats_config": {"relative_position_embedding": True, "gru_rel_pos": True}}},
            "cannot be converted: .*lacks",
        ),
    ],
)
def test_espnet_models_of_other_kinds_are_refused(tmp_path, changes, message):
    folder = copy(tmp_path, "espnet")
    rewrite(folder / "config.yaml", **changes)
    with pytest.raises(ValueError, match=message):
        convert_beats(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_espnet_models_without_an_architecture_have_that_of_their_base(tmp_path):
    folder = copy(tmp_path, "espnet")
    rewrite(folder / "config.yaml", encoder_conf={"fbank_mean": 14.0, "fbank_std": 5.0})
    out = convert_beats(folder, tmp_path / "beats", base=FAMILY / "openbeats.pt")
    logits = run(out, AutoModelForAudioClassification)[1].logits[0]
    torch.testing.assert_close(logits, EXPECTED["espnet"], atol=5e-5, rtol=0)


def test_damaged_files_are_refused_with_the_reason(tmp_path):
    folder = copy(tmp_path, "espnet")
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="config.yaml cannot be read as YAML"):
        convert_beats(folder, tmp_path / "out")
    (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match="config.yaml is missing: an ESPnet model has its settings"):
        convert_beats(folder, tmp_path / "out")
    folder = copy(tmp_path, "avex")
    (folder / "label_map.json").write_text(json.dumps({"one": 0, "two": 0}))
    with pytest.raises(ValueError, match="each of the 4 classes a label of its own"):
        convert_beats(folder, tmp_path / "out")
    tensors = load_file(folder / "tiny-sl-beats.safetensors")
    save_file(tensors | {"other.weight": torch.ones(1)}, folder / "tiny-sl-beats.safetensors")
    with pytest.raises(ValueError, match="tensors that no BEATs has: other.weight"):
        convert_beats(folder, tmp_path / "out")
    (folder / "second.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="one file of weights .* got second.pt, tiny-sl-beats.safetensors"):
        convert_beats(folder, tmp_path / "out")


def test_numbers_for_labels_where_there_are_no_names(tmp_path, caplog):
    folder = copy(tmp_path, "avex")
    (folder / "label_map.json").unlink()
    model = AutoModelForAudioClassification.from_pretrained(convert_beats(folder, tmp_path / "out"))
    assert model.config.id2label[3] == "LABEL_3" and "no label_map.json" in caplog.text


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_normalisation_is_refused(tmp_path, value):
    checkpoint = torch.load(FAMILY / "openbeats.pt", weights_only=True)
    checkpoint["cfg"]["fbank_std"] = value
    torch.save(checkpoint, tmp_path / "changed.pt")
    with pytest.raises(ValueError, match="`fbank_std` must be finite"):
        convert_beats(tmp_path / "changed.pt", tmp_path / "out")


def test_an_encoder_without_relative_positions_is_refused(tmp_path):
    checkpoint = torch.load(FAMILY / "openbeats.pt", weights_only=True)
    assert set(PADS) <= checkpoint["model"].keys()
    del checkpoint["cfg"]["gru_rel_pos"]  # ESPnet's default is without
    torch.save(checkpoint, tmp_path / "changed.pt")
    with pytest.raises(ValueError, match=r"cfg\['gru_rel_pos'\]` must be True"):
        convert_beats(tmp_path / "changed.pt", tmp_path / "out")


def test_a_tokenizer_is_refused_with_what_it_is(tmp_path):
    checkpoint = torch.load(FAMILY / "openbeats.pt", weights_only=True)
    checkpoint["model"]["quantize.embedding.weight"] = torch.ones(4, 4)
    torch.save(checkpoint, tmp_path / "tokenizer.pt")
    with pytest.raises(ValueError, match=r"tokenizer.pt is a BEATs tokenizer, with a codebook \(`quantize.embedding"):
        convert_beats(tmp_path / "tokenizer.pt", tmp_path / "out")
