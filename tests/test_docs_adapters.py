# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The guide to adapters: its blocks run as printed, one after the other."""

import re
from pathlib import Path

import numpy as np

from tiny_salmonn import tiny_config, tiny_model, tiny_processor


GUIDE = Path(__file__).parents[1] / "docs" / "adapters.md"


def test_the_blocks_run_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_config()
    names = {"model": tiny_model(config), "processor": tiny_processor(config), "np": np}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "whole", "merged"}
    assert names["output"].shape[1] == names["inputs"]["input_ids"].shape[1] + 5
