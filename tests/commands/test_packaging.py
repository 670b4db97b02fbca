# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What an index and an installed package get of the project: told from setup.py, without a build."""

import io
import re
from email import message_from_string
from pathlib import Path

import pytest
from setup_file import ROOT, read_setup

from nano_salmonn.assemble import NANO_TRAINED_PARTS, find_checkpoint


setuptools = pytest.importorskip("setuptools", reason="comes with pip install -e '.[dev]'")
Metadata = pytest.importorskip("packaging.metadata", reason="comes with pip install -e '.[dev]'").Metadata

TRASH = {"__pycache__", ".ruff_cache", ".mlinter_cache"}


@pytest.fixture(scope="module")
def setup():
    return read_setup()


def test_metadata_is_valid(setup):
    """As an index checks it: fields, versions, licence, requirements."""
    file = io.StringIO()
    arguments = {name: value for name, value in setup[1].items() if name not in ("license_files", "cmdclass")}
    setuptools.Distribution(arguments).metadata.write_pkg_file(file)
    metadata = Metadata.from_email(file.getvalue(), validate=True)
    assert (metadata.name, metadata.license_expression) == ("salmonn-transformers", "Apache-2.0")
    assert str(metadata.version) == re.search(r"## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text())[1]
    assert metadata.description_content_type == "text/markdown"
    assert "Typing :: Typed" in metadata.classifiers and "Paper" in metadata.project_urls
    assert message_from_string(file.getvalue())["Requires-Python"] == ">=3.11"


def test_everything_in_the_packages_is_installed(setup):
    """Nothing that the code reads is forgotten, and all top-level names are ours."""
    arguments = setup[1]
    top = {*arguments["py_modules"], *(name.split(".")[0] for name in arguments["packages"])}
    assert all(name.endswith(("_salmonn", "_beats")) for name in top - {"salmonn_transformers"})
    assert top == {path.stem for path in ROOT.glob("*_*.py")} | {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    }
    forgotten = []
    for package in {name.split(".")[0] for name in arguments["packages"]}:
        patterns = [*arguments["package_data"][""], *arguments["package_data"].get(package, ())]
        for path in (ROOT / package).rglob("*"):
            if path.is_dir() or TRASH & set(path.parts) or path == ROOT / "nano_salmonn" / "README.md":
                continue
            if path.suffix == ".py" and ".".join(path.parent.relative_to(ROOT).parts) in arguments["packages"]:
                continue
            if not any(path.relative_to(ROOT / package).match(pattern) for pattern in patterns):
                forgotten.append(str(path.relative_to(ROOT)))
        assert (ROOT / package / "py.typed").is_file()
    assert not forgotten


def test_the_description_needs_no_files_beside_it(setup):
    make = setup[0]["make_description"]
    text = setup[1]["long_description"]
    assert not re.search(r"\]\((?!https?:|#)", text) and "not run:" not in text
    page = "![a b](docs/images/a.png) [c](docs/c.md) [d](https://d.org) [e](#f)\n<!-- not run: g\nh -->\nend"
    home = "https://example.org/us/it"
    expected = (
        f"![a b]({home}/raw/main/docs/images/a.png) [c]({home}/blob/main/docs/c.md) [d](https://d.org) [e](#f)\nend"
    )
    assert make(page, home) == expected
    assert make(page, None) == "a b c [d](https://d.org) [e](#f)\nend"


def test_a_wheel_carries_the_trained_part_of_nano(setup, tmp_path, monkeypatch):
    arguments = setup[1]
    checkpoint = tmp_path / "clone" / "checkpoints" / "salmonn-nano"
    for part in NANO_TRAINED_PARTS:
        (checkpoint / part).mkdir(parents=True)
        (checkpoint / part / "config.json").write_text(part)
    build = arguments["cmdclass"]["build_py"](setuptools.Distribution({"name": "x"}))
    monkeypatch.setitem(type(build).run.__globals__, "CHECKPOINT", checkpoint)
    build.ensure_finalized()
    for editable in (False, True):
        build.build_lib, build.editable_mode = str(tmp_path / f"editable-{editable}"), editable
        build.run()
        package = Path(build.build_lib, "nano_salmonn")
        assert (package / "checkpoint" / "beats" / "config.json").is_file() != editable
    installed, clone = tmp_path / "editable-False" / "nano_salmonn", tmp_path / "clone" / "nano_salmonn"
    assert find_checkpoint(installed) == installed / "checkpoint"
    assert find_checkpoint(clone) == checkpoint


def test_sources_carry_what_a_wheel_is_built_from():
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    assert "recursive-include checkpoints *" in lines and "global-include py.typed" in lines


def test_the_lock_names_a_version_of_every_package(setup):
    """One that setup.py allows, for all that `make test` installs."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = {}
    for line in (ROOT / "requirements-lock.txt").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "+" not in pin.version, line
        locked[canonicalize_name(requirement.name)] = pin.version
    extras = setup[1]["extras_require"]
    wanted = [
        *setup[1]["install_requires"],
        *(line for name in ("dev", "train", "eval", "demo") for line in extras[name]),
    ]
    for requirement in map(Requirement, wanted):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), (str(requirement), version)
