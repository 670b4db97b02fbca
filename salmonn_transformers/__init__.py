# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
SALMONN and BEATs for Transformers' Auto classes, and their public classes, in one import.

    import salmonn_transformers
    from transformers import AutoModelForMultimodalLM

    model = AutoModelForMultimodalLM.from_pretrained("./salmonn-nano")

With it, saved folders load without `trust_remote_code=True`, and run the code that is installed, not the copy in them.

An Auto class wants the classes themselves, so all are imported here: nothing that Transformers' own Auto classes would
not import too.
"""

from configuration_beats import BeatsConfig
from configuration_salmonn import SalmonnConfig
from data_salmonn.extras import find_version
from feature_extraction_beats import BeatsFeatureExtractor
from feature_extraction_salmonn import SalmonnFeatureExtractor
from modeling_beats import BeatsForAudioClassification, BeatsModel, BeatsPreTrainedModel
from modeling_salmonn import SalmonnForConditionalGeneration, SalmonnModel, SalmonnPreTrainedModel
from processing_salmonn import SalmonnProcessor, wrap_chat_template
from session_salmonn import PromptCache, SalmonnSession


__version__ = find_version()

__all__ = [
    "BeatsConfig",
    "BeatsFeatureExtractor",
    "BeatsForAudioClassification",
    "BeatsModel",
    "BeatsPreTrainedModel",
    "PromptCache",
    "SalmonnConfig",
    "SalmonnFeatureExtractor",
    "SalmonnForConditionalGeneration",
    "SalmonnModel",
    "SalmonnPreTrainedModel",
    "SalmonnProcessor",
    "SalmonnSession",
    "wrap_chat_template",
]
