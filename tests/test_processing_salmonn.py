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


def test_labels_of_text_alone_are_refused(processor):
    text = "USER: <Speech><|audio|></Speech> What?\nASSISTANT: Rain.</s>"
    with pytest.raises(ValueError, match="`output_labels=True` needs a conversation.*apply_chat_template"):
        processor(text=text, audio=noise(1), output_labels=True)


def test_labels_need_answers(processor):
    answered = question(noise(1), text="Which one of them?", answer="This.")
    with pytest.raises(ValueError, match=r"row 1 of `conversation` has none in its \d+ tokens"):
        train(processor, answered, question(noise(1)))
    with pytest.raises(ValueError, match="needs `tokenize=True` and `return_dict=True`"):
        processor.apply_chat_template([answered], tokenize=True, processor_kwargs={"output_labels": True})


def test_questions_are_never_taken_for_answers(processor):
    inputs = train(processor, question(noise(1), text="Who said: ASSISTANT: yes?</s>", answer="Nobody."))
    assert answers(processor, inputs) == ["Nobody.</s>"]
    inputs = train(processor, question(noise(1), answer="It says ASSISTANT: yes."))
    assert answers(processor, inputs) == ["It says ASSISTANT: yes.</s>"]


def test_truncation_never_takes_a_clip_or_all_of_an_answer(processor):
    rows = [question(noise(1), answer="Yes."), question(noise(1), text="What is this thing?", answer="A dog barks.")]
    lengths = [len(train(processor, row)["input_ids"][0]) for row in rows]
    cut = train(processor, *rows, truncation=True, max_length=lengths[1] - 2)
    whole = train(processor, *rows)
    assert answers(processor, whole)[1].startswith(answers(processor, cut)[1])
    with pytest.raises(ValueError, match=rf"row 0 .* none in its 105 tokens, of {lengths[1]} before"):
        train(processor, rows[1], truncation=True, max_length=105)
    with pytest.raises(ValueError, match=rf"within a clip: row 0 has {lengths[0] - 1} tokens, .*left 60,"):
        train(processor, *rows, truncation=True, max_length=60)


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
def test_labels_are_of_the_type_of_the_ids(processor, return_tensors):
    rows = [question(noise(1), answer="Yes."), question(noise(1), text="And now?", answer="No, not at all.")]
    expected = train(processor, *rows, padding_side="right")["labels"].tolist()
    inputs = processor.apply_chat_template(
        rows,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors=return_tensors,
        processor_kwargs={"output_labels": True, "padding": return_tensors is not None, "padding_side": "right"},
    )
    assert type(inputs["labels"]) is type(inputs["input_ids"])
    for ids, labels, mask, full in zip(inputs["input_ids"], inputs["labels"], inputs["assistant_masks"], expected):
        assert len(ids) == len(labels) == len(mask)
        assert list(labels) == full[: len(ids)]
        assert [bool(keep) for keep in mask] == [label != -100 for label in labels]


# As those of well-known LLMs, none of which says what the assistant writes, in what matters here: ends of turns that are
# not the tokenizer's, text at the end of a conversation only, trimmed answers, prompts that open a thought.
LLM_TEMPLATES = {
    "gemma": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no') }}"
        "{% endif %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<end_of_turn>",
    ),
    "phi3": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|end|>",
    ),
    "llama3": (
        "{% for message in messages %}{% set text = '<|head|>' + message['role'] + '<|/head|>\n\n' + message['content']"
        " | trim + '<|eot|>' %}{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}\n",
        "<|eot|>",
    ),
    "llama2": (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content']"
        " + ' [/INST]' }}{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
        " </s>",
    ),
    "thinking": (
        "{%- for message in messages %}{%- set text = message.content.split('</think>')[-1].lstrip('\n') %}"
        "{{- '<|im_start|>' + message.role + '\n' }}{%- if message.role == 'assistant' and loop.last %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- text + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}",
        "<|im_end|>",
    ),
}


@pytest.mark.parametrize("family", LLM_TEMPLATES)
def test_labels_with_the_template_of_an_llm(family):
    template, end = LLM_TEMPLATES[family]
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    processor = SalmonnProcessor.from_model_config(
        tiny_config(), tokenizer, chat_template=wrap_chat_template(template, clip="<|audio|>")
    )
    conversations = [
        [*question(noise(1), answer=" A dog. "), {"role": "user", "content": "Sure?"}]
        + [{"role": "assistant", "content": "Yes, <think> not."}],
        question(noise(2), text="An \ue0a0answer\ue0a1 of mine?", answer="No."),
    ]
    inputs = train(processor, *conversations)
    learnt = [answer.replace(" ", "") for answer in answers(processor, inputs)]
    end = end.replace(" ", "")
    assert learnt == [f"Adog.{end}Yes,<think>not.{end}", f"No.{end}"]
    assert (inputs["input_ids"] == 1).sum() <= 2 * len(conversations)  # one at each start, or each turn of LLaMA 2

    # what it writes is what the LLM's own writes
    for messages in conversations:
        plain = [dict(message) for message in messages]
        plain[0]["content"] = "<|audio|> " + plain[0]["content"][1]["text"].replace("\ue0a0answer\ue0a1", "")
        for prompt in (False, True):
            written = processor.apply_chat_template(messages[: 3 if prompt else None], add_generation_prompt=prompt)
            assert written == tokenizer.apply_chat_template(
                plain[: 3 if prompt else None], chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
    begun = [*conversations[1][:1], {"role": "assistant", "content": "Well, I"}]
    assert processor.apply_chat_template(begun, continue_final_message=True).endswith("Well, I")


def test_a_thought_that_the_template_leaves_out():
    template, _ = LLM_TEMPLATES["thinking"]
    processor = tiny_processor(tiny_config(), chat_template=wrap_chat_template(template))
    messages = question(noise(1), answer="<think>\nHm.\n</think>\n\nNo.")
    assert processor.apply_chat_template(messages).endswith("</think>\n\nNo.<|im_end|>\n")


@pytest.mark.parametrize("chat_template", [CHATML, wrap_chat_template("{{ messages[0]['content'] }}")])
def test_templates_that_do_not_say_what_is_an_answer(chat_template):
    processor = tiny_processor(tiny_config(), chat_template=chat_template)
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "Rain."}]
    with pytest.raises(ValueError, match="put `{% generation %}` and `{% endgeneration %}` around it"):
        train(processor, messages)
    processor.apply_chat_template(messages, tokenize=True)


def test_the_beginning_of_text_is_written_once(processor):
    template = wrap_chat_template(LLM_TEMPLATES["gemma"][0])
    for processor in (processor, tiny_processor(tiny_config(), chat_template=template)):
        assert processor.transcription_prompt_ids().count(1) == 1
        text = processor.apply_chat_template(question(noise(1)), add_generation_prompt=True)
        alone = processor(text=text, audio=noise(1))["input_ids"]
        assert torch.equal(alone, ask(processor, question(noise(1)))["input_ids"])
        assert (alone == 1).sum() == 1


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
