# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Clips, questions and answers: one form and one reader for training, evaluation and the command line."""
