# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The encoders and the Q-Former of the released SALMONN code, for `encoders.py --released`, which starts this file in the
environment of that code: Python with transformers 4.28. Torchaudio, of which it needs filter banks alone, is stood in for by
filter banks that are there already. Weights are random, of the sizes of Whisper-base and BEATs-base.

Reads a number of seconds from each line of standard input, encodes a clip of them and writes the CPU seconds that it took.
"""

import sys
import time
from types import ModuleType

import torch
from torch import nn


RATE, FRAMES_PER_SECOND = 16000, 100
WHISPER_BASE = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
BEATS_BASE = {
    **{"input_patch_size": 16, "deep_norm": True, "relative_position_embedding": True, "gru_rel_pos": True},
    **{"num_buckets": 320, "max_distance": 800},
}
LLM_WIDTH = 64


def build(folder: str) -> nn.Module:
    """The released class with the parts that hear, without the LLM that its own constructor loads."""
    from transformers import WhisperConfig  # before the stand-in: Transformers looks which packages there are

    for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
        sys.modules[name] = ModuleType(name)
    sys.modules["torchaudio"].compliance = sys.modules["torchaudio.compliance"]
    sys.modules["torchaudio.compliance"].kaldi = sys.modules["torchaudio.compliance.kaldi"]
    sys.path.insert(0, folder)
    from models import salmonn

    bert = salmonn.BertConfig()  # that of bert-base-uncased
    salmonn.BertConfig.from_pretrained = lambda name: bert
    model = salmonn.SALMONN.__new__(salmonn.SALMONN)
    nn.Module.__init__(model)
    model.beats_path, model.use_speech_Qformer, model.window_level_Qformer = "random", True, True
    model.second_per_window = model.second_stride = 0.333333
    model.speech_encoder = salmonn.WhisperModel(WhisperConfig(**WHISPER_BASE)).encoder
    model.beats = salmonn.BEATs(salmonn.BEATsConfig(BEATS_BASE))
    widths = WHISPER_BASE["d_model"], model.beats.cfg.encoder_embed_dim
    model.ln_speech, model.ln_audio = map(nn.LayerNorm, widths)
    model.speech_Qformer, model.speech_query_tokens = model.init_speech_Qformer(1, sum(widths))
    model.speech_Qformer.bert.embeddings.word_embeddings = None
    model.speech_Qformer.bert.embeddings.position_embeddings = None
    for layer in model.speech_Qformer.bert.encoder.layer:
        layer.output = layer.intermediate = None  # those of text, which it does not read
    model.speech_llama_proj = nn.Linear(bert.hidden_size, LLM_WIDTH)
    model.beats.preprocess = lambda waveforms, **kwargs: torch.randn(
        len(waveforms), waveforms.shape[1] * FRAMES_PER_SECOND // RATE - 2, 128
    )
    return model.eval()


@torch.no_grad()
def main() -> None:
    model = build(sys.argv[1])
    spectrogram = torch.randn(1, 80, 3000)
    print("ready", flush=True)
    for line in sys.stdin:
        waveform = torch.randn(1, round(float(line) * RATE))
        padding_mask = torch.zeros_like(waveform, dtype=torch.bool)
        start = time.process_time()
        model.encode_speech(spectrogram, raw_wav=waveform, audio_padding_mask=padding_mask)
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
