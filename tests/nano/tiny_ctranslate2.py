# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Small Whisper models in CTranslate2's format: the way back from Transformers, written independently."""

import struct

import torch


NORM = {"weight": "gamma", "bias": "beta"}
# what says how the decoder works, as the real file has it
DECODER_SETTINGS = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}


def write_ct2(variables, aliases=()):
    """Bytes of a CTranslate2 file of format 6."""

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    codes = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        raw = tensor.contiguous().numpy().tobytes()
        shape = struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape)
        data += text(name) + shape + struct.pack("<BI", codes[tensor.dtype], len(raw)) + raw
    return data + struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases)


def encoder_variables(state, heads, layers=2):
    """CTranslate2's variables of a `WhisperEncoder`, and as much of a decoder as says how many tokens there are."""
    variables = {
        "encoder/num_heads": torch.tensor(heads, dtype=torch.int16),
        "encoder/position_encodings/encodings": state["embed_positions.weight"],
        "decoder/embeddings/weight": torch.zeros(11, 4),
    }
    for kind in ("weight", "bias"):
        for conv in ("conv1", "conv2"):
            variables[f"encoder/{conv}/{kind}"] = state[f"{conv}.{kind}"]
        variables[f"encoder/layer_norm/{NORM[kind]}"] = state[f"layer_norm.{kind}"]
    for layer in range(layers):
        variables |= layer_variables(state, f"encoder/layer_{layer}/", f"layers.{layer}.")
    return variables


def decoder_variables(state, heads, layers):
    """CTranslate2's variables of a `WhisperDecoder`."""
    variables = {
        "decoder/num_heads": torch.tensor(heads, dtype=torch.int16),
        "decoder/alignment_heads": torch.tensor(1, dtype=torch.int16),
        "decoder/alignment_layer": torch.tensor(-1, dtype=torch.int16),
        "decoder/embeddings/weight": state["embed_tokens.weight"],
        "decoder/position_encodings/encodings": state["embed_positions.weight"],
    }
    variables |= {f"decoder/{name}": torch.tensor(v, dtype=torch.int8) for name, v in DECODER_SETTINGS.items()}
    for kind in ("weight", "bias"):
        variables[f"decoder/layer_norm/{NORM[kind]}"] = state[f"layer_norm.{kind}"]
    for layer in range(layers):
        there, here = f"decoder/layer_{layer}/", f"layers.{layer}."
        variables |= layer_variables(state, there, here)
        for kind in ("weight", "bias"):
            query, value, out = (state[f"{here}encoder_attn.{name}_proj.{kind}"] for name in ("q", "v", "out"))
            key = state[f"{here}encoder_attn.k_proj.weight"] if kind == "weight" else torch.zeros_like(value)
            variables[f"{there}attention/linear_0/{kind}"] = query
            variables[f"{there}attention/linear_1/{kind}"] = torch.cat([key, value])
            variables[f"{there}attention/linear_2/{kind}"] = out
            variables[f"{there}attention/layer_norm/{NORM[kind]}"] = state[f"{here}encoder_attn_layer_norm.{kind}"]
    return variables


def layer_variables(state, there, here):
    """Self-attention and feed-forward part of one layer of an encoder or a decoder."""
    variables = {}
    for kind in ("weight", "bias"):
        query, value = (state[f"{here}self_attn.{name}_proj.{kind}"] for name in "qv")
        key = state[f"{here}self_attn.k_proj.weight"] if kind == "weight" else torch.zeros_like(query)
        variables[f"{there}self_attention/linear_0/{kind}"] = torch.cat([query, key, value])
        variables[f"{there}self_attention/linear_1/{kind}"] = state[f"{here}self_attn.out_proj.{kind}"]
        variables[f"{there}self_attention/layer_norm/{NORM[kind]}"] = state[f"{here}self_attn_layer_norm.{kind}"]
        variables[f"{there}ffn/layer_norm/{NORM[kind]}"] = state[f"{here}final_layer_norm.{kind}"]
        variables[f"{there}ffn/linear_0/{kind}"] = state[f"{here}fc1.{kind}"]
        variables[f"{there}ffn/linear_1/{kind}"] = state[f"{here}fc2.{kind}"]
    return variables
