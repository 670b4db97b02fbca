"""Labels: what of a conversation is trained on, and how the templates of LLMs are made to say so."""

import pytest
import torch
from transformers import AutoTokenizer

from processing_salmonn import SalmonnProcessor, wrap_chat_template
from tiny_salmonn import CHATML, IS_5_20, LLAMA, ask, noise, question, tiny_config, tiny_processor


@pytest.fixture(scope="module")
def processor() -> SalmonnProcessor:
    return tiny_processor(tiny_config(segment_seconds=30))


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


@pytest.mark.parametrize("return_tensors", ["np", "pt"] if IS_5_20 else [None, "np", "pt"])
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


# As Qwen 3 has them: earlier thoughts are left out, the last one is written once more.
THOUGHTS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}{%- set text = message.content %}"
    "{%- if message.role == 'assistant' and '</think>' in text %}"
    "{%- set thought = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set text = text.split('</think>')[-1].lstrip('\n') %}"
    "{%- if loop.last %}{{- '<think>\n' + thought + '\n</think>\n\n' }}{%- endif %}{%- endif %}"
    "{{- text + '<|im_end|>\n' }}{%- endfor %}"
)


def test_thoughts_that_templates_leave_out_or_write_again():
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    processor = tiny_processor(tiny_config(), chat_template=wrap_chat_template(THOUGHTS))
    texts = ["<think>\nHm.\n</think>\n\nNo.", "<think>\nWell.\n</think>\n\nYes.", "<think>\n\n</think>\n\nSo."]
    two = [*question(noise(1), answer=texts[0]), {"role": "user", "content": "Sure?"}]
    conversations = [[*two, {"role": "assistant", "content": text}] for text in texts[1:]]
    learnt = answers(processor, train(processor, *conversations))
    ends = ["Well.</think>Yes.<|im_end|>", "So.<|im_end|>"]
    assert ["".join(answer.split()) for answer in learnt] == [f"No.<|im_end|>{end}" for end in ends]
    for messages in conversations:
        plain = [{"role": "user", "content": "<Speech><|audio|></Speech> What is this?"}, *messages[1:]]
        assert processor.apply_chat_template(messages) == tokenizer.apply_chat_template(
            plain, chat_template=THOUGHTS, tokenize=False
        )


def test_a_thought_that_is_kept_is_learnt():
    processor = tiny_processor(tiny_config(), chat_template=wrap_chat_template(CHATML))
    learnt = answers(processor, train(processor, question(noise(1), answer="<think>\nHm.\n</think>\n\nNo.")))
    assert "".join(learnt[0].split()) == "<think>Hm.</think>No.<|im_end|>"


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
