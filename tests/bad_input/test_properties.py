# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Whatever is given to chats, manifests, configurations and waveforms: a result, or a refusal that names the argument."""

import json

import numpy as np
import pytest
import soundfile

from audio_reading_salmonn import load_clip, to_mono
from configuration_beats import BeatsConfig
from data_salmonn.files import write_lines
from data_salmonn.json_text import parse_json, read_object_lines, to_json
from data_salmonn.manifests import ManifestError, read_manifest
from feature_extraction_salmonn import SalmonnFeatureExtractor
from tiny_salmonn import noise, tiny_config, tiny_processor


hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
# The same examples each time, few enough for a test that runs with all others.
few = hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)  # halves of surrogate pairs too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(tiny_config(segment_seconds=2))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for ending in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(folder / f"good.{ending}", noise(0.5), 16000)
    return folder


def outcome(function, *arguments, **options):
    """The result, or a refusal; any other error is the failure of a test."""
    try:
        return function(*arguments, **options)
    except (ValueError, TypeError) as error:
        assert 0 < len(str(error)) < 5000
        return error


@few
@hypothesis.given(JSON)
def test_json_there_and_back(content):
    written = to_json(content)
    written.encode()
    assert json.dumps(parse_json(written)) == json.dumps(content)


@few
@hypothesis.given(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=3).filter(bool), max_size=5))
def test_lines_of_json_there_and_back(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_lines(file, rows)
    assert list(read_object_lines(file)) == rows


PART = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "audio", "input_audio", "audio_url", "image", "", None]) | JSON,
        "text": TEXTS | JSON,
        "audio": TEXTS | JSON,
        "audio_url": JSON | st.fixed_dictionaries({"url": TEXTS}),
        "input_audio": JSON | st.fixed_dictionaries({"data": TEXTS}),
    },
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system"]) | JSON,
        "content": TEXTS | st.lists(PART, max_size=3) | JSON,
    },
)


@few
@hypothesis.given(st.lists(MESSAGE, max_size=3) | st.lists(st.lists(MESSAGE, max_size=2), max_size=2) | JSON)
def test_chats(processor, conversation):
    result = outcome(processor.apply_chat_template, conversation, tokenize=True, return_dict=True)
    if not isinstance(result, Exception):
        assert len(result["input_ids"]) and processor.audio_token_id not in np.ravel(result["input_ids"])


@few
@hypothesis.given(st.lists(TEXTS, min_size=1, max_size=3))
def test_texts_are_neither_ends_nor_speakers(processor, texts):
    """One end for each answer, whatever is said in them."""
    texts = [text.encode("utf-8", "ignore").decode() or "a" for text in texts]
    texts = [text.replace("<|audio|>", "") + "</s> USER: <s>" for text in texts]
    messages = [{"role": role, "content": text} for text in texts for role in ("user", "assistant")]
    ids = processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert np.ravel(ids).tolist().count(processor.tokenizer.eos_token_id) == len(texts)


ROW = st.fixed_dictionaries(
    {},
    optional={
        "audio": st.sampled_from(["good.wav", "missing.wav", ""]) | JSON,
        "text": TEXTS | JSON,
        "task": st.sampled_from(["asr", "nonsense"]) | JSON,
        "question": TEXTS | JSON,
        "messages": JSON,
        "id": JSON,
        "expand_wav": JSON,
    },
)


@few
@hypothesis.given(st.lists(ROW | JSON, max_size=4))
def test_manifests(clips, rows):
    file = clips / "rows.jsonl"
    file.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    result = outcome(read_manifest, file, task="asr")
    if isinstance(result, Exception):
        assert isinstance(result, ManifestError) and result.problems
    else:
        assert len(result) == len(rows)


@few
@hypothesis.given(st.sampled_from(list(BeatsConfig.__annotations__)), JSON)
def test_configs(name, value):
    hypothesis.assume(name != "model_type")
    result = outcome(BeatsConfig, **{name: value})
    if isinstance(result, Exception):
        assert name in str(result)


@few
@hypothesis.given(st.lists(st.floats(width=64), min_size=1, max_size=50))
def test_waveforms(samples):
    result = outcome(SalmonnFeatureExtractor(chunk_length=1), samples, sampling_rate=16000)
    if not isinstance(result, Exception):
        assert np.isfinite(result["input_features"]).all()


@few
@hypothesis.given(st.integers(-5, 10**6) | st.floats() | TEXTS, st.integers(0, 5000), st.integers(1, 3))
def test_rates(rate, length, channels):
    result = outcome(to_mono, np.zeros((length, channels), np.float32), rate, 16000)
    if not isinstance(result, Exception):
        assert len(result) == -(-length * 16000 // int(rate))


@few
@hypothesis.given(st.data())
def test_damaged_files(clips, data):
    """Whatever is overwritten in a file, it is samples within bounds that come out, or a refusal."""
    name = data.draw(st.sampled_from(["good.wav", "good.flac", "good.ogg", "good.mp3"]))
    content = bytearray((clips / name).read_bytes())
    start = data.draw(st.integers(0, 200))
    damage = data.draw(st.binary(min_size=1, max_size=40))
    content[start : start + len(damage)] = damage
    result = outcome(load_clip, bytes(content[: data.draw(st.integers(0, len(content)))]), 16000)
    if isinstance(result, Exception):
        assert "`audio`" in str(result)
    else:
        assert result.dtype == np.float32 and result.ndim == 1 and len(result) and np.abs(result).max() <= 100
