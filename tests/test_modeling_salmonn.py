"""What must hold for every SALMONN: independence of batch, padding and attention; gradients; precision; errors."""

from copy import deepcopy

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_pt_utils import LabelSmoother

import audio_encoder_salmonn
from modeling_salmonn import SalmonnForConditionalGeneration, SalmonnModel
from tiny_salmonn import LLMS, VARIANTS, ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


ATTENTIONS = ["eager", "sdpa"]
# one clip, two clips, and no audio at all
CONVERSATIONS = [
    question(noise(2.3, 1)),
    question(noise(0.5, 2), noise(6, 3), text="Which one is louder?"),
    question(text="What is a dog?"),
]


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request) -> dict:
    """Settings of a model with segments of 4 s, of which a clip of 6 s has two."""
    return VARIANTS[request.param]


def real_logits(model, inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        logits = model(**inputs).logits[..., :600]
    return [row[mask.bool()] for row, mask in zip(logits, inputs["attention_mask"])]


def test_answers_do_not_depend_on_batch_padding_or_attention(variant):
    config = tiny_config(**variant)
    processor = tiny_processor(config)
    batch = ask(processor, *CONVERSATIONS)
    right = ask(processor, *CONVERSATIONS, padding_side="right")
    assert not torch.equal(batch["input_ids"], right["input_ids"])

    model = tiny_model(config)
    alone = [ask(processor, conversation) for conversation in CONVERSATIONS]
    expected = [real_logits(model, inputs)[0] for inputs in alone]
    assert all(logits.std() > 0.1 for logits in expected)  # else everything would be equal to everything
    ids = [model.generate(**x, max_new_tokens=4)[0, x["input_ids"].shape[1] :].tolist() for x in alone]
    for attention in ATTENTIONS:
        model.set_attn_implementation(attention)
        for logits in (real_logits(model, batch), real_logits(model, right)):
            for row, reference in zip(logits, expected, strict=True):
                torch.testing.assert_close(row, reference, atol=1e-4, rtol=0)
        answers = model.generate(**batch, max_new_tokens=4)[:, batch["input_ids"].shape[1] :].tolist()
        assert [answer[: len(single)] for answer, single in zip(answers, ids)] == ids


def test_long_clips_are_read_to_their_end():
    config = tiny_config(segment_seconds=30)
    model, processor = tiny_model(config), tiny_processor(config)
    clip = noise(31)
    features = processor.feature_extractor([clip, clip[:480000], clip[480000:]], sampling_rate=16000)
    with torch.no_grad():
        embeddings = model.get_audio_features(torch.tensor(features["input_features"])).pooler_output
    torch.testing.assert_close(embeddings[: 2 * 88], embeddings[2 * 88 :], atol=1e-5, rtol=0)


def test_a_clip_matters(variant):
    config = tiny_config(**variant)
    model, processor = tiny_model(config), tiny_processor(config)
    one, other = (real_logits(model, ask(processor, question(noise(2, seed))))[0][-1] for seed in (1, 2))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("llm", LLMS)
def test_llms(llm):
    config = tiny_config(llm)
    model, processor = tiny_model(config), tiny_processor(config)
    batch = ask(processor, *CONVERSATIONS)
    for logits, conversation in zip(real_logits(model, batch), CONVERSATIONS):
        torch.testing.assert_close(logits, real_logits(model, ask(processor, conversation))[0], atol=1e-4, rtol=0)


def test_the_number_of_tokens_is_the_processors(variant):
    config = tiny_config(**variant)
    model, processor = tiny_model(config), tiny_processor(config)
    for seconds in (0.3, 1.01, 30.02):
        features = processor.feature_extractor(noise(seconds), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            embeddings = model.get_audio_features(**features).pooler_output
        assert embeddings.shape == (processor._count_audio_tokens(int(16000 * seconds)), 32)


def test_the_mask_may_be_left_out():
    """Pipelines carry one tensor: padding can be told by it."""
    for variant in ({}, {"fixed_length": False}):
        config = tiny_config(**variant)
        model, processor = tiny_model(config), tiny_processor(config)
        features = processor.feature_extractor([noise(2), noise(5)], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            expected = model.get_audio_features(**features).pooler_output
            actual = model.get_audio_features(features["input_features"]).pooler_output
        assert torch.equal(actual, expected)


def test_audio_embeddings_can_be_reused():
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = ask(processor, CONVERSATIONS[1], CONVERSATIONS[2])
    with torch.no_grad():
        outputs = model(**inputs)
        features = {name: inputs.pop(name) for name in ("input_features", "input_features_mask", "segment_ids")}
        embeddings = model.get_audio_features(**features).pooler_output
        assert torch.equal(embeddings, outputs.audio_hidden_states)
        assert torch.equal(model(**inputs, audio_embeds=embeddings).logits, outputs.logits)
    expected = model.generate(**inputs, **features, max_new_tokens=4)
    assert torch.equal(model.generate(**inputs, audio_embeds=embeddings, max_new_tokens=4), expected)


def test_hidden_states_and_attentions():
    config = tiny_config(segment_seconds=30)
    model, processor = tiny_model(config, "eager"), tiny_processor(config)
    features = processor.feature_extractor([noise(1), noise(2)], sampling_rate=16000, return_tensors="pt")
    outputs = model.get_audio_features(**features, output_hidden_states=True, output_attentions=True)
    assert outputs.last_hidden_state.shape == (2, 1500, config.encoder_width)
    assert [state.shape for state in outputs.hidden_states] == [(2, 1500, 32)] * 3
    assert [attention.shape for attention in outputs.attentions] == [(2, 4, 1500, 1500)] * 2
    assert isinstance(model.get_audio_features(**features, return_dict=False), tuple)


def test_half_precision(variant):
    config = tiny_config(**variant)
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = ask(processor, *CONVERSATIONS)
    expected = torch.cat(real_logits(model, inputs))
    for dtype in (torch.float16, torch.bfloat16):
        rounded = deepcopy(model).to(dtype)
        actual = torch.cat(real_logits(rounded, inputs))  # the features stay in float32, as servers leave them
        assert actual.dtype == dtype
        assert torch.nn.functional.cosine_similarity(actual.float(), expected, dim=-1).min() > 0.98


def training_inputs(processor):
    conversations = [question(noise(2, 1), answer="A dog barks."), question(noise(3, 2), answer="Rain.")]
    return processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"output_labels": True}
    )


def test_gradient_checkpointing(variant):
    config = tiny_config(**variant)
    for part in (config.beats_config, config.qformer_config):
        for name in {} if part is None else part.to_dict():
            if "drop" in name:
                setattr(part, name, 0.0)
    inputs = training_inputs(tiny_processor(config))
    model, expected = tiny_model(config).train(), None
    for settings in (None, {"use_reentrant": True}, {"use_reentrant": False}):
        if settings is not None:
            model.gradient_checkpointing_enable(settings)
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        expected = expected or gradients
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)


