# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What answers cost: beside the bare LLM from the same embeddings, asked again about the same clip, and with beams.

    python benchmarks/generation.py                        salmonn-nano; with --dtype bfloat16 on CPUs that have it
    python benchmarks/generation.py --model ./salmonn-13b --seconds 10 --output runs/benchmarks
"""

from pathlib import Path

import numpy as np
from side_by_side import Benchmark
from transformers import AutoModelForCausalLM

from cli_salmonn.commands import add_dtype
from cli_salmonn.inference import load, prepare
from demo_salmonn.demo import find_nano
from session_salmonn import SalmonnSession


RATE = 16000


def bare_llm(model):
    """The LLM of a SALMONN as a model of its own, with the same weights."""
    llm = AutoModelForCausalLM.from_config(model.config.text_config, dtype=model.dtype).eval()
    llm.model, llm.lm_head = model.model.language_model, model.lm_head
    return llm


def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument("--model", type=Path, help="folder of a model (default: salmonn-nano)")
    benchmark.parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip (default: 10)")
    benchmark.parser.add_argument("--new-tokens", type=int, default=32, help="tokens of each answer (default: 32)")
    add_dtype(benchmark.parser, "default: float32 on a CPU, else the model's own")
    options = benchmark.parse_args()
    model, processor = load(options.model or find_nano(), dtype=options.dtype)
    clip = np.random.default_rng(0).normal(0, 0.1, round(options.seconds * RATE)).astype(np.float32)
    inputs = prepare(processor, clip, "What is heard?").to(model.device)
    length = {"min_new_tokens": options.new_tokens, "max_new_tokens": options.new_tokens, "do_sample": False}

    features = {name: inputs.pop(name) for name in processor.feature_extractor.model_input_names}
    embeds = model.get_audio_features(**features).pooler_output.detach()
    prompt = model.get_input_embeddings()(inputs["input_ids"]).detach()
    prompt[inputs["input_ids"] == model.config.audio_token_id] = embeds.to(prompt.dtype)
    llm = bare_llm(model)
    benchmark.compare(
        f"{options.new_tokens} tokens after {prompt.shape[1]}",
        {
            "the bare LLM from embeddings": lambda: llm.generate(
                inputs_embeds=prompt, attention_mask=inputs["attention_mask"], **length
            ),
            "SALMONN from audio embeddings": lambda: model.generate(**inputs, audio_embeds=embeds, **length),
            "the bare LLM, static cache": lambda: llm.generate(
                inputs_embeds=prompt, attention_mask=inputs["attention_mask"], cache_implementation="static", **length
            ),
            "SALMONN, static cache": lambda: model.generate(
                **inputs, audio_embeds=embeds, cache_implementation="static", **length
            ),
            "SALMONN from the clip": lambda: model.generate(**inputs, **features, **length),
            "SALMONN, four beams": lambda: model.generate(**inputs, audio_embeds=embeds, num_beams=4, **length),
            "SALMONN, drafts from the prompt": lambda: model.generate(
                **inputs, audio_embeds=embeds, prompt_lookup_num_tokens=3, **length
            ),
        },
    )

    session = SalmonnSession(model, processor, clip, max_new_tokens=1)
    session.ask("What is heard?")
    numbers = iter(range(10**6))
    read = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    session.ask("What is heard at 0 seconds?")
    hook.remove()
    words = prompt[:, -read[-1] :]
    benchmark.compare(
        f"the first token about a clip of {options.seconds:g} s",
        {
            "a new clip": lambda: SalmonnSession(model, processor, clip, max_new_tokens=1).ask("What is heard?"),
            "a clip that is encoded": lambda: model.generate(
                **inputs, audio_embeds=embeds, max_new_tokens=1, do_sample=False
            ),
            "another question in a session": lambda: session.ask(f"What is heard at {next(numbers)} seconds?"),
            f"the LLM alone, {read[-1]} tokens": lambda: llm(inputs_embeds=words, use_cache=False, logits_to_keep=1),
        },
    )
    benchmark.save(options.output, "generation")


if __name__ == "__main__":
    main()
