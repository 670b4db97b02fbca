# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What a result must say so that it can be repeated: versions, commit, weights."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from data_salmonn.normalizers import has_spelling_table


_PACKAGES = (
    "salmonn-transformers",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "jiwer",
    "sacrebleu",
    "rouge-score",
    "pycocoevalcap",
    "whisper-normalizer",
    "soundfile",
    "soxr",
)
_VALUES_PER_TENSOR = 16


def describe_environment() -> dict:
    """Versions of everything that can change a score, and the commit of this code if it runs from a clone."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "english_spelling_table": has_spelling_table(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@torch.no_grad()
def weights_digest(model: torch.nn.Module) -> str:
    """
    Short hash of evenly spaced values of every tensor of a model, in float32: the same for the same weights in the same
    dtype, wherever they were loaded from. Seconds for a large model, where hashing its files takes minutes.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        if tensor.numel() and not tensor.is_meta:
            step = max(1, tensor.numel() // _VALUES_PER_TENSOR)
            digest.update(tensor.detach().flatten()[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
