# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What was installed of this project, and what to say where a package that it needs was not."""

import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager


DISTRIBUTION = "salmonn-transformers"
# Packages whose module has another name than they have.
PACKAGES = {
    "PIL": "pillow",
    "espeakng_loader": "espeakng-loader",
    "fluidsynth": "pyfluidsynth",
    "google": "protobuf",
    "hibari": "hibari-tts",
    "parselmouth": "praat-parselmouth",
    "piper": "piper-tts",
    "yaml": "pyyaml",
}


class MissingPackageError(ModuleNotFoundError):
    """A package of an extra of this project is missing. The message says how to install it."""


def find_version() -> str:
    """The version that is installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """
    For imports of packages that the extra `extra` brings.

    Raises [`MissingPackageError`] in the place of the `ModuleNotFoundError` of a package that is missing. Several extras may
    bring it: the outermost says which one is meant.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if is_own(error.name):
            raise
        raise missing_package(error.name or "", extra) from error


def missing_package(module: str, extra: str) -> MissingPackageError:
    """The error that says that `module` is missing, and that the extra `extra` brings it."""
    return MissingPackageError(f"the package {find_package(module)} is missing: {install(extra)}.", name=module)


def install(extra: str | None = None) -> str:
    """What to run for an extra, or for what everything needs. It stands on no index: a clone is where it works."""
    what = "." if extra is None else f"'.[{extra}]'"
    return f"run `pip install -e {what}` in a clone of SALMONN for Transformers"


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """What to say where the import of a package failed; `None` if this project does not ask for it."""
    if isinstance(error, MissingPackageError):
        return str(error)
    package = find_package(error.name or "")
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = [] if is_own(error.name) else [package]  # nothing is installed: start there
    names = [find_package(re.match(r"[\w.-]*", requirement)[0]) for requirement in requirements]
    return f"the package {package} is missing: {install()}." if package in names else None


def is_own(module: str | None) -> bool:
    """Whether a module is one of this project, so that no package brings it."""
    return bool(module) and module.partition(".")[0].endswith(("_salmonn", "_beats", "salmonn_transformers"))


def find_package(module: str) -> str:
    """The package of a module, by its name alone."""
    name = module.partition(".")[0]
    return PACKAGES.get(name, re.sub("[-_.]+", "-", name).lower())
