# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tunes a SALMONN on clips and answers in a CSV, with nothing but Trainer, PEFT and the processor:

    python examples/finetune_with_trainer.py MODEL data.csv OUT

`data.csv` has a row for each clip: `audio` (a path, from the folder of the CSV), `question` and `answer`. A MODEL that
has an adapter goes on with it, one that has none gets a new one. OUT becomes an ordinary PEFT adapter.
"""

import csv
import sys
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, Trainer, TrainingArguments


class CollateQuestions:
    """Rows of the CSV to model inputs. Labels are the answer and its end, and -100 elsewhere."""

    def __init__(self, processor, folder: Path):
        self.processor, self.folder = processor, folder

    def __call__(self, rows: list[dict]):
        conversations = []
        for row in rows:
            clip = {"type": "audio", "path": str(self.folder / row["audio"])}
            question = {"role": "user", "content": [clip, {"type": "text", "text": row["question"]}]}
            conversations.append([question, {"role": "assistant", "content": row["answer"]}])
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return self.processor.apply_chat_template(conversations, processor_kwargs={"output_labels": True}, **options)


def finetune(model_id: str, csv_file: str, output: str, **settings):
    with open(csv_file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    processor = AutoProcessor.from_pretrained(model_id, trust_remote_code=True)
    # without a dtype a float16 checkpoint stays so: 13 times slower on a CPU, and too coarse for small steps anywhere
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForMultimodalLM.from_pretrained(model_id, dtype=dtype, trust_remote_code=True)
    if getattr(model, "peft_config", None):
        model.train_adapter()  # the one that it came with: loaded frozen, now trained in float32
    else:
        model.add_adapter(model.lora_config())
    model.save_pretrained = partial(model.save_pretrained, adapter_only=True)  # in Trainer's checkpoints too
    defaults = {"learning_rate": 3e-5, "num_train_epochs": 3, "per_device_train_batch_size": 8, "logging_steps": 10}
    arguments = TrainingArguments(output, remove_unused_columns=False, **{**defaults, **settings})
    collator = CollateQuestions(processor, Path(csv_file).parent)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator)
    trainer.train()
    trainer.save_model(output)
    return trainer


if __name__ == "__main__":
    finetune(*sys.argv[1:])
