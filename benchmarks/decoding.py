# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What ways of decoding cost in transcription and what they bring: greedy, with drafts from the prompt, and with four beams;
and greedy by copies of the model in other numbers (those of 8 bits need torchao).

    salmonn nano make speech data/speech/test --split test --count 100
    python benchmarks/decoding.py data/speech/test/clips.jsonl --limit 100

Each model encodes a clip once, and transcribes it in all ways in turns. CPU seconds are those of `generate` from audio embeddings.
"""

import time
from pathlib import Path

import torch
from encoders import in_other_numbers
from side_by_side import Benchmark, Row
from tqdm.auto import tqdm

from cli_salmonn.inference import decode, load, prepare
from data_salmonn.audio import read_audio
from data_salmonn.manifests import read_manifest
from demo_salmonn.demo import find_nano
from evaluation_salmonn.metrics import load_metric


WAYS = {
    "greedy": {},
    "drafts from the prompt": {"prompt_lookup_num_tokens": 3},
    "four beams": {"num_beams": 4},
}


@torch.no_grad()
def main() -> None:
    benchmark = Benchmark(__doc__)
    benchmark.parser.add_argument("manifest", type=Path, help="clips with their texts")
    benchmark.parser.add_argument("--model", type=Path, help="folder of a model (default: salmonn-nano)")
    benchmark.parser.add_argument("--limit", type=int, default=100, help="clips (default: 100)")
    benchmark.parser.add_argument("--max-new-tokens", type=int, default=80)
    options = benchmark.parse_args()
    model, processor = load(options.model or find_nano())
    clips = read_manifest(options.manifest, task="asr")[: options.limit]
    ways = {name: (model, way) for name, way in WAYS.items()}
    ways |= {f"greedy, {name}": (other, {}) for name, other in in_other_numbers(model).items()}
    hearings = {hearing for hearing, _ in ways.values()}
    rows = {name: Row("transcription", name) for name in ways}
    texts = {name: [] for name in ways}
    for clip in tqdm(clips, unit="clip"):
        inputs = prepare(processor, read_audio(list(clip.paths)), "Transcribe the speech.").to(model.device)
        features = {name: inputs.pop(name) for name in processor.feature_extractor.model_input_names}
        embeds = {hearing: hearing.get_audio_features(**features).pooler_output for hearing in hearings}
        for name, (hearing, way) in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            output = hearing.generate(
                **inputs, audio_embeds=embeds[hearing], do_sample=False, max_new_tokens=options.max_new_tokens, **way
            )
            rows[name].cpu_seconds.append(time.process_time() - cpu_start)
            rows[name].seconds.append(time.perf_counter() - start)
            texts[name].append(decode(processor, inputs, output))
    references, first = [clip.text for clip in clips], next(iter(ways))
    print(f"\n{len(clips)} clips\n{'':<28}{'CPU s a clip':>14}{'ratio':>8}{'WER':>8}{'other texts':>13}")
    for name, row in rows.items():
        total, base = sum(row.cpu_seconds), sum(rows[first].cpu_seconds)
        wer = load_metric("wer").compute(predictions=texts[name], references=references)["wer"]
        other = sum(mine != theirs for mine, theirs in zip(texts[name], texts[first]))
        print(f"  {name:<26}{total / len(clips):>14.2f}{total / base:>8.2f}{wer:>8.1f}{other:>13}")
    benchmark.rows += rows.values()
    benchmark.save(options.output, "decoding")


if __name__ == "__main__":
    main()
