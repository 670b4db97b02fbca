# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A SALMONN of a Whisper, an LLM and a BEATs, with a connector that is still to be trained, or with a trained adapter.

    salmonn assemble --whisper openai/whisper-small --llm Qwen/Qwen2.5-0.5B-Instruct --beats BEATs.pt OUT
"""

import logging
import os
import shutil
from pathlib import Path

import torch
from jinja2 import TemplateAssertionError, TemplateError, TemplateSyntaxError
from transformers import Blip2QFormerConfig
from transformers.utils.chat_template_utils import render_jinja_template

from chat_template_salmonn import wrap_chat_template
from configuration_salmonn import SalmonnConfig
from conversion_salmonn.checkpoint_io import output_folder
from conversion_salmonn.loading import attach_adapter
from conversion_salmonn.parts import (
    LanguagePart,
    Part,
    build_model,
    cast,
    check_repo_id,
    make_room,
    named_parts,
    parse_dtype,
    plain_settings,
    read_beats,
    read_llm,
    read_whisper,
    save_all,
    set_generation,
)
from processing_salmonn import SalmonnProcessor


logger = logging.getLogger(__name__)

# What no part brings along, and so starts from random numbers.
NEW = r"^model\.(connector|speech_layer_norm|beats_layer_norm)\."

UNTRAINED = "Its parts were put together, and its connector is random: train it before its answers mean anything."

# SALMONN's Q-Former: two layers of BERT-base.
QFORMER = {"hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 3072}


def assemble(
    whisper: str | os.PathLike | Part | None,
    llm: str | os.PathLike | LanguagePart,
    beats: str | os.PathLike | None,
    output: str | os.PathLike,
    *,
    adapter: str | os.PathLike | None = None,
    connector_type: str = "qformer",
    num_query_tokens: int = 1,
    window_seconds: float | None = 0.333333,
    stride_seconds: float | None = 0.333333,
    qformer: dict | None = None,
    segment_position_embeddings: bool = False,
    segment_seconds: int | None = None,
    fixed_length: bool = True,
    pad_last_window: bool = False,
    max_audio_seconds: float | None = 30,
    chat_template: str | None = None,
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
    repo_id: str | None = None,
    card: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """
    Puts a model together and writes it to the folder `output`.

    Args:
        whisper (`str`, `os.PathLike` or `Part`, *optional*): folder, Hub id, or a part that is read. Its encoder hears
            speech. `None` for a model that hears with BEATs alone.
        llm (`str`, `os.PathLike` or `LanguagePart`): folder or Hub id of any decoder that Transformers knows, or a part
            that is read.
        beats (`str` or `os.PathLike`, *optional*): a released `.pt` file, a converted folder, `random-small`, or
            `None` for a model that hears speech only.
        output (`str` or `os.PathLike`): folder to write.
        adapter (`str` or `os.PathLike`, *optional*): folder of a trained adapter, to be put beside the weights. It must
            have been trained on these very parts, with the same settings of the connector.
        connector_type (`str`): `"qformer"`, `"linear"` or `"cross_attention"`.
        num_query_tokens (`int`): audio tokens for each window.
        window_seconds, stride_seconds (`float`, *optional*): the windows; `None` lets the Q-Former read whole segments.
        qformer (`dict`, *optional*): settings of the Q-Former other than those of SALMONN.
        segment_position_embeddings (`bool`): whether the encoders' output says which segment of a clip it is.
        segment_seconds (`int`, *optional*): length of a segment of BEATs alone, 30 unless given; Whisper has its own.
        fixed_length (`bool`): whether each segment is encoded as 30 s, as the released models need it, or as long as
            it is.
        pad_last_window (`bool`): whether frames at the end of a segment that do not fill a window get one.
        max_audio_seconds (`float`, *optional*): longest audio that the model is trained on, `None` for any; longer clips are
            transcribed piece by piece.
        chat_template (`str`, *optional*): of the processor. Unless given, that of the LLM, made one that takes clips, or
            the released models' where it has none.
        seed (`int`): of the random numbers that the connector, and a random BEATs, start from.
        dtype (`str` or `torch.dtype`, *optional*): one dtype for all weights. Unless given, each part keeps its own.
        repo_id (`str`, *optional*): Hub id under which the folder will be uploaded, as `save_pretrained` takes it.
        card (`str` or `os.PathLike`, *optional*): a model card to be saved with it. Unless given, a general one is written.
        overwrite (`bool`): replace what is in `output`.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: if a part cannot be read or is of the wrong kind, if the settings do not fit one another, or if the
            adapter was trained on other weights. Nothing is written then.
    """
    dtype = parse_dtype(dtype)
    check_repo_id(repo_id)
    if whisper is None and beats is None:
        raise ValueError("One of `whisper` and `beats` must be given, got None for both.")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be an integer from 0 to 2**63 - 1, got {seed!r}.")
    if chat_template is not None:
        _check_template(chat_template)
    qformer = _check_qformer(qformer)
    with output_folder(output, overwrite) as folder:
        speech, language = None if whisper is None else read_whisper(whisper), read_llm(llm)
        beats_part = None if beats is None else read_beats(beats, seed)
        template = language.tokenizer.chat_template
        if chat_template is None and template:
            chat_template = wrap_chat_template(template)
        config = _build_config(
            speech,
            language,
            beats_part,
            connector_type=connector_type,
            num_query_tokens=num_query_tokens,
            window_seconds=window_seconds,
            stride_seconds=stride_seconds if window_seconds is not None else None,
            qformer_config={"model_type": "blip_2_qformer", **QFORMER, **qformer},
            segment_position_embeddings=segment_position_embeddings,
            segment_seconds=segment_seconds,
            fixed_length=fixed_length,
            pad_last_window=pad_last_window,
            max_audio_seconds=max_audio_seconds,
        )
        # The LLM's own format where it has one, for it was tuned to it; else that of the released models.
        processor = SalmonnProcessor.from_model_config(config, language.tokenizer, chat_template=chat_template)
        config.transcription_prompt_ids = processor.transcription_prompt_ids()
        config.transcription_separator_ids = processor.transcription_separator_ids()
        state = cast(named_parts(speech, language, beats_part), dtype)
        model = build_model(config, state, "the parts", new=NEW, seed=seed)
        if dtype is not None:
            model.to(dtype)
        if adapter is not None:
            attach_adapter(model, adapter)
            # Where it was trained means nothing here: its base is beside it.
            model.peft_config["default"].base_model_name_or_path = None
        set_generation(model, language)
        if card is not None:
            shutil.copyfile(card, folder / "README.md")
        elif adapter is None:
            model.save_card(folder, UNTRAINED)
        save_all(model, processor, folder, dtype or language.dtype, repo_id)
    return Path(output)


def _build_config(speech: Part | None, language: LanguagePart, beats: Part | None, **settings) -> SalmonnConfig:
    return SalmonnConfig(
        audio_token_id=make_room(language),
        speech_config=None if speech is None else plain_settings(speech),
        beats_config=None if beats is None else plain_settings(beats),
        text_config=plain_settings(language),
        tie_word_embeddings=language.lm_head is None,
        **settings,
    )


def _check_template(chat_template: str) -> None:
    """Raises `ValueError` unless the processor can write a conversation with it."""
    if not isinstance(chat_template, str):
        raise TypeError(f"`chat_template` must be a string, got {chat_template!r}.")
    try:
        render_jinja_template([[{"role": "user", "content": "?"}]], chat_template=chat_template)
    except (TemplateSyntaxError, TemplateAssertionError) as error:
        raise ValueError(f"`chat_template` cannot be read: {error} (line {error.lineno}).") from error
    except TemplateError:  # it may refuse this conversation
        pass


def _check_qformer(settings: dict | None) -> dict:
    """Raises `ValueError` naming a setting that the Q-Former does not have."""
    settings = settings or {}
    if not isinstance(settings, dict):
        raise TypeError(f"`qformer` must be a dict of settings, got {settings!r}")
    known = Blip2QFormerConfig().to_dict()
    unknown = sorted(settings.keys() - known.keys())
    if unknown:
        raise ValueError(f"`qformer` has no setting {', '.join(unknown)}")
    sizes = {**QFORMER, **settings}
    for name in QFORMER:
        if not isinstance(sizes[name], int) or sizes[name] < 1:
            raise ValueError(f"`{name}` of `qformer` must be an integer of at least 1, got {sizes[name]!r}")
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ValueError(
            f"`qformer` needs a hidden size that its heads divide, got {sizes['hidden_size']} and "
            f"{sizes['num_attention_heads']} heads"
        )
    return settings
