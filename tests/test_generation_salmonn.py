"""`generate`: every mode, batches, audio encoded once, transcription without a prompt, LoRA turned down."""

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM, TextIteratorStreamer
from transformers.generation import SuppressTokensLogitsProcessor
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

import generation_salmonn
from tiny_salmonn import (
    AUDIO_TOKEN_ID,
    IS_BEFORE_5_23,
    ask,
    noise,
    question,
    tiny_config,
    tiny_model,
    tiny_processor,
    with_adapter,
)


SEGMENT = 4  # seconds: 11 audio tokens
CONVERSATIONS = [question(noise(2, 1)), question(noise(1, 2), noise(5, 3), text="Which?"), question(text="Hello?")]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(tiny_config(segment_seconds=SEGMENT))


@pytest.fixture(scope="module")
def model(processor):
    config = tiny_config(segment_seconds=SEGMENT, transcription_prompt_ids=processor.transcription_prompt_ids())
    model = tiny_model(config)
    model.generation_config.eos_token_id = None  # every answer is as long as asked for
    return model


def new_tokens(model, inputs, **kwargs):
    output = model.generate(**inputs, max_new_tokens=5, **kwargs)
    assert torch.equal(output[: len(inputs["input_ids"]), : inputs["input_ids"].shape[1]], inputs["input_ids"]) or (
        kwargs.get("num_return_sequences", 1) > 1
    )
    return output[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=str,
)
def test_batches_equal_single_prompts(model, processor, settings):
    conversations = CONVERSATIONS[:1] if "prompt_lookup_num_tokens" in settings else CONVERSATIONS
    batch = new_tokens(model, ask(processor, *conversations), do_sample=False, **settings)
    singles = [new_tokens(model, ask(processor, messages), do_sample=False, **settings) for messages in conversations]
    assert torch.equal(batch, torch.cat(singles))
    if "num_beams" not in settings:
        assert torch.equal(batch, new_tokens(model, ask(processor, *conversations), do_sample=False))


def test_samples_of_a_prompt_hear_the_same_clips(model, processor):
    """With little temperature all samples are the greedy answer, if each has all of its segments in order."""
    inputs = ask(processor, *CONVERSATIONS)
    greedy = new_tokens(model, inputs, do_sample=False)
    sampled = new_tokens(model, inputs, do_sample=True, temperature=1e-4, top_k=0, num_return_sequences=3)
    assert torch.equal(sampled, greedy.repeat_interleave(3, dim=0))


def test_audio_is_encoded_once(model, processor):
    calls = []
    hook = model.model.speech_encoder.register_forward_hook(lambda _, args, output: calls.append(args[0].shape[0]))
    new_tokens(model, ask(processor, *CONVERSATIONS), num_beams=3)
    hook.remove()
    assert sum(calls) == 4  # one clip of one segment, and one of one and one of two


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("has_ids", [True, False])
def test_copies_of_a_prompt_are_read_once(model, processor, settings, has_ids, monkeypatch):
    inputs = ask(processor, *CONVERSATIONS)
    if not has_ids:
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    shapes = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    answers, settings = [], settings | {"do_sample": False, "max_new_tokens": 5, "output_scores": True}
    for can_copy in (True, False):
        monkeypatch.setattr(generation_salmonn, "_can_copy_cache", lambda *_: can_copy)
        answers.append(model.generate(**inputs, **settings, return_dict_in_generate=True))
    hook.remove()
    prompts, beams = len(CONVERSATIONS), settings["num_beams"]
    first, *steps = shapes[: len(shapes) // 2]
    assert first == (prompts, inputs["attention_mask"].shape[1]) and set(steps) == {(prompts * beams, 1)}
    assert shapes[len(shapes) // 2][0] == prompts * beams
    assert torch.equal(answers[0].sequences, answers[1].sequences)
    torch.testing.assert_close(answers[0].sequences_scores, answers[1].sequences_scores)


@pytest.mark.parametrize(
    "settings, can_copy",
    [
        ({"model_type": "llama"}, True),
        ({"model_type": "mistral", "sliding_window": 8}, True),
        ({"model_type": "qwen3_5_text", "layer_types": ["linear_attention", "full_attention"]}, False),
    ],
    ids=str,
)
def test_beams_of_llms_that_keep_other_things(settings, can_copy, monkeypatch):
    """What is kept by row is copied, or else computed: the answers are the same."""
    config = tiny_config()
    text_config = {**config.text_config.to_dict(), **settings}
    for name in ("rope_parameters", "head_dim"):
        text_config.pop(name, None)
    model = tiny_model(tiny_config(text_config=text_config))
    inputs = ask(tiny_processor(config), *CONVERSATIONS[:2])
    found, can_copy_cache = [], generation_salmonn._can_copy_cache

    def note(*arguments):
        found.append(can_copy_cache(*arguments))
        return found[-1]

    monkeypatch.setattr(generation_salmonn, "_can_copy_cache", note)
    answers = model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=5)
    assert found == [can_copy]
    monkeypatch.setattr(generation_salmonn, "_can_copy_cache", lambda *_: False)
    assert torch.equal(answers, model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=5))


