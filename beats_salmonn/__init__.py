# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
BEATs as people use it: what is heard in clips of any length and when, and the embeddings of any layer.

    from beats_salmonn import Embedder, Tagger

    tags = next(Tagger("./beats").tag(["clip.wav"], window=10, hop=5))
    embedding = next(Embedder("./beats", layers=[6, 12]).embed(["clip.wav"], window=10))
"""

from beats_salmonn.embedding import Embedder, Embedding
from beats_salmonn.export import export_onnx
from beats_salmonn.speech import SpeechDetector
from beats_salmonn.tagging import Tagger, Tags
from beats_salmonn.windows import Clip


__all__ = ["Clip", "Embedder", "Embedding", "SpeechDetector", "Tagger", "Tags", "export_onnx"]