def test_loss_ignores_the_placeholder():
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = training_inputs(processor)
    outputs = model(**inputs)
    logits, labels = outputs.logits[:, :-1, :600].flatten(0, 1), inputs["labels"][:, 1:].flatten()
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(logits, labels))
    assert outputs.logits[..., 600].exp().max() == 0 and outputs.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_dict_and_tuple_outputs_agree():
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = ask(processor, CONVERSATIONS[0])
    with torch.no_grad():
        assert torch.equal(model(**inputs, return_dict=False)[0], model(**inputs).logits)
        last = model(**inputs, logits_to_keep=1).logits
        torch.testing.assert_close(last, model(**inputs).logits[:, -1:], atol=1e-5, rtol=0)


def test_auto_classes_and_base_model(tmp_path):
    config = tiny_config()
    model = tiny_model(config)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "SalmonnConfig"
    whole = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(whole) is SalmonnForConditionalGeneration and type(base) is SalmonnModel
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[f"model.{name}"])


def test_round_trip_is_bit_equal(variant, tmp_path):
    model = tiny_model(tiny_config(**variant))
    expected = model.state_dict()
    for max_shard_size in ("5GB", "50KB"):
        folder = tmp_path / max_shard_size
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        assert (len(list(folder.glob("*.safetensors"))) > 1) == (max_shard_size == "50KB")
        actual = SalmonnForConditionalGeneration.from_pretrained(folder).state_dict()
        assert expected.keys() == actual.keys()
        assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("tie", [True, False])
def test_tied_heads(tmp_path, tie):
    config = tiny_config(tie_word_embeddings=tie)
    model = tiny_model(config)
    model.save_pretrained(tmp_path)
    loaded = SalmonnForConditionalGeneration.from_pretrained(tmp_path)
    embeddings, head = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    assert (embeddings.data_ptr() == head.data_ptr()) == tie
    assert torch.equal(head, model.lm_head.weight)


def test_resized_vocabulary():
    model = tiny_model(tiny_config())
    model.resize_token_embeddings(610)
    assert model.lm_head.out_features == model.config.text_config.vocab_size == 610
    assert model.get_input_embeddings().num_embeddings == 610


