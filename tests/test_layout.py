# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The house: which package may import which."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
# A package imports the model's files, packages of floors below its own, and itself.
FLOORS = (
    ("data_salmonn",),
    ("salmonn_transformers",),
    ("conversion_salmonn",),
    ("training_salmonn", "evaluation_salmonn", "serving_salmonn"),
    ("nano_salmonn",),
    ("demo_salmonn", "cli_salmonn"),
)
# The page and the command ask a model in the same way, and the command opens the page.
NEIGHBOURS = {("demo_salmonn", "cli_salmonn"), ("cli_salmonn", "demo_salmonn")}
MODEL_FILES = sorted(path for ending in ("beats", "salmonn") for path in ROOT.glob(f"*_{ending}.py"))


def find_imports(path: Path) -> set[str]:
    """The first names of all that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", [name for floor in FLOORS for name in floor])
def test_imports_run_one_way(package):
    floor = next(number for number, names in enumerate(FLOORS) if package in names)
    above = {name for names in FLOORS[floor:] for name in names} - {package}
    above -= {other for own, other in NEIGHBOURS if own == package}
    files = sorted((ROOT / package).rglob("*.py"))
    wrong = {str(path.relative_to(ROOT)): found for path in files if (found := find_imports(path) & above)}
    assert files and not wrong


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.stem)
def test_the_model_needs_none_of_the_packages(path):
    """What travels in a checkpoint finds nothing but its neighbours there."""
    packages = {name for floor in FLOORS for name in floor}
    assert not find_imports(path) & (packages | {"tests", "benchmarks", "examples"})
