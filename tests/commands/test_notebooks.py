# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The notebooks run from the first cell to the last, with a tiny model in the place of salmonn-nano."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from setup_file import read_setup

from tiny_salmonn import tiny_config, tiny_model, tiny_processor, with_adapter


ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# What cells tagged "parameters" set, in a few seconds' worth. The BEATs is the one that they use.
PARAMETERS = {
    "MODEL": "./salmonn-nano",
    "BEATS": str(ROOT / "checkpoints" / "salmonn-nano" / "beats"),
    "MAX_NEW_TOKENS": 3,
    "MAX_STEPS": 2,
    "CLIPS": 4,
}
PACKAGES = {"beats": ["matplotlib"]}


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def has_tag(cell: dict, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", ())


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with the models that the first cell would have made, and the command `salmonn`."""
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason=f"needs {package}: make test-notebooks")
    folder = tmp_path_factory.mktemp("notebooks")
    config = tiny_config(fixed_length=False, max_audio_seconds=10)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    config.transcription_separator_ids = processor.transcription_separator_ids()
    model = with_adapter(tiny_model(config))
    model.save_pretrained(folder / "salmonn-nano")
    processor.save_pretrained(folder / "salmonn-nano")
    command = folder / "bin" / "salmonn"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli_salmonn "$@"\n')
    command.chmod(0o755)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, reader, monkeypatch):
    import nbclient
    import nbformat

    for name in PACKAGES.get(path.stem, ()):
        pytest.importorskip(name)
    monkeypatch.setenv("PATH", f"{reader / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.cells = [cell for cell in notebook.cells if not has_tag(cell, "install")]
    for cell in notebook.cells:
        if has_tag(cell, "parameters"):
            names = re.findall(r"^(\w+) = ", cell.source, re.MULTILINE)
            cell.source = "\n".join(f"{name} = {PARAMETERS[name]!r}" for name in names)
    # what fails in a `%%bash` cell raises, what fails after a `!` does not
    assert not any(line.startswith("!") for cell in notebook.cells for line in cell.source.splitlines())
    manager = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={})
    manager.resources["metadata"] = {"path": str(reader)}
    manager.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)


def test_there_are_five():
    assert [path.stem for path in NOTEBOOKS] == ["ask", "beats", "evaluate", "finetune", "pipelines"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean_and_open_in_colab(path):
    title, install, *rest = read(path)
    for cell in (install, *rest):
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    assert sum(has_tag(cell, "parameters") for cell in rest) == 1
    text = "".join(title["source"])
    badge = re.search(r"\(https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/(\S+)\)", text)
    assert ROOT / badge[2] == path
    assert has_tag(install, "install")
    assert f'REPOSITORY = "https://github.com/{badge[1]}"' in "".join(install["source"])  # one address for both
    home = read_setup()[0]["repository"]() or "https://github.com/OWNER/REPOSITORY"  # until CITATION.cff has one
    assert home == f"https://github.com/{badge[1]}"
