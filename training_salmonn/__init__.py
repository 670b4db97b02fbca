# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Training: data, prompts, collation, cached features, and the stages of the papers on Transformers' `Trainer`."""
