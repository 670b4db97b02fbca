# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Masks of attention heads (AHAMask). `fixtures/head_mask` is a mask in the published form, and logits and greedy ids of the
tiny Llama beside it with and without that mask, by the published `models/modeling_llama.py`, token by token.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conversion_salmonn.head_masks import load_head_mask
from tiny_salmonn import LLAMA, ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


FOLDER = Path(__file__).parent / "fixtures" / "head_mask"
MASK = FOLDER / "checkpoint.pth"
EXPECTED = load_file(FOLDER / "expected.safetensors")


@pytest.fixture(scope="module")
def parts():
    config = tiny_config(segment_seconds=4)
    return with_adapter(tiny_model(config)), tiny_processor(config)


def test_logits_and_ids_are_those_of_its_own_code(tmp_path):
    llm = AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32).eval()
    mask = load_head_mask(MASK, llm.config)
    assert mask.tolist() == [[True, True, True, False], [False, True, True, False]]  # 0 is on; the fifth is no head
    config = tiny_config(text_config=llm.config.to_dict() | {"vocab_size": 601, "model_type": "llama"})
    model = tiny_model(config)
    weights = {
        name.removeprefix("model."): tensor for name, tensor in llm.state_dict().items() if "lm_head" not in name
    }
    rows = weights.pop("embed_tokens.weight")
    model.model.language_model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[: len(rows)] = rows
        model.lm_head.weight[: len(rows)] = llm.lm_head.weight
        ids = torch.arange(5, 29)[None]
        plain = model(ids).logits[0, -4:, : len(rows)]
        with model.mask_heads(mask):
            masked = model(ids).logits[0, -4:, : len(rows)]
        assert torch.equal(model(ids).logits[0, -4:, : len(rows)], plain)  # it is over
        settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
        assert model.generate(ids, **settings)[0, 24:].tolist() == EXPECTED["plain_ids"].tolist()
        model.save_pretrained(tmp_path)
        for each in (model, type(model).from_pretrained(tmp_path).eval()):
            found = each.generate(ids, head_mask=mask, **settings)[0, 24:]
            assert found.tolist() == EXPECTED["masked_ids"].tolist()
    torch.testing.assert_close(plain, EXPECTED["plain"], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(masked, EXPECTED["masked"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_generate_masks_heads_during_its_call(parts, num_beams):
    model, processor = parts
    inputs = ask(processor, question(noise(2), text=""))
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": num_beams}
    plain = model.generate(**inputs, **settings)
    ones = torch.ones(2, 4)
    assert torch.equal(model.generate(**inputs, head_mask=ones, **settings), plain)
    off = model.generate(**inputs, head_mask=torch.zeros(2, 4), **settings)
    assert not torch.equal(off, plain)
    assert torch.equal(model.generate(**inputs, **settings), plain)
    o_proj = model.model.language_model.layers[0].self_attn.o_proj
    with model.mask_heads(torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])):
        heads = []
        hook = o_proj.register_forward_pre_hook(lambda _, args: heads.append(args[0].unflatten(-1, (4, 8))))
        model(**inputs)
        hook.remove()
    assert not heads[0][..., 1, :].any() and heads[0][..., 0, :].any()


def test_transcriptions_take_it_too(parts):
    model, processor = parts
    features = processor(noise(2))
    off = model.generate(**features, head_mask=torch.zeros(2, 4), max_new_tokens=4, do_sample=False)
    assert not torch.equal(off, model.generate(**features, max_new_tokens=4, do_sample=False))


def test_the_prompt_of_an_empty_question_is_that_of_the_original(parts):
    _, processor = parts
    text = processor.apply_chat_template(question(noise(1), text=""), add_generation_prompt=True)
    assert text == "USER: <Speech><|audio|></Speech> \nASSISTANT:"


@pytest.mark.parametrize("mask", [torch.ones(2, 5), torch.ones(8), [[1, 1, 1, 1]] * 2])
def test_masks_of_other_shapes_are_refused(parts, mask):
    model, processor = parts
    with pytest.raises(ValueError, match=r"`head_mask` must be a tensor of shape \(layers, heads\) = \(2, 4\)"):
        model.generate(**ask(processor, question(noise(1))), head_mask=mask)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"tensor": torch.ones(12)}}, "has 12 logits, but the LLM has 2 layers of 4 heads .*, 10 in all"),
        ({"model": {"tensor": torch.ones(2, 5)}}, "is no AHAMask"),
        ({"model": {"tensor": torch.ones(10, dtype=torch.long)}}, "is no AHAMask"),
        ({"model": {"tensor": torch.full((10,), torch.nan)}}, "holds NaN"),
        ([1], "is no AHAMask"),
    ],
)
def test_files_that_are_no_masks_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "mask.pth")
    with pytest.raises(ValueError, match=message):
        load_head_mask(tmp_path / "mask.pth", tiny_config().text_config)
