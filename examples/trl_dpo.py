# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Direct preference optimization with TRL on clips of your own:

    pip install trl
    python examples/trl_dpo.py --model MODEL --data data.csv --output OUT

`data.csv` (or `.jsonl`) has a row for each clip: `audio` (a path, from the folder of the file), `question`, and two
answers to it, `chosen` and `rejected`. OUT becomes a PEFT adapter, of MODEL or, if MODEL has an adapter already, of
OUT/base. Every option of TRL's `DPOConfig` can be given too.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForMultimodalLM, AutoProcessor
from transformers.utils import is_torch_bf16_gpu_available
from trl import DPOConfig, DPOTrainer, TrlParser


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub id of a SALMONN"})
    data: str = field(metadata={"help": "CSV or JSONL with the columns audio, question, chosen and rejected"})
    output: str = field(metadata={"help": "folder of the adapter"})


@dataclass
class Settings(DPOConfig):
    output_dir: str | None = field(default="runs/trl-dpo", metadata={"help": "folder of checkpoints"})
    bf16: bool | None = field(default=is_torch_bf16_gpu_available(), metadata={"help": "where the GPU has it"})


class CollatePreferences:
    """Rows to a batch of all that is chosen, then all that is rejected; `completion_mask` is 1 on the answers."""

    def __init__(self, processor, folder: Path):
        self.processor, self.folder = processor, folder

    def __call__(self, rows: list[dict]):
        conversations = []
        for column in ("chosen", "rejected"):
            for row in rows:
                clip = {"type": "audio", "audio": str(self.folder / row["audio"])}
                question = {"role": "user", "content": [clip, {"type": "text", "text": row["question"]}]}
                conversations.append([question, {"role": "assistant", "content": row[column]}])
        batch = self.processor.apply_chat_template(
            conversations, tokenize=True, return_dict=True, processor_kwargs={"output_labels": True}
        )
        batch["completion_mask"] = (batch.pop("labels") != -100).long()
        return batch


class ClipDPOTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # TRL would tokenize the text and lose the clip: the collator prepares rows


def train(arguments: Arguments, settings: DPOConfig) -> DPOTrainer:
    kind = "csv" if arguments.data.endswith(".csv") else "json"
    dataset = load_dataset(kind, data_files=arguments.data, split="train")
    processor = AutoProcessor.from_pretrained(arguments.model, trust_remote_code=True)
    # float16, in which models may be saved, is slow on a CPU and too coarse for small steps
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForMultimodalLM.from_pretrained(arguments.model, dtype=dtype, trust_remote_code=True)
    if getattr(model, "peft_config", None):
        # TRL's PEFT would write over the adapter that came along: the new one goes on top, and this is its base
        model = model.merge_and_unload()
        for part in (model, processor):
            part.save_pretrained(Path(arguments.output, "base"))
    settings.remove_unused_columns = False
    trainer = ClipDPOTrainer(
        model,
        args=settings,
        data_collator=CollatePreferences(processor, Path(arguments.data).parent),
        train_dataset=dataset,
        processing_class=processor,
        peft_config=model.lora_config(),
    )
    trainer.train()
    trainer.save_model(arguments.output)
    return trainer


if __name__ == "__main__":
    train(*TrlParser((Arguments, Settings)).parse_args_and_config())
