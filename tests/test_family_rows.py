# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Every row of docs/family.md that is a BEATs, from the file to an answer: embeddings, logits and greedy ids are those that the
family's own code leads to, before and after `save_pretrained`.

`fixtures/beats_family/microsoft` has tiny random files of each iteration, written and run by the published code
(microsoft/unilm at 768a3c8, beats/BEATs.py, `extract_features` in float64; torch 2.13, torchaudio 2.11), which has one layout
for all of them; sizes and settings differ. tests/test_convert_beats_family.py says where the others come from.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.modeling_outputs import BaseModelOutput

from conversion_salmonn.families import convert_auto
from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import ask, question, tiny_config, tiny_model, tiny_processor


FAMILY = Path(__file__).parent / "fixtures" / "beats_family"
MICROSOFT = FAMILY / "microsoft"
EXPECTED = load_file(FAMILY / "rows.safetensors")
WAVEFORM = (0.1 * np.random.default_rng(5).standard_normal(16000)).astype(np.float32)
FINE_TUNED = "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
# row: family and file. Its numbers are its hidden states and, of a classifier, its `.outputs`
ROWS = {
    "iter1": ("BEATs", MICROSOFT / "BEATs_iter1.pt"),
    "iter2": ("BEATs", MICROSOFT / "BEATs_iter2.pt"),
    "iter3": ("BEATs", MICROSOFT / "BEATs_iter3.pt"),
    "iter3_plus": ("BEATs", MICROSOFT / "BEATs_iter3_plus_AS2M.pt"),
    "finetuned": ("BEATs", MICROSOFT / FINE_TUNED),
    "openbeats": ("OpenBEATs", FAMILY / "openbeats.pt"),
    "openbeats_normalised": ("OpenBEATs", FAMILY / "openbeats_normalised.pt"),
    "espnet": ("ESPnet BEATs", FAMILY / "espnet"),
    "avex": ("AVEX BEATs", FAMILY / "avex"),
}


@pytest.fixture(scope="module", params=ROWS)
def row(request, tmp_path_factory):
    """Its name and the converted folder."""
    family, file = ROWS[request.param]
    folder = tmp_path_factory.mktemp("row") / "converted"
    assert convert_auto(file, folder).family.name == family
    return request.param, folder


@torch.no_grad()
def test_embeddings_and_logits(row, tmp_path):
    name, folder = row
    outputs = EXPECTED.get(f"{name}.outputs")
    auto_class = AutoModel if outputs is None else AutoModelForAudioClassification
    found = {}
    for place in (folder, tmp_path / "again"):
        model = auto_class.from_pretrained(place).eval()
        extractor = AutoFeatureExtractor.from_pretrained(place)
        inputs = extractor(WAVEFORM, 16000, return_tensors="pt")
        encoder = model if outputs is None else model.beats
        torch.testing.assert_close(encoder(**inputs).last_hidden_state[0], EXPECTED[name], atol=1e-5, rtol=1e-5)
        found[place] = model(**inputs)[0]
        if outputs is not None:
            logits = found[place][0]  # of which Microsoft's code gives probabilities
            logits = logits.sigmoid() if name == "finetuned" else logits
            torch.testing.assert_close(logits, outputs, atol=1e-5, rtol=0)
        model.save_pretrained(tmp_path / "again")
        extractor.save_pretrained(tmp_path / "again")
    assert torch.equal(found[folder], found[tmp_path / "again"])


@torch.no_grad()
def test_greedy_ids_of_a_salmonn_that_hears_with_it(row, tmp_path):
    """They are those that follow from the hidden states of the family's own code, put in the place of the encoder's."""
    name, folder = row
    states = EXPECTED[name]
    encoder = AutoModel.from_pretrained(folder)
    config = tiny_config(beats_config=encoder.config.to_dict(), speech_config=None, fixed_length=False)
    model, processor = tiny_model(config), tiny_processor(config)
    model.model.beats.load_state_dict(encoder.state_dict())
    inputs = ask(processor, question(WAVEFORM))

    def answer(model, put_in_place=None):
        hook = model.model.beats.register_forward_hook(lambda *_: put_in_place)
        try:
            return model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None).tolist()
        finally:
            hook.remove()

    ids = answer(model)
    assert answer(model, BaseModelOutput(last_hidden_state=states[None])) == ids
    assert answer(model, BaseModelOutput(last_hidden_state=-states[None])) != ids  # what is heard matters
    model.save_pretrained(tmp_path / "model")
    assert answer(SalmonnForConditionalGeneration.from_pretrained(tmp_path / "model").eval()) == ids
