# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The recipes of salmonn-nano, which extend those of `training_salmonn`."""

from pathlib import Path


RECIPES = Path(__file__).parent
