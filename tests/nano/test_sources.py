# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What salmonn-nano is made of is fetched in one go, and credited."""

from cli_salmonn.main import main
from nano_salmonn.data_makers import debian, effects, sources, speech
from nano_salmonn.data_makers.debian import DebianPackage


def test_everything_is_fetched_once_and_credited(tmp_path, monkeypatch, capsys):
    fetched = []
    for name in ("fetch_wheel", "fetch_package"):
        monkeypatch.setattr(sources, name, fetched.append)
    monkeypatch.setattr(sources.natural_voices, "fetch_styles", lambda: fetched.append("styles"))
    monkeypatch.setattr(debian, "package_version", lambda package: {"version": "1.0"})

    assert main(["nano", "fetch", str(tmp_path)]) == 0

    assert len(fetched) == len(set(fetched)) and "styles" in fetched
    wanted = [*speech.PACKAGES, *effects.PACKAGES]
    assert {package for package in wanted if isinstance(package, DebianPackage)} <= set(fetched)
    assert set(sources.all_wheels()) <= set(fetched)
    text = (tmp_path / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"| {package.name} | " in text for package in wanted) and "| espeak-ng | as installed |" in text
    assert capsys.readouterr().out == f"wrote {tmp_path / 'SOURCES.md'}\n"
