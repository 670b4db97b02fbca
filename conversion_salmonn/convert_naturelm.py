# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
NatureLM-audio (arXiv 2411.07186) -> a folder that `from_pretrained` loads: a SALMONN that hears with BEATs alone, in segments
of 10 s, with a Llama 3.1 that has LoRA on all projections of its attention.

    salmonn convert auto NatureLM-audio/ OUT --llm meta-llama/Llama-3.1-8B-Instruct

The published folder, a `model.safetensors` with its `config.json`, and the `.pth` files of its training, which hold what was
trained only, have the same names for their tensors.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from chat_template_salmonn import AUDIO_TOKEN, wrap_chat_template
from conversion_salmonn.beats_sources import AVEX_DEFAULTS, find_weights, read_weights
from conversion_salmonn.checkpoint_io import output_folder, read_json
from conversion_salmonn.convert_beats import build_beats_config, build_beats_state_dict
from conversion_salmonn.convert_salmonn import (
    LEFTOVERS,
    attach_adapter,
    build_config,
    check_belongs,
    find_recorded,
    name_trained,
    settle,
)
from conversion_salmonn.parts import (
    LanguagePart,
    Part,
    build_model,
    cast,
    check_repo_id,
    named_parts,
    parse_dtype,
    read_beats,
    read_llm,
    save_all,
    set_generation,
)
from processing_salmonn import SalmonnProcessor


SEGMENT_SECONDS = 10
TRANSCRIPTION_PROMPT = "Caption the audio."
# The format of Llama 3 without its system message; what ended an answer in training is the end of the text.
CHAT_TEMPLATE = wrap_chat_template(
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|end_of_text|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|eot_id|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}",
    clip=f"<Audio>{AUDIO_TOKEN}</Audio>",
)
BEATS, LLM = r"^beats\.", r"^llama_(model|embed_tokens)\..*(?<!\.default\.weight)$"
# Names of the LLM's tensors in the file -> in `AutoModelForCausalLM`.
LLM_NAMES = (
    (r"^llama_embed_tokens\.", "model.embed_tokens."),
    (r"^llama_model\.base_model\.model\.", ""),
    (r"\.base_layer\.", "."),
)


def convert_naturelm(
    source: str | os.PathLike,
    llm: str | os.PathLike,
    output: str | os.PathLike,
    *,
    beats: str | os.PathLike | None = None,
    qformer_heads: int | None = None,
    dtype: str | torch.dtype | None = None,
    repo_id: str | None = None,
    overwrite: bool = False,
) -> Path:
    """
    Converts a NatureLM-audio to the folder `output`: base weights, and LoRA beside them as an adapter.

    Args:
        source (`str` or `os.PathLike`): the published folder, its `model.safetensors`, or a `.pth` file of its training.
        llm (`str` or `os.PathLike`): folder or Hub id of its Llama 3.1. What the file has of it must be equal.
        beats (`str` or `os.PathLike`, *optional*): the BEATs that it was trained on, for files without it.
        qformer_heads (`int`, *optional*): attention heads of the Q-Former; 12 unless given.
        dtype, repo_id, overwrite: as for `convert_salmonn`.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: if a file cannot be read, the parts do not belong together, or a tensor has no place or is missing.
    """
    dtype = parse_dtype(dtype)
    check_repo_id(repo_id)
    file = find_weights(source)
    with output_folder(output, overwrite) as folder:
        tensors, recorded = _read(file)
        trained = name_trained(tensors, str(file), find_recorded(recorded), (*LEFTOVERS, BEATS, LLM))
        settings = settle(
            trained,
            qformer_heads=qformer_heads,
            **dict.fromkeys(("lora_alpha", "lora_dropout", "window_seconds", "stride_seconds")),
        )
        language, beats_part = read_llm(llm), _read_beats(file, tensors, recorded, beats)
        _compare_llm(file, tensors, language)
        check_belongs(trained, None, language, beats_part)
        length = {"segment_seconds": SEGMENT_SECONDS, "max_audio_seconds": SEGMENT_SECONDS}
        config = build_config(trained, None, language, beats_part, settings, **length)
        processor = SalmonnProcessor.from_model_config(
            config, language.tokenizer, CHAT_TEMPLATE, transcription_prompt=TRANSCRIPTION_PROMPT
        )
        config.transcription_prompt_ids = processor.transcription_prompt_ids()
        config.transcription_separator_ids = processor.transcription_separator_ids()
        state = cast(named_parts(None, language, beats_part) | trained.state, dtype)
        model = build_model(config, state, f"`source` {source} with its parts")
        set_generation(model, language)
        attach_adapter(model, trained, settings, dtype)
        save_all(model, processor, folder, dtype or language.dtype, repo_id)
    return Path(output)


def _read(file: Path) -> tuple[Mapping[str, torch.Tensor], dict]:
    """The tensors of a file, and the settings beside it, if there are any."""
    content = read_weights(file)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or "audio_query_tokens" not in content:
        raise ValueError(f"checkpoint file {file} is no NatureLM-audio: it has no `audio_query_tokens`")
    settings = file.parent / "config.json"
    recorded = read_json(settings) if file.suffix == ".safetensors" and settings.is_file() else {}
    if recorded.get("max_pooling") or not recorded.get("use_audio_Qformer", True):
        raise ValueError(
            f"checkpoint file {file} has no Q-Former (`max_pooling` in its config.json), which is needed here"
        )
    return content, recorded


def _read_beats(
    file: Path, tensors: Mapping[str, torch.Tensor], recorded: dict, beats: str | os.PathLike | None
) -> Part:
    """The BEATs in the file, as it was trained further, or else the one in `beats`."""
    own = {name.removeprefix("beats."): tensors[name] for name in tensors if re.search(BEATS, name)}
    if "patch_embedding.weight" not in own:  # of a frozen one, the names that share a tensor are left
        if beats is None:
            raise ValueError(
                f"checkpoint file {file} has no BEATs in it: give the one that it was trained on with --beats"
            )
        return read_beats(beats)
    if beats is not None:
        raise ValueError(f"checkpoint file {file} has a BEATs in it, trained with the rest: leave out --beats")
    cfg = recorded.get("beats_cfg")
    config = build_beats_config(AVEX_DEFAULTS | (dict(cfg) if isinstance(cfg, Mapping) else {}))
    return Part(str(file), config, build_beats_state_dict(own, config))


def _compare_llm(file: Path, tensors: Mapping[str, torch.Tensor], language: LanguagePart) -> None:
    """Raises `ValueError` if the file has tensors of another LLM than `language`."""
    for name in tensors:
        if not re.search(LLM, name) or name.endswith("rotary_emb.inv_freq"):
            continue
        own = name
        for pattern, replacement in LLM_NAMES:
            own = re.sub(pattern, replacement, own)
        expected = language.lm_head if own == "lm_head.weight" else language.state.get(own.removeprefix("model."))
        if own == "lm_head.weight" and expected is None:
            expected = language.state[language.embedding_name]
        found = tensors[name]
        # the original has added a row for padding
        rows = None if expected is None else found[: len(expected)]
        if expected is None or rows.shape != expected.shape or not torch.equal(rows, expected.to(rows.dtype)):
            raise ValueError(f"`llm` {language.source} is another LLM than the one in {file}: {name} differs")


__all__ = ["convert_naturelm"]
