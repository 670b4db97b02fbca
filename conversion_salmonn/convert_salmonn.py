# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Released SALMONN weights (13B, 7B) -> a folder that `from_pretrained` loads.

    salmonn convert salmonn --ckpt salmonn_v1.pth --whisper openai/whisper-large-v2 --llm lmsys/vicuna-13b-v1.1 \\
        --beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt OUT

A released file holds what was trained only: the Q-Former, its projection, two layer norms and LoRA. Whisper, BEATs and
the LLM are read from their own releases and checked against it.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from configuration_salmonn import SalmonnConfig
from conversion_salmonn.checkpoint_io import check_all_used, check_tensors, list_names, output_folder, read_pickle
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
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor


logger = logging.getLogger(__name__)

# Released name -> ours, tried in this order.
RENAMED = (
    (r"^(?:speech|audio)_query_tokens$", "model.connector.query_tokens"),
    (r"^(?:speech|audio)_Qformer\.bert\.embeddings\.LayerNorm\.", "model.connector.qformer.layernorm."),
    (
        r"^(?:speech|audio)_Qformer\.bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.self\.",
        r"model.connector.qformer.encoder.layer.\1.\2.attention.",
    ),
    (r"^(?:speech|audio)_Qformer\.bert\.encoder\.", "model.connector.qformer.encoder."),
    (r"^(?:speech|audio)_llama_proj\.", "model.connector.projection."),
    (r"^ln_speech\.", "model.speech_layer_norm."),
    (r"^ln_audio\.", "model.beats_layer_norm."),
    (
        r"^llama_model\.base_model\.model\.model\.(.+)\.(lora_[AB])\.(?:default\.)?weight$",
        r"model.language_model.\1.\2.default.weight",
    ),
)

# The released code leaves out frozen parameters when it saves, by name. Buffers slip through, and so do the further
# names of a parameter that several layers share.
BEATS_BIAS = r"^beats\.encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight$"
ROTARY = r"^llama_model\..*\.rotary_emb\.inv_freq$"
LEFTOVERS = (BEATS_BIAS, ROTARY, r"^(?:speech|audio)_Qformer\.bert\.embeddings\.position_ids$")

# What the released models were trained with, where the file does not say.
RELEASED = {
    "qformer_heads": 12,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "window_seconds": 0.333333,
    "stride_seconds": 0.333333,
}
QFORMER_LAYER_NORM_EPS = 1e-12

# Under which names the training settings in the file, if any, have them.
RECORDED = {
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "window_seconds": "second_per_window",
    "stride_seconds": "second_stride",
}


# Of LoRA: what is beyond makes weights that are no numbers.
MIN_ALPHA, MAX_ALPHA = 1e-6, 1e6


@dataclass
class TrainedPart:
    """What a released file holds, under our names, and what it says of the parts that it does not hold."""

    source: str
    state: dict[str, torch.Tensor]
    lora: dict[str, torch.Tensor]
    recorded: dict
    beats_bias: torch.Tensor | None
    head_dim: int | None

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of this (our) name. Raises `ValueError` if the file lacks it."""
        if name not in self.state:
            raise ValueError(f"`ckpt` {self.source} lacks the tensor of {name}")
        return self.state[name]


def convert_salmonn(
    ckpt: str | os.PathLike,
    whisper: str | os.PathLike,
    llm: str | os.PathLike,
    beats: str | os.PathLike | None,
    output: str | os.PathLike,
    *,
    qformer_heads: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float | None = None,
    window_seconds: float | str | None = None,
    stride_seconds: float | None = None,
    dtype: str | torch.dtype | None = None,
    repo_id: str | None = None,
    overwrite: bool = False,
) -> Path:
    """
    Converts a released SALMONN checkpoint to the folder `output`: base weights, and LoRA beside them as an adapter.

    Args:
        ckpt (`str` or `os.PathLike`): the released `.pth` file.
        whisper, llm (`str` or `os.PathLike`): folders or Hub ids of the Whisper and the LLM that it was trained with.
        beats (`str` or `os.PathLike`, *optional*): the released BEATs `.pt` file or a converted folder. `None` for a
            checkpoint that was trained without BEATs.
        qformer_heads (`int`, *optional*): attention heads of the Q-Former; 12 unless given.
        lora_alpha, lora_dropout (`float`, *optional*): unless given, as the file records them, or else 32 and 0.1.
        window_seconds (`float` or `"none"`, *optional*): length of a window; `"none"` if the Q-Former reads whole
            segments. Unless given, as the file records it, or else 0.333333.
        stride_seconds (`float`, *optional*): from one window to the next, likewise.
        dtype (`str` or `torch.dtype`, *optional*): one dtype for all weights. Unless given, each tensor keeps its own.
        repo_id (`str`, *optional*): Hub id under which the folder will be uploaded, as `save_pretrained` takes it.
        overwrite (`bool`, *optional*): replace what is in `output`.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: if a file cannot be read, the parts do not belong together, or a tensor has no place or is missing.
    """
    dtype = parse_dtype(dtype)
    check_repo_id(repo_id)
    with output_folder(output, overwrite) as folder:
        trained = read_trained(ckpt)
        settings = settle(
            trained,
            qformer_heads=qformer_heads,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            window_seconds=window_seconds,
            stride_seconds=stride_seconds,
        )
        speech, language = read_whisper(whisper), read_llm(llm)
        beats_part = None if beats is None else read_beats(beats)
        check_belongs(trained, speech, language, beats_part)
        config = build_config(trained, speech, language, beats_part, settings)
        processor = SalmonnProcessor.from_model_config(config, language.tokenizer)
        config.transcription_prompt_ids = processor.transcription_prompt_ids()
        config.transcription_separator_ids = processor.transcription_separator_ids()

        state = cast(named_parts(speech, language, beats_part) | trained.state, dtype)
        model = build_model(config, state, f"`ckpt` {ckpt} with its parts")
        set_generation(model, language)
        attach_adapter(model, trained, settings, dtype)
        save_all(model, processor, folder, dtype or language.dtype, repo_id)
    return Path(output)


def read_trained(ckpt: str | os.PathLike) -> TrainedPart:
    """
    What the released file `ckpt` holds.

    Raises `ValueError` if it cannot be read, is no SALMONN checkpoint, or holds tensors of unknown use.
    """
    content = read_pickle(ckpt)
    source = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(source, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in source.values()):
        raise ValueError(f"`ckpt` {ckpt} is no SALMONN checkpoint: expected named tensors under 'model'")
    return name_trained(source, str(ckpt), _recorded_settings(content))


def name_trained(
    source: Mapping[str, torch.Tensor], label: str, recorded: dict, leftovers: Iterable[str] = LEFTOVERS
) -> TrainedPart:
    """
    The tensors of a file called `label` under our names. Raises `ValueError` on those that neither have one nor match one of
    the patterns `leftovers`.
    """
    names = {}
    for name in source:
        for pattern, replacement in RENAMED:
            if re.search(pattern, name):
                names[name] = re.sub(pattern, replacement, name)
                break
    check_all_used(source, names, leftovers, f"`ckpt` {label}")
    state = {ours: source[theirs] for theirs, ours in names.items()}
    check_tensors(state, f"`ckpt` {label}")
    lora = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    biases = [tensor for name, tensor in source.items() if re.search(BEATS_BIAS, name)]
    rotary = [tensor for name, tensor in source.items() if re.search(ROTARY, name)]
    return TrainedPart(
        source=label,
        state={name: tensor for name, tensor in state.items() if name not in lora},
        lora=lora,
        recorded=recorded,
        beats_bias=biases[0] if biases else None,
        head_dim=2 * len(rotary[0]) if rotary else None,
    )


def _recorded_settings(content: Mapping) -> dict:
    recorded = content.get("config")
    model = recorded.get("model") if isinstance(recorded, Mapping) else None
    return find_recorded(model) if isinstance(model, Mapping) else {}


def find_recorded(model: Mapping) -> dict:
    """Training settings under the names of our arguments; those that are not recorded are left out."""
    found = {ours: model[theirs] for ours, theirs in RECORDED.items() if isinstance(model.get(theirs), (int, float))}
    if model.get("window_level_Qformer") is False:
        found["window_seconds"] = "none"
    return found


def settle(trained: TrainedPart, **given) -> dict:
    """For each setting the value given, else the one recorded in the file, else that of the released models."""
    settings = {}
    for name, default in RELEASED.items():
        settings[name] = trained.recorded.get(name, default) if given[name] is None else given[name]
    if settings["window_seconds"] == "none":
        settings["window_seconds"] = None
    elif isinstance(settings["window_seconds"], str):
        raise ValueError(f"`window_seconds` must be a number or 'none', got {settings['window_seconds']!r}")
    for name, least, most in (
        ("lora_alpha", MIN_ALPHA, MAX_ALPHA),
        ("lora_dropout", 0, 1),
        ("qformer_heads", 1, 1000),
    ):
        value = settings[name]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or name == "qformer_heads" and value != int(value):
            raise ValueError(f"`{name}` must be a number from {least:g} to {most:g}, got {value!r}")
    return settings


def check_belongs(trained: TrainedPart, speech: Part | None, language: LanguagePart, beats: Part | None) -> None:
    """
    The checkpoint was trained with parts of these sizes, and with this BEATs as far as its leftovers can tell.

    Raises `ValueError` that names both values.
    """

    def compare(argument: str, part: Part, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise ValueError(
                f"`{argument}` {part.source} has {what} {found}, but `ckpt` {trained.source} was trained with {expected}"
            )

    if speech is not None:
        width = trained.tensor("model.speech_layer_norm.weight").shape[0]
        compare("whisper", speech, "width", speech.config.d_model, width)
    width = trained.tensor("model.connector.projection.weight").shape[0]
    compare("llm", language, "width", language.config.hidden_size, width)
    if trained.head_dim is not None:
        head_dim = getattr(language.config, "head_dim", None)
        head_dim = head_dim or language.config.hidden_size // language.config.num_attention_heads
        compare("llm", language, "attention head size", head_dim, trained.head_dim)
    if trained.lora:
        layers = 1 + max(int(re.search(r"\.layers\.(\d+)\.", name)[1]) for name in trained.lora)
        compare("llm", language, "number of layers", language.config.num_hidden_layers, layers)
    _check_beats(trained, beats, compare)


def _check_beats(trained: TrainedPart, beats: Part | None, compare) -> None:
    has_beats = "model.beats_layer_norm.weight" in trained.state
    if has_beats != (beats is not None):
        wanted, got = ("a BEATs", "none") if has_beats else ("no BEATs", beats.source)
        raise ValueError(f"`ckpt` {trained.source} was trained with {wanted}, got `beats` {got}")
    if beats is None:
        return
    width = trained.tensor("model.beats_layer_norm.weight").shape[0]
    compare("beats", beats, "width", beats.config.hidden_size, width)
    bias, found = trained.beats_bias, beats.state["relative_attention_bias.weight"]
    if bias is not None and (bias.shape != found.shape or not torch.allclose(bias.float(), found.float(), atol=1e-3)):
        raise ValueError(
            f"`beats` {beats.source} is another BEATs than the one that `ckpt` {trained.source} was trained with: "
            "their relative position biases differ"
        )


def build_config(
    trained: TrainedPart, speech: Part | None, language: LanguagePart, beats: Part | None, settings: dict, **more
) -> SalmonnConfig:
    """
    The configuration, with the Q-Former's sizes read off its tensors, and `more` settings. Makes room for the audio
    placeholder.
    """
    queries = trained.tensor("model.connector.query_tokens")
    prefix = "model.connector.qformer.encoder.layer."
    layers = {int(name.removeprefix(prefix).split(".")[0]) for name in trained.state if name.startswith(prefix)}
    hidden_size, heads = queries.shape[-1], settings["qformer_heads"]
    if heads < 1 or hidden_size % heads:
        raise ValueError(
            f"`qformer_heads` must divide the width {hidden_size} of the Q-Former in `ckpt` {trained.source}, got {heads}"
        )
    key = trained.tensor(f"{prefix}0.crossattention.attention.key.weight")
    width = 0 if speech is None else speech.config.d_model
    width += 0 if beats is None else beats.config.hidden_size
    if key.shape[1] != width:
        raise ValueError(
            f"`whisper` and `beats` have width {width} together, but the Q-Former in `ckpt` {trained.source} reads "
            f"{key.shape[1]}"
        )
    qformer = {
        "model_type": "blip_2_qformer",
        "hidden_size": hidden_size,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads,
        "intermediate_size": trained.tensor(f"{prefix}0.intermediate_query.dense.weight").shape[0],
        "layer_norm_eps": QFORMER_LAYER_NORM_EPS,
        "cross_attention_frequency": 1,
    }
    return SalmonnConfig(
        audio_token_id=make_room(language),
        speech_config=None if speech is None else plain_settings(speech),
        beats_config=None if beats is None else plain_settings(beats),
        qformer_config=qformer,
        text_config=plain_settings(language),
        connector_type="qformer",
        num_query_tokens=queries.shape[1],
        window_seconds=settings["window_seconds"],
        stride_seconds=settings["stride_seconds"],
        tie_word_embeddings=language.lm_head is None,
        **more,
    )


def attach_adapter(
    model: SalmonnForConditionalGeneration, trained: TrainedPart, settings: dict, dtype: torch.dtype | None = None
) -> None:
    """
    Adds LoRA to `model` with the weights of the checkpoint; a checkpoint without LoRA changes nothing.

    Raises `ValueError` if layers have LoRA in the file that have none in the model, or the other way round.
    """
    if not trained.lora:
        return
    ranks = {tensor.shape[0] for name, tensor in trained.lora.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise ValueError(f"`ckpt` {trained.source} has LoRA matrices of several ranks: {sorted(ranks)}")
    targets = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained.lora})
    lora_config = model.lora_config(
        r=ranks.pop(),
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules=tuple(targets),
    )
    model.add_adapter(lora_config)
    parameters = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    if parameters.keys() != trained.lora.keys():
        differing = list_names(parameters.keys() ^ trained.lora.keys())
        raise ValueError(f"`ckpt` {trained.source} has LoRA on other layers than the LLM allows: {differing}")
    for name, parameter in parameters.items():
        if parameter.shape != trained.lora[name].shape:
            raise ValueError(
                f"`ckpt` {trained.source}: {name} has shape {tuple(trained.lora[name].shape)}, the LLM needs "
                f"{tuple(parameter.shape)}"
            )
        # PEFT made them in the LLM's dtype; what was trained in float32 stays so.
        parameter.data = trained.lora[name] if dtype is None else trained.lora[name].to(dtype)
    model.eval()
