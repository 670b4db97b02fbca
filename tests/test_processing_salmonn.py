"""Prompts, labels, placeholders and the errors of the processor."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from processing_salmonn import SALMONN_CHAT_TEMPLATE, SalmonnProcessor, prepare_tokenizer, wrap_chat_template
from tiny_salmonn import AUDIO_TOKEN_ID, CHATML, LLAMA, ask, noise, question, tiny_config, tiny_processor


@pytest.fixture(scope="module")
def processor() -> SalmonnProcessor:
    return tiny_processor(tiny_config(segment_seconds=30))


def test_released_format(processor):
    text = processor.apply_chat_template(question(noise(1), text="Who?"), add_generation_prompt=True)
    assert text == "USER: <Speech><|audio|></Speech> Who?\nASSISTANT:"
    messages = [*question(noise(1), noise(2), text="Same?", answer="No."), {"role": "user", "content": "Why?"}]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "USER: <Speech><|audio|></Speech> <Speech><|audio|></Speech> Same?\nASSISTANT: No.</s>USER: Why?\nASSISTANT:"
    )


def test_text_before_a_clip(processor):
    content = [{"type": "text", "text": "Listen:"}, {"type": "audio", "audio": noise(1)}]
    assert processor.apply_chat_template([{"role": "user", "content": content}]) == (
        "USER: Listen: <Speech><|audio|></Speech>\n"
    )


def test_parts_in_the_style_of_openai(processor, tmp_path):
    clip = noise(1.5)
    path = tmp_path / "clip.wav"
    sf.write(path, clip, 16000, subtype="FLOAT")
    encoded = base64.b64encode(path.read_bytes()).decode()
    expected = ask(processor, question(clip))
    parts = [
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{encoded}"}},
        {"type": "audio_url", "audio_url": str(path)},
    ]
    for part in parts:
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
        inputs = ask(processor, messages)
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        torch.testing.assert_close(inputs["input_features"], expected["input_features"])
        assert messages[0]["content"][0] is part  # the caller's own stays as it is
    for part in ({"type": "image", "url": "a.png"}, {"type": "input_audio"}, {"type": "text"}, {"text": "no type"}):
        with pytest.raises(ValueError, match="must have parts of type 'text'"):
            ask(processor, [{"role": "user", "content": [part]}])


def test_tools_are_written_or_refused(processor):
    tools = [{"type": "function", "function": {"name": "stop", "description": "Stops.", "parameters": {}}}]
    messages = question(noise(1))
    with pytest.raises(ValueError, match="`tools` must be left out"):
        processor.apply_chat_template(messages, tools=tools)
    template = wrap_chat_template("{% if tools %}{{ tools[0]['function']['name'] }}{% endif %}" + CHATML)
    other = tiny_processor(tiny_config(), chat_template=template)
    assert other.apply_chat_template(messages, tools=tools).startswith("stop<|im_start|>user")


def test_features_do_not_depend_on_autocast(processor):
    expected = ask(processor, question(noise(2)))["input_features"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ask(processor, question(noise(2)))["input_features"], expected)


class Decoder:
    """What torchcodec's `AudioDecoder` offers: samples of shape `(channels, samples)`."""

    def __init__(self, samples, sample_rate):
        self.samples = SimpleNamespace(data=torch.from_numpy(samples), sample_rate=sample_rate)

    def get_all_samples(self):
        return self.samples


def test_clips_of_datasets(processor, tmp_path):
    clip = noise(1.5)
    buffer = io.BytesIO()
    sf.write(buffer, clip, 16000, format="WAV", subtype="FLOAT")
    (tmp_path / "clip.wav").write_bytes(buffer.getvalue())
    sources = [
        {"array": clip, "sampling_rate": 16000},
        {"raw": clip, "sampling_rate": 16000},
        {"array": np.stack([clip, clip], axis=1), "sampling_rate": 16000, "path": None},
        {"bytes": buffer.getvalue(), "path": None},
        {"bytes": None, "path": str(tmp_path / "clip.wav")},
        Decoder(clip[None], 16000),
        Decoder(np.stack([clip, clip]), 16000),
        tmp_path / "clip.wav",
        buffer.getvalue(),
        torch.from_numpy(clip),
    ]
    expected = ask(processor, question(clip))["input_features"]
    for source in sources:
        for inputs in (
            ask(processor, question(source)),
            processor(text="<|audio|>", audio=source),
            processor(text="<|audio|>", audio=[source]),
            processor.apply_transcription_request(source),
        ):
            torch.testing.assert_close(inputs["input_features"], expected, atol=1e-5, rtol=0)
    assert processor.apply_transcription_request(sources[:2])["input_features"].shape[0] == 2