@pytest.mark.parametrize("connector", ["qformer", "linear", "cross attention"])
def test_training_moves_every_trained_parameter(connector):
    config = tiny_config(**VARIANTS[connector])
    processor = tiny_processor(config)
    model = with_adapter(tiny_model(config))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert {name.split(".")[1] for name in trained} == {
        "connector",
        "speech_layer_norm",
        "beats_layer_norm",
        "language_model",
    }
    model(**training_inputs(processor)).loss.backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without


def test_frozen_encoders_run_in_eval_mode_and_without_gradients():
    config = tiny_config()
    inputs = training_inputs(tiny_processor(config))
    model, seen = tiny_model(config).freeze_encoders(), []
    for encoder in model.model.encoders:
        encoder.register_forward_hook(lambda m, args, out: seen.append((m.training, out[0].requires_grad)))
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()  # as Trainer does it with an adapter
    model.train()(**inputs).loss.backward()
    assert set(seen) == {(False, False)} and model.model.connector.training
    assert model.get_input_embeddings().weight.grad.any()
    # one that is trained keeps its dropout and gets gradients
    model.model.beats.requires_grad_(True)
    seen.clear()
    model.train()(**inputs).loss.backward()
    assert seen[:2] == [(False, False), (True, True)]


def test_encoders_read_like_lengths_together_and_a_bounded_number_at_once(variant, monkeypatch):
    config = tiny_config(**variant)
    model, processor = tiny_model(config, "eager"), tiny_processor(config)
    clips = [noise(2, 1), noise(7, 2), noise(3, 3)]  # segments of 2, 4, 3 and 3 s
    features = processor.feature_extractor(clips, sampling_rate=16000, return_tensors="pt")
    counts = []
    model.model.encoders[0].register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    with torch.no_grad():
        found = model.get_audio_features(**features, output_hidden_states=True)
        config.max_segments_at_once = 1
        alone = model.get_audio_features(**features, output_hidden_states=True)
        monkeypatch.setattr(audio_encoder_salmonn, "LEAST_SHARE_OF_AUDIO", 0.0)
        config.max_segments_at_once = 4
        expected = model.get_audio_features(**features, output_hidden_states=True)  # all in one pass, padded
    # CODEPATH: models of BEATs alone and a fixed length hear silence up to the end of each segment
    is_whole = bool(features["input_features_mask"][:, :-2].all())
    assert counts == ([4] if is_whole else [1, 2, 1]) + [1, 1, 1, 1, 4]
    for output in (found, alone):
        for name in ("pooler_output", "last_hidden_state"):
            torch.testing.assert_close(output[name], expected[name], atol=1e-4, rtol=0)
        assert [state.shape for state in output.hidden_states] == [state.shape for state in expected.hidden_states]


def test_the_embedding_table_is_projected_once_for_all_passes():
    config = tiny_config(**VARIANTS["cross attention"], max_segments_at_once=1)
    model, processor = tiny_model(config), tiny_processor(config)
    features = processor.feature_extractor([noise(2, 1), noise(7, 2)], sampling_rate=16000, return_tensors="pt")
    calls = []
    model.model.connector.attention.k_proj.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model.get_audio_features(**features)
        assert len(calls) == 1
        before = model.get_audio_features(**features).pooler_output
        model.get_input_embeddings().weight.mul_(2)  # nothing is kept from one call to the next
        assert not torch.allclose(model.get_audio_features(**features).pooler_output, before)


def test_the_inputs_of_the_encoders_can_come_apart():
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = ask(processor, *CONVERSATIONS)
    packed = inputs.pop("input_features")
    apart = {"mel_features": packed[:, :80], "fbank_features": packed[:, 80:].transpose(1, 2)[:, :700]}
    with torch.no_grad():
        expected = model(**inputs, input_features=packed).logits
        assert torch.equal(model(**inputs, **apart).logits, expected)
    output = model.generate(**inputs, **apart, max_new_tokens=2)
    assert torch.equal(output, model.generate(**inputs, input_features=packed, max_new_tokens=2))
    for wrong in ({"mel_features": packed[:, :80]}, {"fbank_features": apart["fbank_features"]}):
        with pytest.raises(ValueError, match="`mel_features` with `fbank_features`"):
            model(**inputs, **wrong)
    with pytest.raises(ValueError, match="only one of both"):
        model(**inputs, input_features=packed, **apart)


