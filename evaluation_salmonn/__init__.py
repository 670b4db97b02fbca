# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Evaluation of SALMONN and other audio models: tasks as data, metrics, a runner that can be interrupted, reports.

    from evaluation_salmonn.runner import evaluate

    results = evaluate("path/to/salmonn", ["asr_librispeech_clean"], output="runs/salmonn", limit=100)

Nothing is imported here, so that importing the package costs nothing.
"""
