# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What is said where a package is missing: the line that installs the extra that brings it, and no traceback."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from setup_file import ROOT, read_setup

from cli_salmonn.main import main
from data_salmonn import extras
from data_salmonn.extras import MissingPackageError, explain_missing, find_package, needs_extra
from demo_salmonn.speech import speak
from evaluation_salmonn.metrics import load_metric
from evaluation_salmonn.metrics.java import missing_java
from training_salmonn.run import run_recipe


PACKAGES = sorted(path for path in ROOT.iterdir() if (path / "__init__.py").is_file())
# What is imported, and comes with another package that setup.py names.
BROUGHT_BY = {
    "filelock": "huggingface-hub",
    "pyarrow": "datasets",
    "markupsafe": "jinja2",
    "psutil": "accelerate",
    "regex": "transformers",
    "tokenizers": "transformers",
    "urllib3": "vllm",
    "xxhash": "datasets",
}
# Left out where they are missing, replaced by a program, or what loads the file that imports them: these are no errors.
OPTIONAL = {"espeakng-loader", "lmms-eval", "pyfluidsynth", "tinysoundfont"}


def read_requirements() -> tuple[set[str], dict[str, set[str]]]:
    """What everything needs, and what each extra needs: names of packages."""
    names, _ = read_setup()

    def strip(requirements) -> set[str]:
        return {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}

    return strip(names["INSTALL_REQUIRES"]), {extra: strip(needed) for extra, needed in names["EXTRAS"].items()}


def find_third_party(path: Path) -> list[tuple[str, str | None, int]]:
    """All imports of a file that are neither Python's nor this project's: package, extra around it, line."""
    found = []

    def visit(node: ast.AST, extra: str | None) -> None:
        if isinstance(node, ast.With):
            call = node.items[0].context_expr
            if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "needs_extra":
                extra = call.args[0].value
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in names:
            if name.split(".")[0] not in sys.stdlib_module_names and not extras.is_own(name):
                found.append((find_package(name), extra, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, extra)

    visit(ast.parse(path.read_text(encoding="utf-8")), None)
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_imports_of_extras_say_which_one(package):
    """Whatever `pip install -e .` alone does not bring is imported under `needs_extra`, with an extra that has it."""
    core, by_extra = read_requirements()
    silent = []
    for path in sorted(package.rglob("*.py")):
        for name, extra, line in find_third_party(path):
            name = name if any(name in needed for needed in (core, *by_extra.values())) else BROUGHT_BY.get(name, name)
            if name in core | OPTIONAL or name in by_extra.get(extra, ()):
                continue
            silent.append(f"{path.relative_to(ROOT)}:{line} imports {name} under {extra}")
    assert not silent


COMMANDS = [
    ("datasets", ["train", "pretrain", "--train", "a.jsonl", "--bf16", "false"], "train"),
    ("datasets", ["activate", "activate", "--train", "a.jsonl", "--bf16", "false"], "train"),
    ("datasets", ["sweep-lora", "m", "--data", "a.jsonl", "--output", "x"], "eval"),
    ("evaluate", ["evaluate", "m", "--tasks", "asr_librispeech_clean", "--output", "x"], "eval"),
    ("jinja2", ["report", "run"], "eval"),
    ("matplotlib", ["report", "run"], "eval"),
    ("openai", ["judge", "run", "--local", "m"], "eval"),
    ("gradio", ["demo"], "web"),
]


@pytest.fixture
def block(monkeypatch):
    """Takes a package away, and what of this project has imported it, until the test is over."""

    def take_away(package: str) -> None:
        for name in [name for name in sys.modules if name.startswith(("training_", "evaluation_", "demo_", "data_"))]:
            if extras.is_own(name) and name != "data_salmonn.extras":
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            monkeypatch.setitem(sys.modules, name, None)

    return take_away


@pytest.mark.parametrize(
    ("package", "command", "extra"), COMMANDS, ids=lambda value: str(value).split("'")[1:2] or value
)
def test_commands_without_a_package(block, capsys, package, command, extra):
    block(package)
    assert main(command) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"salmonn: error: the package {package} is missing: run `pip install -e '.[{extra}]'`")


def test_functions_without_a_package(block):
    """What is imported from Python says the same, and is a `ModuleNotFoundError` as ever."""
    block("jiwer")
    from data_salmonn.error_rates import count_word_edits

    with pytest.raises(ModuleNotFoundError, match=r"jiwer is missing: run `pip install -e '\.\[eval\]'`") as missing:
        count_word_edits(["a"], ["b"])
    assert missing.value.name == "jiwer"
    block("datasets")
    with pytest.raises(MissingPackageError, match=r"'\.\[train\]'"):
        import training_salmonn.trainer  # noqa: F401


def test_what_programs_may_replace_is_named_with_them(monkeypatch):
    """Voices, and the captioning metrics, whose other half is Java."""
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    monkeypatch.setattr("shutil.which", lambda program: None)
    with pytest.raises(ValueError, match=r"'\.\[demo\]'.*or install espeak-ng"):
        speak("good morning")
    assert "'.[eval]'" in missing_java()
    assert "'.[eval]'" in load_metric("spider").missing_parts()


def test_tensorboard_is_missed_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr("training_salmonn.run.is_tensorboard_available", lambda: False)
    training = SimpleNamespace(report_to=["tensorboard"])
    with pytest.raises(MissingPackageError, match=r"tensorboard is missing: run `pip install -e '\.\[train\]'`"):
        run_recipe(SimpleNamespace(training=training))


def test_the_outermost_extra_is_meant():
    with pytest.raises(MissingPackageError, match=r"nothing-of-it is missing.*'\.\[web\]'"):
        with needs_extra("web"), needs_extra("train"):
            import nothing_of_it  # noqa: F401
    with pytest.raises(ModuleNotFoundError) as fault, needs_extra("web"):
        import training_salmonn.nothing  # noqa: F401
    assert not isinstance(fault.value, MissingPackageError)  # a fault of this project


@pytest.mark.parametrize("installed", [True, False])
def test_what_everything_needs(monkeypatch, installed):
    def requires(name):
        if not installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return ["torch>=2", "huggingface_hub>=1", "datasets>=5; extra == 'train'"]

    monkeypatch.setattr(extras.importlib.metadata, "requires", requires)
    said = explain_missing(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    assert said == "the package torch is missing: run `pip install -e .` in a clone of SALMONN for Transformers."
    assert explain_missing(ModuleNotFoundError(name="modeling_salmonn")) is None
    other = explain_missing(ModuleNotFoundError(name="something_else"))
    assert (other is None) == installed
