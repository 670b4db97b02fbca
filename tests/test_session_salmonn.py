"""Several questions about the same clips: the answers of `generate`, for less."""

import pytest
import torch
from transformers import DynamicCache

from session_salmonn import PromptCache, SalmonnSession, make_prompt
from tiny_salmonn import LLMS, VARIANTS, ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


CLIPS = [noise(2, 1), noise(6, 2)]
QUESTIONS = ("What is this?", "Who speaks?", "What is this?")


@pytest.fixture(scope="module", params=["qformer", "cross attention", "real length", "segment positions"])
def parts(request):
    config = tiny_config(**VARIANTS[request.param])
    return tiny_model(config), tiny_processor(config)


def answer(model, processor, conversation, **kwargs) -> str:
    inputs = ask(processor, conversation)
    output = model.generate(**inputs, max_new_tokens=6, **kwargs)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def watch(module) -> list[int]:
    """The tokens that each call of the module reads."""
    read = []
    hook = lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1])  # noqa: E731
    module.register_forward_pre_hook(hook, with_kwargs=True)
    return read


def test_answers_are_those_of_generate_and_only_what_is_new_is_read(parts):
    model, processor = parts
    session = SalmonnSession(model, processor, CLIPS, max_new_tokens=6)
    encoded = []
    hook = model.model.speech_encoder.register_forward_hook(lambda *_: encoded.append(1))
    read = watch(model.model.language_model)
    prefills = []
    for text in QUESTIONS:
        read.clear()
        encoded.clear()
        found = session.ask(text)
        assert not encoded  # the session encoded before
        prefills.append(read[0])
        assert found == answer(model, processor, question(*CLIPS, text=text))
    assert prefills[0] > sum(session.audio_tokens)
    assert max(prefills[1:]) < 20 < sum(session.audio_tokens)
    hook.remove()


def test_what_was_said_is_remembered_if_asked(parts):
    model, processor = parts
    session = SalmonnSession(model, processor, CLIPS, max_new_tokens=6)
    first = session.ask("What is this?")
    turns = question(*CLIPS, text="What is this?", answer=first)
    turns.append({"role": "user", "content": [{"type": "text", "text": "And who speaks?"}]})
    assert session.ask("And who speaks?", remember=True) == answer(model, processor, turns)
    assert [asked for asked, _ in session.turns] == ["What is this?", "And who speaks?"]
    assert session.ask("Alone?") == answer(model, processor, question(*CLIPS, text="Alone?"))


@pytest.mark.parametrize("llm", LLMS)
def test_prompts_are_the_processors(llm):
    processor = tiny_processor(tiny_config(llm))
    turns = [("What is this?", "A dog."), ("And now?", None)]
    conversation = question(*CLIPS, text=turns[0][0], answer=turns[0][1])
    conversation.append({"role": "user", "content": [{"type": "text", "text": turns[1][0]}]})
    counts = [processor._count_audio_tokens(len(clip)) for clip in CLIPS]
    assert torch.equal(make_prompt(processor, counts, turns), ask(processor, conversation)["input_ids"])


def test_nothing_is_shared_between_clips_or_strengths_of_lora():
    config = tiny_config()
    model, processor = with_adapter(tiny_model(config)), tiny_processor(config)
    cache = PromptCache(model, size=3)
    inputs = make_prompt(processor, [12], [("What is this?", None)])
    clips = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
    cases = [(clip, scale) for clip in clips for scale in (5.0, 0.0)]
    answers = set()
    for clip, scale in cases + cases[::-1]:
        options = {"audio_embeds": clip, "lora_scale": scale, "max_new_tokens": 6}
        expected = model.generate(inputs, attention_mask=torch.ones_like(inputs), **options)
        found = cache.generate(inputs, **options)
        assert torch.equal(found, expected)
        answers.add(tuple(found[0].tolist()))
    assert len(answers) == 4  # else nothing would have shown
    assert len(cache._prefixes) == 3


def test_an_llm_whose_keys_cannot_be_cut_reads_the_prompt_again():
    text_config = {"model_type": "mistral", "sliding_window": 16, "num_key_value_heads": 2}
    sizes = {"vocab_size": 601, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = tiny_config(
        text_config=text_config | sizes | {"num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2}
    )
    model, processor = tiny_model(config), tiny_processor(config)
    assert all(layer.is_sliding for layer in DynamicCache(config=config.text_config).layers)
    session = SalmonnSession(model, processor, CLIPS[0], max_new_tokens=6)
    for text in QUESTIONS:
        assert session.ask(text) == answer(model, processor, question(CLIPS[0], text=text))


def test_beams_and_drafts_are_searched_without_what_is_kept():
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    session = SalmonnSession(model, processor, CLIPS[0], max_new_tokens=6)
    for options in ({"num_beams": 3}, {"prompt_lookup_num_tokens": 2}):
        for text in QUESTIONS[:2]:
            expected = answer(model, processor, question(CLIPS[0], text=text), **options)
            assert session.ask(text, **options) == expected


def test_what_cannot_be_asked_is_refused():
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    with pytest.raises(ValueError, match="`audio` must hold at least one clip"):
        SalmonnSession(model, processor, [])
    session = SalmonnSession(model, processor, CLIPS[0])
    for wrong in ("", "  ", None, 3):
        with pytest.raises(ValueError, match="`question` must be a text"):
            session.ask(wrong)
    assert session.turns == []
    with pytest.raises(ValueError, match="`size` must be an integer of at least 1, got 0"):
        PromptCache(model, size=0)
    with pytest.raises(ValueError, match=r"`input_ids` must be of shape \(1, sequence_length\), got \(2, 3\)"):
        PromptCache(model).generate(torch.ones(2, 3, dtype=torch.long), session.audio_embeds)
