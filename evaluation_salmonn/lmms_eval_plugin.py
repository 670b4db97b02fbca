# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What lmms-eval finds of this project: its entry point in the group `lmms_eval.models`, see setup.py.

Every run of lmms-eval loads it, of other models too. Hence the model's class stands in a file of its own.
"""

from lmms_eval.models.registry_v2 import ModelManifest


SALMONN = ModelManifest(model_id="salmonn", chat_class_path="evaluation_salmonn.lmms_eval_model.Salmonn")