def test_arrays_of_other_rates_are_resampled_where_the_rate_is_known(processor):
    tone = np.sin(880 * np.pi * np.arange(44100) / 44100).astype(np.float32)
    expected = np.sin(880 * np.pi * np.arange(16000) / 16000).astype(np.float32)
    expected = processor(text="<|audio|>", audio=expected)["input_features"][0, :80, 5:90].mean(-1).argmax()
    for source in ({"array": tone, "sampling_rate": 44100}, Decoder(tone[None], 44100)):
        inputs = processor(text="<|audio|>", audio=source)
        assert inputs["input_features_mask"].sum() == 98  # one second
        assert inputs["input_features"][0, :80, 5:90].mean(-1).argmax() == expected
    for source in ({"array": tone}, {"path": None, "bytes": None}, {}):
        with pytest.raises(ValueError, match="got a dict of"):
            processor(text="<|audio|>", audio=source)


def test_what_is_saved_pads_and_decodes_as_it_does(processor, tmp_path):
    """Pipelines load the tokenizer by itself."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer(), eos_token="<|end|>")
    SalmonnProcessor.from_model_config(tiny_config(), tokenizer).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.padding_side == SalmonnProcessor.from_pretrained(tmp_path).feature_extractor.padding_side == "left"
    ids = loaded(" the cat sat").input_ids
    assert loaded.decode(ids) == "the cat sat"
    assert loaded.decode(loaded("the  cat").input_ids) == "the  cat"


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat"] * 3, trainer)
    return tokenizer


def test_pieces_around_a_clip_have_a_space_of_their_own(processor):
    ids = processor.tokenizer("USER: <Speech><|audio|></Speech> Who?").input_ids
    clip = ids.index(AUDIO_TOKEN_ID)
    assert ids[0] == 1 and 1 not in ids[1:]
    alone = [
        processor.tokenizer(text, add_special_tokens=False).input_ids for text in ("USER: <Speech>", "</Speech> Who?")
    ]
    assert [ids[1:clip], ids[clip + 1 :]] == alone


def test_long_clips_have_placeholders_for_all_segments(processor):
    inputs = ask(processor, question(noise(1), noise(61)))
    assert (inputs["input_ids"] == AUDIO_TOKEN_ID).sum() == 4 * 88
    assert inputs["input_features"].shape[0] == 4
    assert processor._get_num_multimodal_tokens(audio_lengths=[16000, 61 * 16000]).num_audio_tokens == [88, 3 * 88]


def test_batches_are_padded_on_the_left(processor):
    inputs = ask(processor, question(noise(1)), question(text="Hello?"))
    assert inputs["attention_mask"][:, -1].all() and not inputs["attention_mask"][:, 0].all()
    assert (inputs["input_ids"][inputs["attention_mask"] == 0] == processor.tokenizer.pad_token_id).all()


def test_outputs_are_the_models_inputs(processor):
    assert set(ask(processor, question(noise(1)))) == set(processor.model_input_names)
    features = {"input_features", "input_features_mask", "segment_ids"}
    assert set(processor(audio=noise(1))) == features
    assert set(processor(noise(1), sampling_rate=16000, return_tensors="pt")) == features


def test_clips_to_be_transcribed_are_cut_where_they_are_quiet(processor):
    clip = noise(40)
    clip[25 * 16000 : 26 * 16000] = 0
    pieces = processor(audio=clip)["input_features_mask"].sum(-1)
    assert 2500 < pieces[0] < 2600 and len(pieces) == 2
    assert processor(text="<|audio|>", audio=clip)["input_features_mask"].sum(-1)[0] == 2998


def test_audio_of_every_kind(processor, tmp_path):
    clip = noise(1.5)
    path = tmp_path / "clip.wav"
    sf.write(path, clip, 16000, subtype="FLOAT")
    encoded = base64.b64encode(path.read_bytes()).decode()
    expected = ask(processor, question(clip))["input_features"]
    sources = [{"path": str(path)}, {"url": str(path)}, {"url": encoded}, {"url": f"data:audio/wav;base64,{encoded}"}]
    for source in sources:
        messages = [
            {"role": "user", "content": [{"type": "audio", **source}, {"type": "text", "text": "What is this?"}]}
        ]
        torch.testing.assert_close(ask(processor, messages)["input_features"], expected)
    for audio in (str(path), clip, [clip], torch.from_numpy(clip)):
        inputs = processor(text="USER: <|audio|>", audio=audio, return_tensors="pt")
        torch.testing.assert_close(inputs["input_features"], expected)


def test_files_of_other_rates_and_channels_are_converted(processor, tmp_path):
    time = np.arange(44100) / 44100
    tone = np.stack([np.sin(880 * np.pi * time), np.zeros_like(time)], axis=1)
    sf.write(tmp_path / "stereo.wav", tone, 44100)
    inputs = processor(text="<|audio|>", audio=str(tmp_path / "stereo.wav"), return_tensors="pt")
    assert inputs["input_features_mask"].sum() == 98  # one second
    reference = (0.5 * np.sin(880 * np.pi * np.arange(16000) / 16000)).astype(np.float32)
    expected = processor(text="<|audio|>", audio=reference, return_tensors="pt")
    actual, expected = (x["input_features"][0, :80, 5:90].mean(-1).argmax() for x in (inputs, expected))
    assert actual == expected


def test_transcription_request(processor):
    clips = [torch.from_numpy(noise(1)), noise(31)]
    inputs = processor.apply_transcription_request(clips, return_tensors="pt")
    assert inputs["input_ids"].shape[0] == 2 and inputs["input_features"].shape[0] == 3
    texts = processor.apply_transcription_request(clips, prompt=["One.", None], tokenize=False)
    assert [("One." in texts[0]), (processor.transcription_prompt in texts[1])] == [True, True]
    with pytest.raises(ValueError, match="got 1 for 2 clips"):
        processor.apply_transcription_request(clips, prompt=["One."])
    with pytest.raises(TypeError, match="got int"):
        processor.apply_transcription_request(clips, prompt=[1, 2])


def test_round_trip(processor, tmp_path):
    config = tiny_config(window_seconds=0.5, stride_seconds=0.25, num_query_tokens=2, fixed_length=False)
    for saved in (processor, tiny_processor(config, transcription_prompt="Write it down.")):
        saved.save_pretrained(tmp_path)
        for loaded in (SalmonnProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
            assert type(loaded) is SalmonnProcessor
            assert loaded.to_dict() | {"auto_map": 0} == saved.to_dict() | {"auto_map": 0}
            assert loaded.chat_template == saved.chat_template
            inputs, expected = (ask(p, question(noise(3), noise(1), answer="Yes.")) for p in (loaded, saved))
            assert inputs.keys() == expected.keys()
            assert all(torch.equal(inputs[name], expected[name]) for name in inputs)


def test_a_prepared_tokenizer_is_left_as_it_is():
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(LLAMA))
    assert prepare_tokenizer(tokenizer) is tokenizer and len(tokenizer) == 601
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("<unk>", "left")


def test_template_is_the_default(processor):
    assert processor.chat_template == SALMONN_CHAT_TEMPLATE
    assert isinstance(processor.tokenizer, PreTrainedTokenizerFast) or processor.tokenizer.is_fast


@pytest.mark.parametrize(
    ("text", "audio", "error", "message"),
    [
        ("<|audio|><|audio|>", [noise(1)], ValueError, "2 <|audio|> tokens and 1 audio"),
        ("<|audio|>", [noise(1), noise(1)], ValueError, "1 <|audio|> tokens and 2 audio"),
        ("Hello", [noise(1)], ValueError, "0 <|audio|> tokens and 1 audio"),
        ("<|audio|>", None, ValueError, "audio inputs"),
        ("<|audio|>", [], ValueError, "at least one clip"),
        ("<|audio|>", np.zeros(0, dtype=np.float32), ValueError, "empty"),
        ("<|audio|>", np.full(16000, np.nan, dtype=np.float32), ValueError, "NaN"),
        ("<|audio|>", np.zeros(16000, dtype=np.int16), TypeError, "int16"),
        ("<|audio|>", np.zeros((2, 16000), dtype=np.float32), ValueError, "mono"),
        ("<|audio|>", {"a": 1}, (TypeError, ValueError), "dict"),
        (None, None, ValueError, "at least one input"),
    ],
)
def test_bad_inputs_are_refused(processor, text, audio, error, message):
    with pytest.raises(error, match=message.replace("|", r"\\|")):
        processor(text=text, audio=audio)


def test_other_sampling_rates_are_refused(processor):
    with pytest.raises(ValueError, match="16000.*8000"):
        processor(text="<|audio|>", audio=noise(1), sampling_rate=8000)


def test_placeholders_typed_by_users_are_refused(processor):
    for messages in (question(noise(1), text="What is <|audio|>?"), [{"role": "user", "content": "<|audio|>"}]):
        with pytest.raises(ValueError, match="must not hold '<.audio.>'"):
            ask(processor, messages)


def test_files_that_are_no_audio_are_refused(processor, tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("not audio")
    for source in (str(path), str(tmp_path / "missing.wav"), base64.b64encode(b"not audio either").decode()):
        with pytest.raises(ValueError, match="audio"):
            processor(text="<|audio|>", audio=source)
        with pytest.raises(ValueError, match="audio"):
            ask(processor, [{"role": "user", "content": [{"type": "audio", "path": source}]}])


def test_truncation_never_cuts_a_clip(processor):
    with pytest.raises(ValueError, match="truncation"):
        ask(processor, question(noise(1)), processor_kwargs={"max_length": 20, "truncation": True})


def test_in_memory_files(processor):
    buffer = io.BytesIO()
    sf.write(buffer, noise(1), 16000, format="FLAC")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    assert processor(text="<|audio|>", audio=encoded, return_tensors="pt")["input_features"].shape == (1, 208, 3000)


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        ("Hello", TypeError, "must be a list of messages, or a list of such lists, got str"),
        ({"role": "user", "content": "?"}, TypeError, "or a list of such lists, got dict"),
        (None, TypeError, "or a list of such lists, got NoneType"),
        ([], ValueError, "must hold at least one message, got none"),
        ([[]], ValueError, "must hold at least one message, got none"),
        (["Hello"], TypeError, "must hold messages, or lists of messages, got 'Hello'"),
        ([["Hello"]], TypeError, "must hold messages, dicts of 'role' and 'content', got 'Hello'"),
        ([{"role": "user", "content": "?"}, "Hello"], TypeError, "dicts of 'role' and 'content', got 'Hello'"),
        ([{"content": "?"}], ValueError, "must have a 'role'"),
        ([{"role": None, "content": "?"}], ValueError, "must have a 'role'"),
        ([{"role": "user"}], ValueError, "must have 'content'"),
        ([{"role": "user", "content": None}], ValueError, "must have 'content'"),
        ([{"role": "user", "content": {"type": "text"}}], TypeError, "must be a string or a list of parts"),
        ([{"role": "user", "content": [None]}], TypeError, "must be a dict with a 'type', got None"),
        ([{"role": "user", "content": ["?"]}], TypeError, "must be a dict with a 'type', got '\\?'"),
        ([{"role": "user", "content": [{"type": "image"}]}], ValueError, "must have parts of type 'text'"),
        ([{"role": "user", "content": [{"type": "text"}]}], ValueError, "must have parts of type 'text' with a text"),
    ],
    ids=str,
)
def test_what_is_no_conversation_is_refused(processor, conversation, error, message):
    with pytest.raises(error, match=message):
        processor.apply_chat_template(conversation)


@pytest.mark.parametrize("template", ["{% if %}", "{{ nope.nope }}", "{{ raise_exception('no system role') }}"])
def test_templates_that_cannot_be_rendered(processor, template):
    with pytest.raises(ValueError, match="`chat_template` cannot write this conversation"):
        processor.apply_chat_template([{"role": "user", "content": "?"}], chat_template=template)


def test_no_clips_to_transcribe(processor):
    with pytest.raises(ValueError, match="`audio` must hold at least one clip, got none"):
        processor.apply_transcription_request([])
