# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The model card of a converted BEATs."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from configuration_beats import BeatsConfig


CARD = """
# BEATs

[BEATs](https://arxiv.org/abs/2212.09058), converted from `{source}`: {content}. {licence}

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


LICENCES = {
    "BEATs": "Weights of Microsoft, under the MIT licence.",
    "OpenBEATs": "Weights of the authors of [OpenBEATs](https://arxiv.org/abs/2507.14129), under the licence of their files.",
    "ESPnet": "Weights of an ESPnet model, under the licence of its files.",
    "AVEX": "Weights of the Earth Species Project, under the licence of their files.",
}


def save_beats_card(folder: Path, source: str, family: str, config: BeatsConfig) -> None:
    """Writes README.md for a BEATs of `family` that was converted from the file called `source`."""
    has_labels = config.architectures == ["BeatsForAudioClassification"]
    data = ModelCardData(
        language="en" if has_labels else None,
        library_name="transformers",
        license="mit" if family == "BEATs" else "other",
        pipeline_tag="audio-classification" if has_labels else "feature-extraction",
        tags=["beats", "audio"],
    )
    texts = (LABELS if has_labels else FEATURES) | {"licence": LICENCES[family]}
    if config.problem_type == "single_label_classification" and has_labels:
        texts |= {"content": "fine-tuned to tell one class of each clip"}
        texts |= {"output": texts["output"].replace("sigmoid()", "softmax(dim=-1)")}
    text = CARD.format(source=source, **texts)
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(folder / "README.md")
