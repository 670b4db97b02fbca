"""bitsandbytes on the LLM alone: the encoders and the connector stay as they are."""

import pytest
import torch
from transformers import BitsAndBytesConfig

from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


pytest.importorskip("bitsandbytes")
ENCODERS = ["model.speech_encoder", "model.beats", "model.connector", "lm_head"]


@pytest.mark.parametrize("bits", [8, 4])
def test_quantizing_the_llm(tmp_path, bits):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tiny_config(text_config={"model_type": "llama", "vocab_size": 601} | sizes)
    whole = tiny_model(config)
    whole.save_pretrained(tmp_path / "base")
    with_adapter(tiny_model(config)).save_pretrained(tmp_path / "adapter", adapter_only=True)
    quantization = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True}
    quantized = SalmonnForConditionalGeneration.from_pretrained(
        tmp_path / "base",
        quantization_config=BitsAndBytesConfig(**quantization, llm_int8_skip_modules=ENCODERS),
        device_map="cpu",
    )
    kinds = {}
    for name, module in quantized.named_modules():
        if isinstance(module, torch.nn.Linear):
            kinds.setdefault(type(module) is torch.nn.Linear, set()).add(".".join(name.split(".")[:2]))
    assert kinds == {False: {"model.language_model"}, True: set(ENCODERS)}

    inputs = ask(tiny_processor(config), question(noise(2)))
    with torch.no_grad():
        expected, actual = (model.model(**inputs).audio_hidden_states for model in (whole, quantized))
        torch.testing.assert_close(actual.float(), expected, atol=1e-2, rtol=1e-2)  # the rest is in half precision
        expected, actual = (model(**inputs).logits[..., :600] for model in (whole, quantized))
    assert torch.nn.functional.cosine_similarity(actual.float(), expected, dim=-1).min() > (0.9 if bits == 8 else 0.7)
    assert quantized.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3
    quantized.load_adapter(tmp_path / "adapter")  # the same base, as far as can be read