def test_prompts_without_their_audio_are_refused():
    config = tiny_config(segment_seconds=30)
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = ask(processor, CONVERSATIONS[0])
    deaf = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="got 88 placeholders for 0 audio tokens"):
            call(**deaf)
    with pytest.raises(ValueError, match="got 88 placeholders for 87 audio tokens"):
        model(**deaf, audio_embeds=torch.zeros(87, 32))
    # Transformers' common tests give the base model any ids. TRL's trainers run it without the head.
    assert model.model(**deaf).last_hidden_state.isfinite().all()
    with pytest.raises(ValueError, match="got 88 placeholders for 0 audio tokens"):
        model.model.train()(**deaf)


def test_padding_is_not_taken_for_placeholders():
    """With a placeholder whose embedding is zero, as padding often is, the mask tells them apart."""
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[[0, config.audio_token_id]] = 0
        inputs = ask(processor, *CONVERSATIONS)
        expected = real_logits(model, inputs)
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
        for logits, reference in zip(real_logits(model, inputs), expected):
            torch.testing.assert_close(logits, reference, atol=1e-5, rtol=0)


def test_labels_on_placeholders_are_not_trained_on():
    config = tiny_config()
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = training_inputs(processor)
    everything = inputs["input_ids"].clone()
    text = everything.masked_fill(everything == config.audio_token_id, -100)
    inputs.pop("labels")
    with torch.no_grad():
        assert torch.equal(model(**inputs, labels=everything).loss, model(**inputs, labels=text).loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("row", ["zeros", "spare"])
def test_the_placeholder_has_no_probability_and_labels_can_be_smoothed(dtype, row):
    config = tiny_config()
    model = tiny_model(config)
    if row == "spare":  # as Qwen's vocabulary has rows of noise beyond its tokens
        torch.nn.init.constant_(model.lm_head.weight[config.audio_token_id], 5.0)
    inputs = training_inputs(tiny_processor(config))
    with torch.no_grad():
        outputs = model.to(dtype)(**inputs)
    assert outputs.logits[..., 600].float().exp().max() == 0
    smoother = LabelSmoother(epsilon=0.1)
    own = {"logits": outputs.logits[..., :600]}
    smoothed, expected = (smoother(x, inputs["labels"], shift_labels=True) for x in (outputs, own))
    assert (smoothed - expected).abs() < 2  # 0.1 * 1e4 / 601: no gradient comes from it


def test_trainer_sees_tokens_and_logits():
    assert SalmonnForConditionalGeneration.main_input_name == "input_ids"
    assert "audio_hidden_states" in tiny_config().keys_to_ignore_at_inference
    assert "SalmonnForConditionalGeneration" in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()  # labels are shifted


def corrupt(inputs, **changes):
    return {name: tensor for name, tensor in {**inputs, **changes}.items() if tensor is not None}


def test_bad_inputs_are_refused():
    config = tiny_config(segment_seconds=30)
    model, processor = tiny_model(config), tiny_processor(config)
    inputs = dict(ask(processor, CONVERSATIONS[1]))
    features, mask = inputs["input_features"], inputs["input_features_mask"]
    del inputs["segment_ids"]
    for changes, message in (
        ({"input_features": features[:1], "input_features_mask": mask[:1]}, "176 placeholders for 88 audio tokens"),
        ({"input_features": features[[0, 1, 1]], "input_features_mask": mask[[0, 1, 1]]}, "176 placeholders for 264"),
        ({"input_ids": inputs["input_ids"].repeat(1, 2), "attention_mask": None}, "352 placeholders for 176"),
        ({"input_features": features[:, :80]}, r"\(segments, 208 rows, frames\)"),
        ({"input_features": features[0]}, r"\(segments, 208 rows, frames\)"),
        ({"input_features": features[..., :2000]}, "3000 frames, got 2000"),
        ({"input_features_mask": mask[:1]}, r"`input_features_mask` must have shape .*\(2, 3000\)"),
        ({"input_features_mask": torch.zeros_like(mask)}, "`input_features_mask` must mark real frames"),
        ({"input_features_mask": 2 * mask}, "`input_features_mask` must hold 0 and 1, got 2"),
        ({"segment_ids": torch.zeros(3)}, r"`segment_ids` must have shape .*\(2,\)"),
        ({"input_features": features * torch.nan}, "`input_features` must be finite"),
        ({"audio_embeds": torch.zeros(176, 31), "input_features": None}, "32\\), the LLM's width, got"),
        ({"audio_embeds": torch.zeros(176, 32)}, "At most one of `input_features` and `audio_embeds`"),
        ({"input_ids": None}, "Exactly one of `input_ids` and `inputs_embeds`"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**corrupt(inputs, **changes))
    with pytest.raises(TypeError, match="`input_features` must be a tensor, got list"):
        model(**corrupt(inputs, input_features=features.tolist()))
