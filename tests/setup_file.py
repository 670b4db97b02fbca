# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What setup.py says, without a build."""

import os
import runpy
from pathlib import Path
from unittest import mock


ROOT = Path(__file__).resolve().parents[1]


def read_setup() -> tuple[dict, dict]:
    """The names in setup.py, and the arguments of its call of `setup`."""
    here = Path.cwd()
    try:
        os.chdir(ROOT)  # where it is run, and looks for packages
        with mock.patch("setuptools.setup") as setup:
            names = runpy.run_path(str(ROOT / "setup.py"))
    finally:
        os.chdir(here)
    return names, setup.call_args.kwargs
