# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Other families of audio models with random weights, saved to folders as their checkpoints are."""

import base64
import json
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tiny_salmonn import LLAMA


TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
ENCODER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 80}
USER_TEMPLATE = "{% for message in messages %}user: {{ message['content'] }}\n{% endfor %}answer:"


def shake(model, seed: int = 0):
    """Weights so large that everything an answer can depend on shows in it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def text_config(vocab_size: int, **changes) -> dict:
    return TEXT | {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} | changes


def save_qwen2_audio(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    tokenizer.pad_token = "<unk>"
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder"} | ENCODER,
        text_config={"model_type": "qwen2", "num_key_value_heads": 2} | text_config(len(tokenizer)),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    shake(Qwen2AudioForConditionalGeneration(config)).save_pretrained(folder)
    Qwen2AudioProcessor(WhisperFeatureExtractor(80), tokenizer).save_pretrained(folder)
    return folder


def save_whisper(folder: Path, multilingual: bool = False) -> Path:
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"]
    vocabulary = {symbol: i for i, symbol in enumerate(bytes_to_unicode().values())}
    tokenizer = WhisperTokenizer(vocab=vocabulary | {"<|endoftext|>": 256}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special)))
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "max_target_positions": 64}
    config = WhisperConfig(
        vocab_size=len(tokenizer) + 1501,  # and the time stamps
        decoder_start_token_id=ids["<|startoftranscript|>"],
        **dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), ids["<|endoftext|>"]),
        **ENCODER | decoder,
    )
    model = shake(WhisperForConditionalGeneration(config))
    settings = model.generation_config
    settings._from_model_config = False  # or what follows would not be read back
    settings.no_timestamps_token_id = ids["<|notimestamps|>"]
    settings.is_multilingual = multilingual
    settings.begin_suppress_tokens = settings.suppress_tokens = None
    if multilingual:
        settings.lang_to_id = {"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]}
        settings.task_to_id = {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(80), tokenizer).save_pretrained(folder)
    return folder


def save_llm(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    tokenizer.chat_template = USER_TEMPLATE
    shake(LlamaForCausalLM(LlamaConfig(**text_config(len(tokenizer))))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_voxtral(folder: Path) -> Path:
    special = ["<unk>", "<s>", "</s>", "<pad>", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]", "[INST]", "[/INST]"]
    special += ["[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
    special += ["[PREFIX]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]"]
    special += [f"<filler {i}>" for i in range(len(special), 25)]
    special[4], special[24] = special[24], special[4]  # the processor knows the audio token by its number
    vocabulary = [
        {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)
    ]
    tekken = {
        "config": {
            "pattern": r"\s+|\S+",
            "num_vocab_tokens": 256,
            "default_vocab_size": 256 + len(special),
            "default_num_special_tokens": len(special),
            "version": "v11",
        },
        "vocab": vocabulary,
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 80, "hop_length": 160, "window_size": 400},
            "chunk_length_s": 30.0,
        },
    }
    folder.mkdir(parents=True)
    (folder / "tekken.json").write_text(json.dumps(tekken))
    encoder = {
        "model_type": "voxtral_encoder",
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_mel_bins": 80,
    }
    config = VoxtralConfig(
        audio_config=encoder,
        text_config={"model_type": "llama", "head_dim": 8, "num_key_value_heads": 2} | text_config(256 + len(special)),
        audio_token_id=24,
    )
    shake(VoxtralForConditionalGeneration(config)).save_pretrained(folder)
    WhisperFeatureExtractor(80).save_pretrained(folder)
    settings = {"processor_class": "VoxtralProcessor", "feature_extractor_type": "WhisperFeatureExtractor"}
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor | settings))
    return folder


def granite_model(vocab_size: int, audio_token_id: int):
    config = GraniteSpeechConfig(
        text_config={"model_type": "granite", "num_key_value_heads": 2} | text_config(vocab_size),
        encoder_config={"input_dim": 160, "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "context_size": 50},
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "encoder_hidden_size": 16,
            "cross_attention_frequency": 1,
        },
        audio_token_index=audio_token_id,
        has_lora_adapter=False,
    )
    return shake(GraniteSpeechForConditionalGeneration(config))