def test_what_is_asked_for_of_every_copy_is_given(model, processor):
    inputs = ask(processor, *CONVERSATIONS)
    settings = {"num_beams": 2, "max_new_tokens": 3, "return_dict_in_generate": True}
    output = model.generate(**inputs, **settings, output_hidden_states=True)
    assert {state.shape[0] for step in output.hidden_states for state in step} == {2 * len(CONVERSATIONS)}


def test_decoding_steps_take_no_audio(model, processor):
    steps = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: steps.append(kwargs), with_kwargs=True)
    new_tokens(model, ask(processor, *CONVERSATIONS))
    hook.remove()
    audio = {"input_features", "input_features_mask", "segment_ids"}
    assert audio <= steps[0].keys() and len(steps) > 1
    assert not any(audio & step.keys() for step in steps[1:])


def test_the_placeholder_is_never_generated(model, processor):
    outputs = model.generate(
        **ask(processor, *CONVERSATIONS), max_new_tokens=50, do_sample=True, temperature=100.0, top_k=0
    )
    prompt = ask(processor, *CONVERSATIONS)["input_ids"].shape[1]
    assert not (outputs[:, prompt:] == AUDIO_TOKEN_ID).any()
    assert len(outputs[:, prompt:].unique()) > 50


def test_streamer(model, processor):
    inputs = ask(processor, CONVERSATIONS[0])
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    expected = processor.tokenizer.decode(new_tokens(model, inputs)[0])
    model.generate(**inputs, max_new_tokens=5, streamer=streamer)
    assert "".join(streamer) == expected


def test_rows_stop_by_themselves(model, processor):
    inputs = ask(processor, *CONVERSATIONS)
    free = new_tokens(model, inputs, do_sample=False)
    eos = int(free[0, 1])
    stopped = new_tokens(model, inputs, do_sample=False, eos_token_id=eos, pad_token_id=0)
    for row, whole in zip(stopped.tolist(), free.tolist()):
        length = whole.index(eos) + 1 if eos in whole else len(whole)
        assert row[:length] == whole[:length]


def test_transcription_without_a_prompt(model, processor):
    clips = [noise(2, 1), noise(3, 3)]
    features = processor(clips, sampling_rate=16000, return_tensors="pt")
    inputs = processor.apply_transcription_request(clips, return_tensors="pt")
    expected = new_tokens(model, inputs, do_sample=False)
    assert torch.equal(model.generate(**features, max_new_tokens=5, do_sample=False), expected)
    output = model.generate(**features, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected)
    # as the ASR pipeline calls it: one row for each clip, by the name of the main input, and the mask by another
    carried = processor.feature_extractor(clips, 16000, return_attention_mask=True, return_tensors="pt")
    call = {model.main_input_name: carried["input_features"], "attention_mask": carried["attention_mask"]}
    assert torch.equal(model.generate(**call, max_new_tokens=5, do_sample=False), expected)


