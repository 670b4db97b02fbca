# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What was installed of this project, and what of it a command needs besides."""

import importlib.metadata
import re


DISTRIBUTION = "salmonn-transformers"
# Packages whose module has another name than they have.
PACKAGES = {"fluidsynth": "pyfluidsynth", "bs4": "beautifulsoup4", "sklearn": "scikit-learn"}


def find_version() -> str:
    """The version that is installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def how_to_install(module: str | None, extra: str) -> str | None:
    """
    What to say where `module` is missing: which extra of this project brings it; `None` if it is not one of its packages.

    `extra` is the one that belongs to the command, which is named if several have the package.
    """
    name = (module or "").partition(".")[0]
    package = PACKAGES.get(name, re.sub("[-_.]+", "-", name).lower())
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = [f"{package}; extra == '{extra}'"]  # nothing is installed: start there
    if name.endswith(("_salmonn", "_beats")):
        return None  # a fault of this project
    found = []  # extras with the package, None for those that everything needs
    for requirement in requirements:
        requirement, _, marker = requirement.partition(";")
        if re.match(r"[\w.-]*", requirement).group().lower() == package:
            match = re.search(r"extra == ['\"]([\w.-]+)['\"]", marker)
            found.append(match.group(1) if match else None)
    if not found:
        return None
    best = extra if extra in found else found[0]
    what = "." if best is None else f'".[{best}]"'
    return f"the package {package} is missing: run `pip install {what}` in the folder of this project."
