# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What is killed. Each job takes a folder to write into, and goes on with what it finds there."""

import time
from pathlib import Path

import numpy as np
import torch
from tiny_evaluation import HearingModel
from tiny_training import load_shrunk

from cli_salmonn.main import main
from conversion_salmonn.assemble import assemble
from conversion_salmonn.convert_salmonn import convert_salmonn
from conversion_salmonn.merge import merge
from evaluation_salmonn.runner import evaluate
from nano_salmonn.data_makers import clips, debian, speech
from nano_salmonn.data_makers.texts import Sentence
from serving_salmonn import engines
from serving_salmonn.corpus import answer_corpus
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor, with_adapter
from training_salmonn import callbacks, feature_cache
from training_salmonn.run import run_recipe


FIXTURES = Path(__file__).parents[1] / "fixtures"
WHISPER = FIXTURES / "salmonn" / "whisper"
LLM = FIXTURES / "salmonn" / "llama"
BEATS = FIXTURES / "beats" / "BEATs_tiny.pt"
CKPT = FIXTURES / "salmonn" / "salmonn_tiny.pth"
QFORMER = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
CLIPS = [noise(0.5 + 0.1 * number, number) for number in range(16)]


def convert(folder: Path) -> None:
    output = folder / "model"
    if not output.exists():
        convert_salmonn(ckpt=CKPT, whisper=WHISPER, llm=LLM, beats=BEATS, qformer_heads=4, output=output)


def put_together(folder: Path) -> None:
    output = folder / "model"
    if not output.exists():
        assemble(output=output, whisper=WHISPER, llm=LLM, beats=BEATS, qformer=QFORMER, seed=3)


def merge_adapter(folder: Path) -> None:
    output = folder / "model"
    if not output.exists():
        merge(folder.parent / "base", output, adapter=folder.parent / "adapter")


def open_cache(folder: Path) -> feature_cache.FeatureCache:
    config = tiny_config()
    return feature_cache.FeatureCache(
        folder / "cache", with_adapter(tiny_model(config)), tiny_processor(config).feature_extractor
    )


def build_cache(folder: Path) -> None:
    feature_cache.PART_BYTES = 2**16  # of a clip or two
    torch.set_num_threads(1)
    open_cache(folder).build(CLIPS)


def count_file(folder: Path) -> Path:
    """Has a character for each row that a job in `folder` was about to answer."""
    return folder.with_name(f"{folder.name}-answered")


def note(folder: Path, count: int) -> None:
    with open(count_file(folder), "a", encoding="utf-8") as file:
        file.write("x" * count)


class SlowModel(HearingModel):
    """Takes its time, in which it can be killed."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def answer(self, clips, prompts, task, **generation):
        time.sleep(0.03)
        note(self.folder, len(clips))
        return super().answer(clips, prompts, task, **generation)


def evaluate_tiny(folder: Path) -> None:
    data = folder.parent / "data"
    folder.mkdir(exist_ok=True)
    options = {"data": {"tiny": data / "manifest.jsonl"}, "bootstrap_samples": 20, "batch_size": 2}
    evaluate(SlowModel(folder), [data / "tiny.json"], folder / "run", name="SlowModel", **options)


def transcribe(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    answer_batch = engines.answer_batch

    def count(answerer, batch):
        note(folder, len(batch))
        return answer_batch(answerer, batch)

    engines.answer_batch = count
    inputs = folder.parent
    answer_corpus(inputs / "model", inputs / "clips" / "corpus.jsonl", folder / "out.jsonl", batch_size=2)


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    callbacks.plot_curves = lambda *arguments, **options: False
    inputs = folder.parent
    recipe = load_shrunk(
        "pretrain",
        model=inputs / "base",
        train=[str(inputs / "clips" / "asr.jsonl")],
        output_dir=folder / "run",
        disable_tqdm=True,
        per_device_train_batch_size=4,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=6,
        lora_dropout=0.1,
    )
    if not (folder / "run" / "adapter").exists():
        run_recipe(recipe, resume=True)


MADE_CLIPS, SHARD_CLIPS = 12, 3


def render_slowly(row: dict) -> np.ndarray:
    """A tone that belongs to the row. Takes its time, in which it can be killed."""
    time.sleep(0.03)
    samples = np.sin(np.arange(1600) * clips.row_rng(row).uniform(0.1, 0.5))
    return (0.5 * samples).astype(np.float32)


def make_speech(folder: Path) -> None:
    """`salmonn nano make speech` of sentences and a voice that need no packages."""

    def render(row: dict) -> np.ndarray:
        note(folder, 1)
        return render_slowly(row)

    clips.SHARD_CLIPS = SHARD_CLIPS
    speech.read_sentences = lambda: [Sentence(f"word {n} and word") for n in range(3000)]
    speech.FACTS_SHARE = 0
    speech.pronounce = lambda word: "w er d"
    speech.render_speech = render
    debian.fetch_package = lambda package: folder.parent
    debian.package_version = lambda package: {"version": "1.0", "sha256": "0" * 64}
    command = ["nano", "make", "speech", folder / "clips", "--split", "test", "--count", MADE_CLIPS, "--workers", 1]
    folder.mkdir(exist_ok=True)
    if main([str(word) for word in command]) != 0:
        raise RuntimeError("the command failed")


def make_instructions(folder: Path) -> None:
    """`salmonn nano make instructions` and `benchmark` of clips that are made."""
    folder.mkdir(exist_ok=True)
    source = folder.parent / "made" / "clips"
    instructions = ["instructions", folder / "rows.jsonl", source, "--stage", "pretrain"]
    for words in (instructions, ["benchmark", folder / "benchmark", "--speech", source]):
        if main(["nano", "make", *map(str, words)]) != 0:
            raise RuntimeError("the command failed")
