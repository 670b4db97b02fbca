# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A first run: a small model of real parts, a spoken clip, a question, an answer, and what each part took."""
