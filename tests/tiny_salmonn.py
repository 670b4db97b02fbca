"""Small SALMONN models with random weights, for tests that need no trained ones."""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

from configuration_salmonn import SalmonnConfig
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor


# What Transformers cannot do before 5.21, and says so.
IS_5_20 = transformers.__version__.startswith("5.20.")
IS_BEFORE_5_23 = transformers.__version__.startswith(("5.20.", "5.21.", "5.22."))
LLAMA = Path(__file__).parent / "fixtures" / "salmonn" / "llama"
AUDIO_TOKEN_ID = 600  # the fixture's LLM has 600 tokens of its own
LLMS = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8},
}
# every way from a clip to audio tokens that a configuration can ask for
VARIANTS = {
    "qformer": {},
    "overlapping windows": {"stride_seconds": 0.1, "num_query_tokens": 2, "pad_last_window": True},
    "whole segment": {"window_seconds": None, "num_query_tokens": 5},
    "linear": {"connector_type": "linear"},
    "cross attention": {"connector_type": "cross_attention"},
    "speech only": {"beats_config": None},
    "segment positions": {"segment_position_embeddings": True},
    "BEATs only": {"speech_config": None},
    "real length": {"fixed_length": False},
    "real length, whole segment": {"fixed_length": False, "window_seconds": None, "num_query_tokens": 5},
    "real length, BEATs only": {"fixed_length": False, "speech_config": None},
    "real length, BEATs only, whole segment": {
        "fixed_length": False,
        "speech_config": None,
        "window_seconds": None,
        "num_query_tokens": 5,
    },
    "real length, speech only, linear": {"fixed_length": False, "beats_config": None, "connector_type": "linear"},
}
# The chat template of an LLM that knows no clips.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_config(llm: str = "llama", segment_seconds: int = 4, **settings) -> SalmonnConfig:
    """Segments are shorter than the 30 s of Whisper, attention over which would be nearly all that a test costs."""
    speech_config = {"model_type": "whisper", "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4}
    beats_config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text_config = {"vocab_size": 601, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    defaults = {
        "speech_config": speech_config
        | {"encoder_ffn_dim": 48, "num_mel_bins": 80, "max_source_positions": 50 * segment_seconds},
        "beats_config": beats_config | {"patch_embed_dim": 24},
        "qformer_config": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48},
        "text_config": text_config | {"num_attention_heads": 4} | LLMS[llm],
        "audio_token_id": AUDIO_TOKEN_ID,
        "connector_hidden_size": 24,
        "connector_num_attention_heads": 4,
    }
    if settings.get("speech_config", defaults) is None:
        settings["segment_seconds"] = segment_seconds
    return SalmonnConfig(**defaults | settings)


def tiny_processor(config: SalmonnConfig, **settings) -> SalmonnProcessor:
    return SalmonnProcessor.from_model_config(config, AutoTokenizer.from_pretrained(LLAMA), **settings)


def tiny_model(config: SalmonnConfig, attention: str = "sdpa", seed: int = 0) -> SalmonnForConditionalGeneration:
    """A model in which everything matters to the output: its weights are large, and the placeholder has no row."""
    torch.manual_seed(seed)
    model = SalmonnForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        model.lm_head.weight[AUDIO_TOKEN_ID:] = 0
    model.generation_config.pad_token_id = 0
    return model


def with_adapter(model: SalmonnForConditionalGeneration, seed: int = 1) -> SalmonnForConditionalGeneration:
    """Adds an adapter that has been trained, as far as random numbers can tell."""
    torch.manual_seed(seed)
    model.add_adapter(model.lora_config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """A clip of 16 kHz that is nowhere the same."""
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))).astype(np.float32)


def question(*clips: np.ndarray, text: str = "What is this?", answer: str | None = None) -> list[dict]:
    parts = [{"type": "audio", "audio": clip} for clip in clips] + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": parts}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def ask(processor: SalmonnProcessor, *conversations: list[dict], **kwargs):
    """Model inputs for one or more conversations."""
    return processor.apply_chat_template(
        list(conversations), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )


def save_with_adapter(folder, seed: int = 0, **settings):
    """Saves a model with an adapter that never stops by itself, and its processor, and returns both."""
    config = tiny_config(**{"segment_seconds": 4, "max_audio_seconds": 4} | settings)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    model = with_adapter(tiny_model(config, seed=seed))
    model.generation_config.max_new_tokens = 5
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor
