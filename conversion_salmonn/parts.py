# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The parts that a SALMONN is made of, read from where they are, and put together.

A part is a configuration with the tensors of one sub-model, under the names that this sub-model has in Transformers.
Tensors stay memory-mapped until they are saved, so that parts larger than the memory can be put together.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from chat_template_salmonn import AUDIO_TOKEN
from configuration_beats import BeatsConfig
from configuration_salmonn import SalmonnConfig
from conversion_salmonn.checkpoint_io import (
    TensorFolder,
    check_all_used,
    check_fits,
    check_tensors,
    collect,
    find_folder,
)
from conversion_salmonn.convert_beats import load_beats_checkpoint
from modeling_beats import BeatsModel
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor, prepare_tokenizer
from sharing_salmonn import is_hub_id


logger = logging.getLogger(__name__)

# A random BEATs that is small enough for trials and keeps every mechanism of the large one.
RANDOM_SMALL_BEATS = {
    "patch_embed_dim": 128,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 768,
}

# Whisper's decoder is not part of SALMONN.
WHISPER_LEFTOVERS = (r"^(model\.)?decoder\.", r"^proj_out\.weight$")
# Buffers that old versions of Transformers saved, and which are computed today.
LLM_LEFTOVERS = (r"\.rotary_emb\.inv_freq$", r"\.attn\.masked_bias$")

# How models answer unless asked otherwise. The released ones use four beams, as the tasks of the evaluation do; with
# beams by default nothing could be streamed, and assisted decoding would stop with an error.
DEFAULT_GENERATION = {"do_sample": False, "num_beams": 1, "max_new_tokens": 200}

# Large enough to hold any single tensor, small enough to be written from little memory.
MAX_SHARD_SIZE = "4GB"


@dataclass
class Part:
    """One encoder: its configuration and its tensors."""

    source: str
    config: PreTrainedConfig
    state: Mapping[str, torch.Tensor]


@dataclass
class LanguagePart(Part):
    """The LLM without its head, the head if it is not tied to the embeddings, and what belongs to it."""

    tokenizer: PreTrainedTokenizerBase
    embedding_name: str
    lm_head: torch.Tensor | None = None
    generation: dict = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return self.state[self.embedding_name].dtype


# ----------------------------------------------------------------------------------------------------------------------
# Reading


def read_whisper(source: str | os.PathLike | Part, argument: str = "whisper") -> Part:
    """
    The encoder of a Whisper: a folder or Hub id of Transformers, or a part that is read already.

    Weights may be named as in `WhisperForConditionalGeneration`, `WhisperModel` or `WhisperEncoder`.
    Raises `ValueError` if it is no Whisper, or if tensors are missing, unknown or of another size.
    """
    if isinstance(source, Part):
        return source
    folder = find_folder(source, argument)
    config = _read_config(folder, argument)
    if config.model_type != "whisper":
        raise ValueError(f"`{argument}` must be a Whisper model, got {source} of type {config.model_type!r}")
    weights = TensorFolder(folder)
    names = _encoder_names(weights)
    label = f"`{argument}` {source}"
    check_all_used(weights, names, WHISPER_LEFTOVERS, label)
    return make_whisper_part(str(source), config, collect(weights, names, "Whisper"), label)


def make_whisper_part(source: str, config: PreTrainedConfig, state: Mapping[str, torch.Tensor], label: str) -> Part:
    """A part of an encoder's tensors. Raises `ValueError`, which begins with `label`, if they do not fit `config`."""
    with torch.device("meta"):
        reference = WhisperEncoder(config)
    check_fits(state, reference, label)
    return Part(source, config, state)


def _encoder_names(weights: TensorFolder) -> dict[str, str]:
    """Names in the file -> names of `WhisperEncoder`, for each of the layouts in which encoders are saved."""
    for prefix in ("model.encoder.", "encoder."):
        names = {name: name.removeprefix(prefix) for name in weights if name.startswith(prefix)}
        if names:
            return names
    plain = re.compile(r"^(conv[12]|embed_positions|layers|layer_norm)\.")
    return {name: name for name in weights if plain.match(name)}


def read_beats(source: str | os.PathLike, seed: int = 0, argument: str = "beats") -> Part:
    """
    A BEATs encoder: a released `.pt` file, a converted folder or Hub id, or `random-small` for a small random one.

    The classifier of a fine-tuned BEATs is left out. Raises `ValueError` if the source is anything else.
    """
    if str(source) == "random-small":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = BeatsModel(BeatsConfig(**RANDOM_SMALL_BEATS))
        return Part(str(source), model.config, model.state_dict())
    if Path(source).is_file():
        config, weights, _ = load_beats_checkpoint(source)
    else:
        folder = find_folder(source, argument)
        config = _read_config(folder, argument)
        weights = TensorFolder(folder)
    if config.model_type != "beats":
        raise ValueError(f"`{argument}` must be a BEATs model, got {source} of type {config.model_type!r}")
    names = {name: name.removeprefix("beats.") for name in weights if not name.startswith("classifier.")}
    state = collect(weights, names, "BEATs")
    with torch.device("meta"):
        reference = BeatsModel(config)
    check_fits(state, reference, f"`{argument}` {source}")
    return Part(str(source), config, state)


