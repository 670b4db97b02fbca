# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What every test has: the same random numbers, caches of its own, no network, and the mark of its layer."""

import gc
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest


# The mark of a layer is the name of its folder; single tests elsewhere may have it too. `make test` runs what stands beside the folders.
LAYERS = ("bad_input", "commands", "ecosystem", "engines", "learning", "long", "nano")
CACHES = Path(tempfile.mkdtemp(prefix="salmonn-tests-"))

# Set before anything of Hugging Face is imported, which reads them once. Each worker of pytest-xdist has folders of its
# own, so that none reads what another one is writing. `make test-slow` sets HF_HUB_OFFLINE=0: its tests need the network,
# and keep what they download.
if os.environ.get("HF_HUB_OFFLINE") != "0":
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(CACHES / "huggingface"),
        "HF_MODULES_CACHE": str(CACHES / "modules"),
        "SALMONN_CACHE": str(CACHES / "salmonn"),
    }


def pytest_unconfigure():
    shutil.rmtree(CACHES, ignore_errors=True)


def pytest_collection_modifyitems(items):
    for item in items:
        for layer in LAYERS:
            if Path(__file__).parent / layer in item.path.parents:
                item.add_marker(layer)


def pytest_collection_finish():
    """What is imported stays: `Trainer`, which collects garbage by hand, would look at all of it each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Every test draws the same numbers, whatever ran before it."""
    _seed()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """So does a fixture that several tests share, and whether it exists already changes nothing for the test."""
    if fixturedef.scope == "function":
        return (yield)
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            _seed()
            return (yield)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _seed():
    # not above: pytest-xdist reads this file in a process, too, that runs no tests
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
