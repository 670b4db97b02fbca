"""`salmonn-nano` as it is shipped, cut down in size and not in settings: its template, LoRA, lengths and generation."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from conversion_salmonn.assemble import assemble
from modeling_salmonn import SalmonnForConditionalGeneration
from nano_salmonn.assemble import NANO


WHISPER = Path(__file__).parent / "fixtures" / "salmonn" / "whisper"
QFORMER = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# words that the vocabulary has whole
TEXT = "user assistant transcribe the speech what is this a dog barks twice while someone says yes no"


def save_llm(folder: Path, head_dim: int = 8) -> Path:
    """A LLaMA of two layers with a vocabulary of bytes and the tokens of SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # bytes of ASCII only: any others, drawn at random, would be no text
    alphabet = [byte for byte in pre_tokenizers.ByteLevel.alphabet() if byte.isascii()] + ["\u0120", "\u010a"]
    trainer = trainers.BpeTrainer(
        vocab_size=240, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokens = {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    llm = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    llm.save_pretrained(folder)
    return folder


def save_nano(folder: Path, with_adapter: bool = True, head_dim: int = 8) -> str:
    """Writes the model to `folder`, as `salmonn assemble --nano` does; the adapter is random."""
    llm = save_llm(folder.parent / "llm", head_dim)
    assemble(output=folder, **{**NANO, "whisper": WHISPER, "llm": llm, "qformer": QFORMER})
    if not with_adapter:
        return str(folder)
    model = SalmonnForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(1)
    model.add_adapter(model.lora_config(r=16, target_modules=ALL_LINEAR))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)
