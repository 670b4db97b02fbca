# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What one visitor of the web page, or one request to a server, may take."""


class PositiveLimits:
    """Base of dataclasses of limits. Raises `ValueError` unless all are numbers above 0."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"`{name}` must be a number above 0, got {value!r}.")
