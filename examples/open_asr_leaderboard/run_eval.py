# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
WER and RTFx of a SALMONN on one set of the Open ASR leaderboard, with that board's options and manifests:

    python examples/open_asr_leaderboard/run_eval.py --model_id=./salmonn-13b --dataset=librispeech --split=test.clean \\
        --device=0 --batch_size=32

`--dataset_path` may also be clips of one's own: a manifest, or a folder with one, see docs/data.md. Texts in what is written
are as they are, since the board normalises when it scores.
"""

import argparse
import json
import time
from pathlib import Path
from uuid import uuid4

import torch
from datasets import Audio, Dataset, load_dataset
from tqdm import tqdm
from transformers import AutoModelForMultimodalLM, AutoProcessor

from data_salmonn.audio import SAMPLING_RATE, read_audio
from data_salmonn.datasets import rows_to_dataset
from data_salmonn.error_rates import word_error_rate
from data_salmonn.manifests import read_manifest
from data_salmonn.normalizers import get_normalizer


NORMALIZER = "english"  # Whisper's, as the board has it
TEXT_COLUMNS = ("text", "sentence", "normalized_text", "transcript", "transcription")
NOT_SCORED = "ignore time segment in scoring"  # what TED-LIUM has in the place of a text
RESULTS = ("audio_filepath", "duration", "time", "text", "pred_text")


def load_data(path: str, name: str | None, split: str, max_samples: int | None = None) -> Dataset:
    """
    The rows to transcribe, with their texts in `text`. Those without a word are left out, as the board leaves them.

    Raises `ValueError` if there is no column of texts or of audio, or no row.
    """
    if Path(path).exists():
        dataset = rows_to_dataset(read_manifest(path, task="asr"))
    else:
        dataset = load_dataset(path, name, split=split)
    column = next((column for column in TEXT_COLUMNS if column in dataset.column_names), None)
    if column is None or "audio" not in dataset.column_names:
        raise ValueError(
            f"`dataset` must have the column audio and one of {', '.join(TEXT_COLUMNS)}, got {dataset.column_names}."
        )
    if max_samples is not None and max_samples > 0:
        dataset = dataset.select(range(min(max_samples, len(dataset))))
    if column != "text":
        dataset = dataset.rename_column(column, "text")
    normalize = get_normalizer(NORMALIZER)
    # files are read where they are transcribed, whatever decoder `datasets` would ask for
    dataset = dataset.cast_column("audio", Audio(decode=False))
    dataset = dataset.filter(lambda text: normalize(text or "") not in ("", NOT_SCORED), input_columns="text")
    if not len(dataset):
        raise ValueError(f"`dataset` {path} has no row with a text to compare with.")
    return dataset


class Transcriber:
    """For `Dataset.map`: a batch of rows becomes one of results. What is timed goes from samples to text."""

    def __init__(self, model, processor, **generation):
        self.model, self.processor, self.generation = model, processor, generation

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        clips = [read_audio(audio) for audio in batch["audio"]]
        begin = self._now()
        inputs = self.processor(audio=clips, return_tensors="pt").to(self.model.device)
        # clips longer than the model was trained on are transcribed piece by piece
        predictions = self.processor.batch_decode(
            self.model.generate(**inputs, **self.generation), skip_special_tokens=True
        )
        seconds = self._now() - begin
        ids = batch.get("id") or [None] * len(clips)
        names = [audio.get("path") or name or "" for audio, name in zip(batch["audio"], ids)]
        return {
            "audio_filepath": [Path(str(name)).name for name in names],
            "duration": [len(clip) / SAMPLING_RATE for clip in clips],
            "time": [seconds / len(clips)] * len(clips),
            "text": batch["text"],
            "pred_text": [prediction.strip() for prediction in predictions],
        }

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # kernels are still running
        return time.perf_counter()


def write_manifest(rows: list[dict], folder: Path, model_id: str, dataset_path: str, dataset: str, split: str) -> Path:
    """Rows of `RESULTS` as the JSON lines that the board scores, in a file of the name that it reads."""
    model, path, name = (part.strip("./").replace("/", "-") for part in (model_id, dataset_path, dataset))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"MODEL_{model}_DATASET_{path}_{name}_{split}.jsonl"
    lines = [json.dumps({key: row[key] for key in RESULTS}, ensure_ascii=False) for row in rows]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def score(rows: list[dict]) -> tuple[float, float]:
    """WER in percent after normalisation, over all rows together, and seconds of audio for each second of work."""
    references, predictions = ([row[key] for row in rows] for key in ("text", "pred_text"))
    wer = 100 * word_error_rate(references, predictions, NORMALIZER)
    return wer, sum(row["duration"] for row in rows) / sum(row["time"] for row in rows)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    options = parse(arguments)
    device = torch.device("cpu" if options.device < 0 else f"cuda:{options.device}")
    dataset = load_data(options.dataset_path, options.dataset, options.split, options.max_eval_samples)
    model = AutoModelForMultimodalLM.from_pretrained(
        options.model_id, dtype=options.dtype, revision=options.revision, trust_remote_code=True
    )
    processor = AutoProcessor.from_pretrained(options.model_id, revision=options.revision, trust_remote_code=True)
    generation = {} if options.max_new_tokens is None else {"max_new_tokens": options.max_new_tokens}
    transcribe = Transcriber(model.eval().to(device), processor, num_beams=options.num_beams, **generation)

    warmup = dataset.select(range(min(options.warmup_steps * options.batch_size, len(dataset))))
    for batch in tqdm(warmup.iter(options.batch_size), desc="Warming up", disable=None):
        transcribe(batch)
    results = dataset.map(
        transcribe,
        batched=True,
        batch_size=options.batch_size,
        remove_columns=dataset.column_names,
        new_fingerprint=uuid4().hex,  # never from a cache: times are those of this run
        desc="Transcribing",
    )
    rows = results.to_list()
    file = write_manifest(
        rows, Path(options.output), options.model_id, options.dataset_path, options.dataset or "default", options.split
    )
    wer, rtfx = score(rows)
    print(f"Results saved at path: {file.resolve()}")
    print(f"WER: {wer:.2f} %  RTFx: {rtfx:.2f}")
    return wer, rtfx


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_id", required=True, help="folder or Hub id of a SALMONN")
    parser.add_argument("--dataset_path", default="hf-audio/open-asr-leaderboard", help="Hub id, manifest or folder")
    parser.add_argument("--dataset", help="configuration of a data set on the Hub, such as librispeech")
    parser.add_argument("--split", default="test", help="such as test.clean (default: test)")
    parser.add_argument("--device", type=int, default=-1, help="number of the GPU (default: -1, the CPU)")
    parser.add_argument("--batch_size", type=int, default=16, help="clips at a time (default: 16)")
    parser.add_argument("--max_eval_samples", type=int, help="the first N rows; -1 for all, which is the default")
    parser.add_argument("--max_new_tokens", type=int, help="longest transcript (default: the model's own)")
    parser.add_argument("--num_beams", type=int, default=1, help="the papers search with 4 (default: 1)")
    parser.add_argument("--warmup_steps", type=int, default=2, help="batches that are not timed (default: 2)")
    parser.add_argument(
        "--dtype", default="auto", help="of the weights: bfloat16, float16, float32 (default: their own)"
    )
    parser.add_argument("--revision", help="of the model on the Hub")
    parser.add_argument("--output", default="results", help="folder of manifests (default: results)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