def read_llm(source: str | os.PathLike | LanguagePart, argument: str = "llm") -> LanguagePart:
    """
    A decoder LLM with its tokenizer: a folder or Hub id of Transformers, or a part that is read already.

    Raises `ValueError` if it is no causal language model that Transformers knows, if tensors are missing, unknown or of
    another size than the configuration says, or if the tokenizer has more tokens than the model.
    """
    if isinstance(source, LanguagePart):
        return source
    folder = find_folder(source, argument)
    config = _read_config(folder, argument)
    weights = TensorFolder(folder)
    tokenizer = _read_tokenizer(folder, argument)
    generation = _read_generation(folder, config)
    return make_language_part(str(source), config, weights, tokenizer, generation, argument)


def make_language_part(
    source: str,
    config: PreTrainedConfig,
    weights: Mapping[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig,
    argument: str = "llm",
) -> LanguagePart:
    """A part of the tensors of a causal language model, with its tokenizer. Raises as [`read_llm`] does."""
    try:
        with torch.device("meta"):
            reference = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError) as error:
        raise ValueError(f"`{argument}` must be a causal language model, got {source}: {error}") from error
    part = _split_llm(source, config, weights, reference, argument)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"`{argument}` {source}: the tokenizer has {len(tokenizer)} tokens, but the model only {config.vocab_size}"
        )
    part.tokenizer = tokenizer
    part.generation = {
        name: getattr(generation, name)
        for name in ("bos_token_id", "eos_token_id")
        if getattr(generation, name) is not None
    }
    return part


def _split_llm(source: str, config: PreTrainedConfig, weights: Mapping, reference: nn.Module, argument: str):
    """The tensors of a causal LM as those of its base model and that of its head."""
    base = reference.base_model
    known, prefix = set(base.state_dict()), f"{reference.base_model_prefix}."
    names = {
        name: name.removeprefix(prefix)
        for name in weights
        # Some checkpoints are of the base model alone, and lack the prefix.
        if name.removeprefix(prefix) in known and (name.startswith(prefix) or name in known)
    }
    tied = bool(getattr(config, "tie_word_embeddings", False))
    head = "lm_head.weight" if "lm_head.weight" in weights else None
    leftovers = [*LLM_LEFTOVERS, *(reference._keys_to_ignore_on_load_unexpected or ())]
    label = f"`{argument}` {source}"
    check_all_used(weights, [*names, head or ""], leftovers, label)
    state = collect(weights, names, "LLM")
    check_fits(state, base, label)
    if head is not None and not tied:
        check_tensors({head: weights[head]}, label)
    embedding = base.get_input_embeddings().weight
    embedding_name = next(name for name, parameter in base.named_parameters() if parameter is embedding)
    if head is None and not tied:
        raise ValueError(f"{label} lacks lm_head.weight, and its configuration does not tie it to the embeddings")
    lm_head = None if tied else weights[head]
    if lm_head is not None and lm_head.shape != embedding.shape:
        raise ValueError(
            f"{label}: lm_head.weight has shape {tuple(lm_head.shape)}, the configuration says {tuple(embedding.shape)}"
        )
    return LanguagePart(source, config, state, tokenizer=None, embedding_name=embedding_name, lm_head=lm_head)


def _read_config(folder: Path, argument: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"`{argument}` {folder} has no configuration that can be read: {reason}") from error


def _read_tokenizer(folder: Path, argument: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the libraries behind tokenizers raise whatever they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"`{argument}` {folder} has no tokenizer that can be read: {reason}") from error


