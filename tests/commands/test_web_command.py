# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn demo` without a page: its options, what it says without Gradio, and the files of the Space."""

import re
import sys
from types import SimpleNamespace

import pytest
from setup_file import ROOT, read_setup

from cli_salmonn.main import main
from demo_salmonn.limits import Limits


SPACE = ROOT / "demo_salmonn" / "space"


@pytest.fixture
def opened(monkeypatch):
    """What the command asks for: arguments of `load_page` and of `launch_page`."""
    calls = []
    page = SimpleNamespace(
        load_page=lambda *args: calls.append(args) or "page",
        launch_page=lambda *args, **named: calls.append((args, named)),
    )
    monkeypatch.setitem(sys.modules, "demo_salmonn.web", page)
    return calls


def test_options_reach_the_page(opened):
    bounds = ["--max-clip-seconds", "30", "--max-new-tokens", "40", "--max-upload-megabytes", "2.5"]
    where = ["--host", "0.0.0.0", "--port", "8080", "--no-browser"]
    assert main(["demo", "there", "--device", "cpu", "--tasks", "asr", "story", *bounds, *where]) == 0
    limits = Limits(clip_seconds=30, new_tokens=40, upload_megabytes=2.5)
    assert opened[0] == ("there", "cpu", None, ["asr", "story"], limits)
    launch = {"server_name": "0.0.0.0", "server_port": 8080, "share": False, "inbrowser": False}
    assert opened[1] == (("page", limits), launch)


def test_defaults_are_those_of_the_limits(opened):
    assert main(["demo"]) == 0
    assert opened[0] == (None, None, None, None, Limits())
    assert opened[1][1] == {"server_name": None, "server_port": None, "share": False, "inbrowser": True}


def test_limits_are_checked_before_a_model_is_loaded(opened, capsys):
    assert main(["demo", "--max-clips", "0"]) == 2 and not opened
    assert "`clips` must be a number above 0, got 0" in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "demo_salmonn.web", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    assert "gradio is missing: run `pip install -e '.[web]'`" in capsys.readouterr().err


def test_space_installs_what_setup_asks_for():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith(("#", "--"))}
    names, _ = read_setup()
    web = {requirement for requirement in names["EXTRAS"]["web"] if not requirement.startswith("gradio")}
    assert listed == {*names["INSTALL_REQUIRES"], *web}


def test_header_of_the_space():
    header = (SPACE / "README.md").read_text().split("---\n")[1]
    values = dict(re.findall(r"^(\w+): (.+)$", header, re.MULTILINE))
    assert values["sdk"] == "gradio" and int(values["sdk_version"].split(".")[0]) >= 6
    assert (SPACE / values["app_file"]).is_file() and len(values["short_description"]) <= 60
