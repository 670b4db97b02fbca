# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What every test has."""

from pathlib import Path

import pytest


NANO = Path(__file__).parent / "nano"


def pytest_collection_modifyitems(items):
    """Tests of the workshop of salmonn-nano are marked as such: `make test` leaves them out, `make test-nano` runs them."""
    for item in items:
        if NANO in item.path.parents:
            item.add_marker(pytest.mark.nano)