def _read_generation(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    """The LLM's own generation settings; its configuration's where it has none."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


# ----------------------------------------------------------------------------------------------------------------------
# Putting together


def make_room(language: LanguagePart) -> int:
    """
    Adds the audio placeholder to the LLM's tokenizer and rows for it to the vocabulary, and returns its id.

    New rows are zero: the original drew them anew at every load, which made its results differ from run to run.
    """
    language.tokenizer = prepare_tokenizer(language.tokenizer)
    rows = max(language.config.vocab_size, len(language.tokenizer))
    language.state = dict(language.state)
    language.state[language.embedding_name] = _add_rows(language.state[language.embedding_name], rows)
    if language.lm_head is not None:
        language.lm_head = _add_rows(language.lm_head, rows)
    language.config.vocab_size = rows
    return language.tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)


def _add_rows(matrix: torch.Tensor, rows: int) -> torch.Tensor:
    """`(n, width)` -> `(rows, width)`, the new rows zero."""
    missing = rows - matrix.shape[0]
    return torch.cat([matrix, matrix.new_zeros(missing, matrix.shape[1])]) if missing > 0 else matrix


def plain_settings(part: Part) -> dict:
    """The configuration of a part of a larger one: without what is said of the folder it came from, but for a Hub id."""
    # The names of classes belong to a classifier, which no part has.
    dropped = ("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "transformers_version")
    settings = {name: value for name, value in part.config.to_dict().items() if name not in dropped}
    return settings | ({"_name_or_path": part.source} if is_hub_id(part.source) else {})


def named_parts(speech: Part | None, language: LanguagePart, beats: Part | None) -> dict[str, torch.Tensor]:
    """The tensors of all parts under the names that they have in `SalmonnForConditionalGeneration`."""
    state = {}
    for prefix, encoder in (("model.speech_encoder.", speech), ("model.beats.", beats)):
        if encoder is not None:
            state |= {f"{prefix}{name}": tensor for name, tensor in encoder.state.items()}
    state |= {f"model.language_model.{name}": tensor for name, tensor in language.state.items()}
    tied = language.lm_head is None
    state["lm_head.weight"] = language.state[language.embedding_name] if tied else language.lm_head
    return state


def build_model(
    config: SalmonnConfig,
    state: Mapping[str, torch.Tensor],
    source: str,
    new: str = r"$^",
    seed: int = 0,
) -> SalmonnForConditionalGeneration:
    """
    A model with the tensors of `state`, which it takes as they are: not copied, and each in its own dtype.

    Names that match the pattern `new` may be missing from `state`, and are initialised with `seed`.
    Raises `ValueError` naming the tensors if `state` does not fit `config`.
    """
    with torch.device("meta"):
        model = SalmonnForConditionalGeneration(config)
    check_fits(state, model, source, allow_missing=new)
    model.load_state_dict(state, assign=True, strict=False)
    model.tie_weights()
    _initialize_rest(model, state.keys(), seed)
    return model.eval()


def _initialize_rest(model: SalmonnForConditionalGeneration, loaded: set[str], seed: int) -> None:
    """Gives each tensor that is still without storage one, and the values of a new model."""
    for module in model.modules():
        module._is_hf_initialized = False  # the construction without storage has marked them as done
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(module, name, torch.empty_like(buffer, device="cpu"))
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in loaded:
            tensor._is_hf_initialized = True  # Transformers' initialisers leave such tensors alone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.initialize_weights()


def set_generation(model: SalmonnForConditionalGeneration, language: LanguagePart) -> None:
    """Greedy generation, with the LLM's own end and padding tokens."""
    model.generation_config = GenerationConfig(
        **DEFAULT_GENERATION, **language.generation, pad_token_id=language.tokenizer.pad_token_id
    )


def check_repo_id(repo_id: str | None) -> None:
    """Raises `ValueError` if `repo_id` is given and no id of the Hub."""
    if repo_id is not None and not is_hub_id(repo_id):
        raise ValueError(f"`repo_id` must be a Hub id, USER/NAME, and no folder, got {repo_id!r}.")


def save_all(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    folder: Path,
    dtype: torch.dtype,
    repo_id: str | None = None,
) -> None:
    """Writes model and processor to `folder`; `dtype` is the one in which `from_pretrained` loads by default."""
    logger.info("writing %s parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}")
    model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE, repo_id=repo_id)
    processor.save_pretrained(folder)
    # Saving records the dtype of the first tensor, that of Whisper, which is released in float32. A 13B LLM in
    # float16 would then be loaded at twice its size.
    config_file = folder / "config.json"
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    settings["dtype"] = str(dtype).removeprefix("torch.")
    config_file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """`state` in `dtype`, or as it is if that is `None`. Tensors that are one object stay one, so that ties survive."""
    if dtype is None:
        return dict(state)
    done: dict[int, torch.Tensor] = {}
    return {name: done.setdefault(id(tensor), tensor.to(dtype)) for name, tensor in state.items()}


def parse_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """`"float16"` and the like as a dtype. `None` stays. Raises `ValueError` for anything else."""
    names = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name is None or name in names.values():
        return name
    if name not in names:
        raise ValueError(f"`dtype` must be one of {', '.join(names)}, got {name!r}")
    return names[name]