@pytest.mark.parametrize("fixed_length", [True, False])
def test_long_clips_are_transcribed_piece_by_piece(processor, fixed_length):
    """A clip of more than the model was trained on gives what its pieces give, one behind the other."""
    config = tiny_config(segment_seconds=SEGMENT, max_audio_seconds=SEGMENT, fixed_length=fixed_length)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    config.transcription_separator_ids = [7]
    config.max_segments_at_once = 2
    processor, model = tiny_processor(config), tiny_model(config)
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "num_beams": 2}
    clips = [noise(2, 1), noise(9, 2)]
    pieces = [clips[0], *processor.feature_extractor._cut(clips[1], at_silence=True)]
    assert len(pieces) == 4
    answers = []
    for piece in pieces:
        answer = model.generate(**processor(piece), **settings)[0].tolist()
        while answer and answer[-1] == 0:  # padding
            answer.pop()
        answers.append(answer)
    expected = [answers[0], [*answers[1], 7, *answers[2], 7, *answers[3]]]
    carried = processor.feature_extractor(clips, 16000, return_attention_mask=True, return_tensors="pt")
    left_padded = {name: torch.stack([value[0].roll(-400, 0), value[1]]) for name, value in carried.items()}
    for found in (
        model.generate(**processor(clips), **settings),
        model.generate(carried["input_features"], attention_mask=carried["attention_mask"], **settings),
        # pipelines pad a batch on the side of the tokenizer
        model.generate(left_padded["input_features"], attention_mask=left_padded["attention_mask"], **settings),
        model.transcribe(**processor(clips), **settings),
    ):
        assert [row[: len(ids)] for row, ids in zip(found.tolist(), expected)] == expected
        assert found.shape == (2, len(expected[1])) and not found[0, len(expected[0]) :].any()
    with pytest.raises(ValueError, match="transcribed in one piece, got one of more than 4 s"):
        model.generate(**processor(clips), return_dict_in_generate=True)
    with pytest.raises(ValueError, match="`streamer` takes one clip, got 2"):
        model.generate(**processor(clips), streamer=TextIteratorStreamer(processor.tokenizer))
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    ids = model.generate(**processor(clips[1]), streamer=streamer, **settings | {"num_beams": 1})[0]
    assert "".join(streamer) == processor.tokenizer.decode(ids)


def test_models_for_long_audio_hear_all_of_a_clip_at_once(processor):
    config = tiny_config(segment_seconds=SEGMENT, max_audio_seconds=None, beats_config=None)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    model, processor = tiny_model(config), tiny_processor(config)
    expected = new_tokens(model, processor.apply_transcription_request(noise(5, 3)), do_sample=False)
    output = model.generate(**processor(noise(5, 3)), max_new_tokens=5, do_sample=False)
    assert torch.equal(output, expected)


def test_what_the_model_was_not_made_for_gets_a_warning(processor):
    config = tiny_config(beats_config=None)
    config.text_config.max_position_embeddings = 100
    model, processor = tiny_model(config), tiny_processor(config)
    with CaptureLogger(logging.get_logger("generation_salmonn")) as captured:
        model.generate(**ask(processor, question(noise(29))), max_new_tokens=1)
    assert "more than the 100 that the LLM can attend to" in captured.out and "trained on" not in captured.out
    config.text_config.max_position_embeddings = 1000
    with CaptureLogger(logging.get_logger("generation_salmonn")) as captured:
        model.generate(**ask(processor, question(noise(31))), max_new_tokens=1)
    assert "longer than the 30 s that this model was trained on" in captured.out and "attend" not in captured.out


def test_transcription_of_incomplete_clips_is_refused(model, processor):
    features = processor.feature_extractor([noise(5)], sampling_rate=16000, return_tensors="pt")
    with pytest.raises(ValueError, match=r"`segment_ids` must have shape .* = \(1,\)"):
        model.generate(features["input_features"][:1], segment_ids=features["segment_ids"])
    with pytest.raises(ValueError, match=r"must number the segments of each clip 0, 1, 2, ..., got \[1\]"):
        model.generate(features["input_features"][1:], segment_ids=features["segment_ids"][1:])


def test_arguments_can_be_positional(model, processor):
    inputs = ask(processor, CONVERSATIONS[0])
    config = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0)
    expected = model.generate(**inputs, generation_config=config)
    ids = inputs.pop("input_ids")
    forbidden = int(expected[0, ids.shape[1]])
    assert torch.equal(model.generate(ids, config, **inputs), expected)
    output = model.generate(ids, config, [SuppressTokensLogitsProcessor([forbidden])], **inputs)
    assert output[0, ids.shape[1]] != forbidden


def test_assisted_decoding(model, processor):
    inputs = ask(processor, CONVERSATIONS[0])
    assistant = LlamaForCausalLM(tiny_config().text_config).eval()
    assistant.generation_config.eos_token_id = None
    expected = new_tokens(model, inputs, do_sample=False)
    assert torch.equal(new_tokens(model, inputs, do_sample=False, assistant_model=assistant), expected)
    # one that hears is as good as the model: it hears the clip, once
    calls = []
    hook = model.model.speech_encoder.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(new_tokens(model, inputs, do_sample=False, assistant_model=model), expected)
    hook.remove()
    assert len(calls) == 2


@pytest.mark.skipif(IS_BEFORE_5_23, reason="audio is sliced by chunks from Transformers 5.23 on, and refused before")
def test_prefill_in_chunks(model, processor):
    inputs = ask(processor, CONVERSATIONS[0])
    expected = new_tokens(model, inputs, do_sample=False)
    assert torch.equal(new_tokens(model, inputs, prefill_chunk_size=8, do_sample=False), expected)
    features = {name: inputs.pop(name) for name in ("input_features", "input_features_mask", "segment_ids")}
    embeds = model.get_audio_features(**features).pooler_output
    assert torch.equal(new_tokens(model, inputs, audio_embeds=embeds, prefill_chunk_size=8, do_sample=False), expected)


