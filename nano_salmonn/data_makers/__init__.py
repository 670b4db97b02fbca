# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Makers of training data from freely licensed sources, for models that are trained without any download of a data set."""
