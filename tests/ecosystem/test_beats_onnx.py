"""BEATs as ONNX files, run by onnxruntime."""

import numpy as np
import pytest
import torch

from beats_salmonn import export_onnx
from configuration_beats import BeatsConfig
from modeling_beats import BeatsForAudioClassification, BeatsModel


pytest.importorskip("onnxscript", reason="comes with make test-ecosystem")
onnxruntime = pytest.importorskip("onnxruntime", reason="comes with make test-ecosystem")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def make(model_class):
    torch.manual_seed(0)
    model = model_class(BeatsConfig(**SIZES, patch_embed_dim=24, id2label=dict(enumerate("abc")))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("model_class", [BeatsModel, BeatsForAudioClassification])
def test_onnxruntime_gives_the_same(tmp_path, model_class):
    model = make(model_class).train()
    session = onnxruntime.InferenceSession(str(export_onnx(model, tmp_path / "beats.onnx")))
    assert model.training and [path.name for path in tmp_path.iterdir()] == ["beats.onnx"]
    model.eval()
    for clips, frames, real in ((1, 98, 98), (3, 498, 130), (2, 16, 16)):
        features = torch.randn(clips, frames, 128)
        mask = (torch.arange(frames) < real).long().expand(clips, -1).contiguous()
        (found,) = session.run(None, {"input_features": features.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            expected = model(features, attention_mask=mask)[0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=0)


def test_what_is_no_beats_in_float32_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`model` must be a BEATs, got Linear"):
        export_onnx(torch.nn.Linear(1, 1), tmp_path / "beats.onnx")
    with pytest.raises(ValueError, match="`model` must be in float32, got torch.float16"):
        export_onnx(make(BeatsModel).half(), tmp_path / "beats.onnx")
