# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Memory of fine-tuning LoRA, connector and norms, as `docs/finetune.md` tabulates it.

    python benchmarks/training_memory.py ./salmonn-nano --batch-size 8               measured: two steps on noise
    python benchmarks/training_memory.py ./salmonn-nano --batch-size 8 --checkpoint  with gradient checkpointing
    python benchmarks/training_memory.py ./salmonn-nano --bits 4                     on an LLM of 4 bits (QLoRA)
    python benchmarks/training_memory.py --compute 13B --bits 4                      computed, of a model that is not here

Measured is the peak of the process on a CPU, less what it needs before it loads a model, and of torch's allocator on a GPU.
Computed are weights, gradients and Adam's states by their sizes, and what the LLM's forward pass keeps for the backward
pass, counted on tensors without data. Neither holds what the encoders and the optimizer need for a moment.
"""

import argparse
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from peft import inject_adapter_in_model


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a clone that is not installed

from adapter_salmonn import UNQUANTIZED_MODULES  # noqa: E402
from configuration_salmonn import SalmonnConfig  # noqa: E402
from modeling_salmonn import SalmonnForConditionalGeneration  # noqa: E402
from processing_salmonn import SalmonnProcessor  # noqa: E402


VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32001,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 0,
}
RELEASED = {"13B": {}, "7B": {"text_config": VICUNA_7B}}
BYTES = {16: 2.0, 8: 1.0, 4: 0.5 + 4 / 64}  # of a weight; with 4 bits every 64 of them share a float32
QUESTION_TOKENS = 60  # the prompt around the clip, and the answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder of a model to measure")
    parser.add_argument("--compute", choices=RELEASED, help="compute for a model of these sizes instead")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="length of a clip (default: 10)")
    parser.add_argument("--bits", type=int, choices=BYTES, default=16, help="of the LLM's linear layers")
    parser.add_argument("--dtype", default="bfloat16", help="of the other weights (default: bfloat16)")
    parser.add_argument("--checkpoint", action="store_true", help="gradient checkpointing")
    options = parser.parse_args()
    if (options.model is None) == (options.compute is None):
        parser.error("name a model to measure, or --compute")
    for name, size in (compute(options) if options.compute else measure(options)).items():
        print(f"{name:24} {size / 1e9:8.2f} GB")


def measure(options) -> dict[str, float]:
    """Peak memory of two steps of AdamW."""
    before = peak(torch.device("cpu"))
    settings = {"dtype": options.dtype}
    if options.bits < 16:
        from transformers import BitsAndBytesConfig

        kind = {"load_in_8bit": True} if options.bits == 8 else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        kind["bnb_4bit_compute_dtype"] = options.dtype
        settings["quantization_config"] = BitsAndBytesConfig(**kind, llm_int8_skip_modules=list(UNQUANTIZED_MODULES))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = SalmonnForConditionalGeneration.from_pretrained(options.model, device_map=device, **settings)
    processor = SalmonnProcessor.from_pretrained(options.model)
    if getattr(model, "peft_config", None):
        model.train_adapter()
    else:
        model.add_adapter(model.lora_config())
    set_mode(model, options)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)

    clip = np.random.default_rng(0).normal(0, 0.1, round(options.seconds * 16000)).astype("float32")
    question = [{"type": "audio", "audio": clip}, {"type": "text", "text": "What do you hear in this recording?"}]
    answer = {"role": "assistant", "content": "Noise of one kind from the first second to the last one."}
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": question}, answer]] * options.batch_size,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"output_labels": True},
    ).to(device)
    for _ in range(2):  # Adam makes its states in the first
        with torch.autocast(device.type, dtype=getattr(torch, options.dtype), enabled=options.dtype != "float32"):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"peak": peak(device) - (before if device.type == "cpu" else 0)}


def set_mode(model, options) -> None:
    model.train()
    if options.checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def peak(device: torch.device) -> float:
    """Most bytes that were ever in use."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def compute(options) -> dict[str, float]:
    """Bytes by what they are for, of a model that is never allocated."""
    config = SalmonnConfig(**RELEASED[options.compute])
    with torch.device("meta"):
        model = SalmonnForConditionalGeneration(config).to(getattr(torch, options.dtype))
        llm = model.model.language_model
        quantized = sum(module.weight.numel() for module in llm.modules() if isinstance(module, torch.nn.Linear))
        inject_adapter_in_model(model.lora_config(), model)
        set_mode(model, options)
        tokens = (
            config.num_audio_tokens(round(50 * (30 if config.fixed_length else options.seconds))) + QUESTION_TOKENS
        )
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage
            return tensor

        embeds = torch.empty(options.batch_size, tokens, config.text_config.hidden_size, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", dtype=getattr(torch, options.dtype)):
                mask = torch.ones(options.batch_size, 1, tokens, tokens, dtype=torch.bool)
                hidden = llm(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
                logits = model.lm_head(hidden).float()
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.zeros(logits[..., 0].numel(), dtype=torch.long)
            )
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        rest = sum(parameter.numel() for parameter in model.parameters()) - trained - quantized
    sizes = {
        "frozen weights": quantized * BYTES[options.bits] + rest * BYTES[16],
        "trained weights": 4.0 * trained,
        "gradients": 4.0 * trained,
        "Adam's states": 8.0 * trained,
        "kept for backward": float(sum(storage.nbytes() for storage in kept.values())),
    }
    return sizes | {"sum": sum(sizes.values())}


if __name__ == "__main__":
    main()