def test_transcription_without_an_instruction(processor):
    model = tiny_model(tiny_config(segment_seconds=SEGMENT))
    features = processor(noise(1), sampling_rate=16000, return_tensors="pt")
    assert model.generate(**features, max_new_tokens=3).shape == (1, 3)


def test_generation_from_embeddings(model, processor):
    inputs = ask(processor, *CONVERSATIONS[:1])
    expected = new_tokens(model, inputs, do_sample=False)
    inputs_embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(model.generate(**inputs, inputs_embeds=inputs_embeds, max_new_tokens=5), expected)


def test_generation_continues_from_a_cache(model, processor):
    inputs = ask(processor, CONVERSATIONS[0])
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    first = model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    mask = torch.ones_like(first.sequences)
    second = model.generate(
        first.sequences,
        attention_mask=mask,
        past_key_values=first.past_key_values,
        max_new_tokens=3,
        do_sample=False,
    )
    assert torch.equal(second, expected)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_cache_is_continued_with_a_new_clip(model, processor, num_beams):
    both = question(noise(2, 1), noise(3, 2))
    settings = {"do_sample": False, "num_beams": num_beams, "max_new_tokens": 4}
    inputs = ask(processor, both)
    expected = model.generate(**inputs, **settings)
    length = int((inputs["input_ids"][0] == AUDIO_TOKEN_ID).nonzero()[11])
    with torch.no_grad():
        cache = model(
            input_ids=inputs["input_ids"][:, :length].repeat(num_beams, 1),
            input_features=inputs["input_features"][:1].repeat(num_beams, 1, 1),
        ).past_key_values
    second = {name: inputs[name][1:] for name in ("input_features", "input_features_mask")}
    output = model.generate(
        inputs["input_ids"], attention_mask=inputs["attention_mask"], past_key_values=cache, **second, **settings
    )
    assert torch.equal(output, expected)


def test_lora_scale(processor):
    model = with_adapter(tiny_model(tiny_config(segment_seconds=SEGMENT)))
    inputs = ask(processor, CONVERSATIONS[0])
    full, off = new_tokens(model, inputs), new_tokens(model, inputs, lora_scale=0)
    assert torch.equal(full, new_tokens(model, inputs, lora_scale=1.0)) and not torch.equal(full, off)
    q_proj = model.model.language_model.layers[0].self_attn.q_proj
    assert q_proj.scaling == {"default": 4.0}

    def fail(*args):
        assert q_proj.scaling == {"default": 2.0}
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        model.generate(**inputs, max_new_tokens=5, lora_scale=0.5, stopping_criteria=[fail])
    assert q_proj.scaling == {"default": 4.0}
    assert torch.equal(new_tokens(model, inputs), full)


@pytest.mark.parametrize("scale", [-1, float("nan"), float("inf"), "half", True])
def test_bad_lora_scales_are_refused(processor, scale):
    model = with_adapter(tiny_model(tiny_config(segment_seconds=SEGMENT)))
    with pytest.raises(ValueError, match="`lora_scale` must be a number"):
        model.generate(**ask(processor, CONVERSATIONS[0]), lora_scale=scale)


def test_lora_scale_needs_lora(model, processor):
    with pytest.raises(ValueError, match="`lora_scale` needs a model with a LoRA adapter"):
        model.generate(**ask(processor, CONVERSATIONS[0]), lora_scale=0.5)


def test_features_and_embeddings_together_are_refused(model, processor):
    inputs = ask(processor, CONVERSATIONS[0])
    with pytest.raises(ValueError, match="At most one of"):
        model.generate(**inputs, audio_embeds=torch.zeros(11, 32))
    with pytest.raises(ValueError, match="`audio_embeds` needs `input_ids`"):
        model.generate(audio_embeds=torch.zeros(11, 32))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_prompts_that_do_not_fit_their_audio_are_refused(model, processor, num_beams):
    inputs = ask(processor, CONVERSATIONS[0])
    inputs["input_ids"] = inputs["input_ids"].repeat(1, 2)
    del inputs["attention_mask"]
    with pytest.raises(ValueError, match="22 placeholders for 11 audio tokens"):
        model.generate(**inputs, num_beams=num_beams)
    with pytest.raises(ValueError, match=r"\(segments, 208 rows, frames\)"):
        model.generate(torch.zeros(1, 80, 400))
