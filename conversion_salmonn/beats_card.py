# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The model card of a converted BEATs."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData


CARD = """
# BEATs

[BEATs](https://arxiv.org/abs/2212.09058), converted from `{source}`: {content}. Weights of Microsoft, under the MIT licence.

```python
import numpy as np
import torch
from transformers import AutoFeatureExtractor, {auto_class}

extractor = AutoFeatureExtractor.from_pretrained(".", trust_remote_code=True)
model = {auto_class}.from_pretrained(".", trust_remote_code=True)

clip = np.zeros(16000, dtype=np.float32)  # a second of silence at 16 kHz
inputs = extractor(clip, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
{output}
```
"""
FEATURES = {
    "content": "an encoder of all that is heard, trained without labels",
    "auto_class": "AutoModel",
    "output": "print(output.last_hidden_state.shape)  # clips, patches, width",
}
LABELS = {
    "content": "fine-tuned to tag clips with sound events, any number of them at once",
    "auto_class": "AutoModelForAudioClassification",
    "output": """scores = output.logits[0].sigmoid()
for index in scores.topk(3).indices.tolist():
    print(model.config.id2label[index], f"{scores[index]:.3f}")""",
}


def save_beats_card(folder: Path, source: str, has_labels: bool) -> None:
    """Writes README.md for a BEATs that was converted from the file called `source`, with a classifier or without."""
    data = ModelCardData(
        language="en" if has_labels else None,
        library_name="transformers",
        license="mit",
        pipeline_tag="audio-classification" if has_labels else "feature-extraction",
        tags=["beats", "audio"],
    )
    text = CARD.format(source=source, **(LABELS if has_labels else FEATURES))
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(folder / "README.md")
