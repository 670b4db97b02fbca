"""Prompts, labels, placeholders and the errors of the processor."""

import base64
import io

import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from processing_salmonn import SALMONN_CHAT_TEMPLATE, SalmonnProcessor, prepare_tokenizer, wrap_chat_template
from tiny_salmonn import AUDIO_TOKEN_ID, LLAMA, ask, noise, question, tiny_config, tiny_processor


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def processor() -> SalmonnProcessor:
    return tiny_processor(tiny_config())


@pytest.fixture(scope="module")
def chatml_processor() -> SalmonnProcessor:
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    return SalmonnProcessor.from_model_config(
        tiny_config(), tokenizer, chat_template=wrap_chat_template(CHATML), audio_token="<|audio|>"
    )


def answers(processor, inputs) -> list[str]:
    rows = [ids[labels != -100] for ids, labels in zip(inputs["input_ids"], inputs["labels"])]
    assert all(torch.equal(ids, labels[labels != -100]) for ids, labels in zip(rows, inputs["labels"]))
    return [processor.tokenizer.decode(row) for row in rows]


def train(processor, *conversations, **kwargs):
    return processor.apply_chat_template(
        list(conversations),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"output_labels": True, **kwargs},
    )


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


def test_template_of_an_llm(chatml_processor):
    text = chatml_processor.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, *question(noise(1), text="Who?")], add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<Speech><|audio|></Speech> Who?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_labels_are_answers_and_their_ends(processor, chatml_processor):
    conversations = [
        question(noise(1), answer="A dog barks."),
        [*question(noise(1), noise(31), answer="Two."), {"role": "user", "content": "Sure?"}]
        + [{"role": "assistant", "content": "Yes."}],
    ]
    for side in ("left", "right"):
        inputs = train(processor, *conversations, padding_side=side)
        assert answers(processor, inputs) == ["A dog barks.</s>", "Two.</s> Yes.</s>"]
        inputs = train(chatml_processor, *conversations, padding_side=side)
        assert answers(chatml_processor, inputs) == ["A dog barks.<|im_end|>", "Two.<|im_end|>Yes.<|im_end|>"]


def test_labels_of_plain_text(processor):
    text = "USER: <Speech><|audio|></Speech> What?\nASSISTANT: Rain.</s>"
    inputs = processor(text=text, audio=noise(1), output_labels=True, return_tensors="pt")
    assert answers(processor, inputs) == ["Rain.</s>"]
    assert (inputs["labels"] == AUDIO_TOKEN_ID).sum() == 0
    plain = processor(text=text, audio=noise(1), return_tensors="pt")
    assert torch.equal(plain["input_ids"], inputs["input_ids"]) and "labels" not in plain


def test_labels_need_answers(processor):
    with pytest.raises(ValueError, match="needs an answer after 'ASSISTANT:'"):
        train(processor, question(noise(1)))
    with pytest.raises(ValueError, match="needs `text`"):
        processor(audio=noise(1), output_labels=True)


def test_questions_are_never_taken_for_answers(processor):
    messages = question(noise(1), text="Who said: ASSISTANT: yes?", answer="Nobody.")
    with pytest.raises(ValueError, match="must not hold 'ASSISTANT:'"):
        train(processor, messages)
    processor.apply_chat_template(messages, tokenize=True, return_dict=True)  # not for training
    own = train(processor, question(noise(1), answer="It says ASSISTANT: yes."))
    assert answers(processor, own) == ["It says ASSISTANT: yes.</s>"]


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
    assert set(processor(audio=noise(1))) == {"input_features", "input_features_mask", "segment_ids"}
    assert set(processor(noise(1), sampling_rate=16000, return_tensors="pt")) == {
        "input_features",
        "input_features_mask",
        "segment_ids",
    }


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
