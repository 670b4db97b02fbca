# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The same clips through vLLM and through batches of `generate`: whether the tokens are the same, requests a second, memory.

    python benchmarks/engines.py ./merged CLIP.wav ... --max-new-tokens 40

Each engine runs in a process of its own, one after the other. Loading is not counted; memory is that of a process and of
those that it has started, at its peak.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
QUESTION = "Transcribe the speech."
ENGINES = ("generate", "vllm")


class MemoryMeter(threading.Thread):
    """Watches the resident memory of this process and of all below it: Linux's proportional sizes, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0

    def run(self):
        while True:
            self.peak = max(self.peak, self._size())
            time.sleep(0.5)

    def _size(self) -> int:
        total, parents = 0, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
        family, more = {os.getpid()}, True
        while more:
            more = {pid for pid, parent in parents.items() if parent in family} - family
            family |= more
        for pid in family:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total


def read_prompts(options, processor) -> list[tuple[str, object]]:
    import soundfile

    prompts = []
    for path in options.clips:
        samples, rate = soundfile.read(path, dtype="float32")
        if rate != 16000:
            raise ValueError(f"clips must be of 16 kHz, got {rate} in {path}")
        content = [{"type": "audio", "audio": samples}, {"type": "text", "text": options.question}]
        messages = [{"role": "user", "content": content}]
        prompts.append((processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False), samples))
    return prompts


def measure(options) -> dict:
    """Answers all clips with one engine: ids, seconds, bytes."""
    meter = MemoryMeter()
    meter.start()
    from transformers import AutoProcessor

    import salmonn_transformers  # noqa: F401

    processor = AutoProcessor.from_pretrained(options.model)
    prompts = read_prompts(options, processor)
    answer = _load_vllm(options) if options.engine == "vllm" else _load_generate(options, processor)
    answer(prompts[:2])  # warms up
    start = time.perf_counter()
    ids = answer(prompts)
    return {"ids": ids, "seconds": time.perf_counter() - start, "bytes": meter.peak}


def _load_generate(options, processor):
    import torch
    from transformers import AutoModelForMultimodalLM

    model = AutoModelForMultimodalLM.from_pretrained(options.model, dtype=options.dtype).eval()

    def answer(prompts):
        found = []
        for first in range(0, len(prompts), options.batch_size):
            texts, clips = zip(*prompts[first : first + options.batch_size])
            inputs = processor(text=list(texts), audio=list(clips))
            with torch.no_grad():
                output = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=options.max_new_tokens)
            for row in output[:, inputs["input_ids"].shape[1] :].tolist():
                ends = [place for place, token in enumerate(row) if token == model.generation_config.eos_token_id]
                found.append(row[: ends[0] + 1] if ends else row)
        return found

    return answer


def _load_vllm(options):
    import vllm

    engine = vllm.LLM(options.model, dtype=options.dtype, max_model_len=2048, enforce_eager=True, max_num_seqs=32)
    sampling = vllm.SamplingParams(temperature=0, max_tokens=options.max_new_tokens)

    def answer(prompts):
        inputs = [{"prompt": text, "multi_modal_data": {"audio": [clip]}} for text, clip in prompts]
        return [list(row.outputs[0].token_ids) for row in engine.generate(inputs, sampling, use_tqdm=False)]

    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8, help="of generate")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)  # of the process that measures it
    options = parser.parse_args()
    if options.engine is not None:
        print("RESULT " + json.dumps(measure(options)))
        return 0
    results = {}
    for engine in ENGINES:
        command = [sys.executable, __file__, *sys.argv[1:], "--engine", engine]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        line = next(line for line in run.stdout.splitlines() if line.startswith("RESULT "))
        results[engine] = json.loads(line.removeprefix("RESULT "))
        found = results[engine]
        rate = len(options.clips) / found["seconds"]
        print(
            f"{engine:10} {rate:6.2f} requests a second   {found['seconds']:7.1f} s   {found['bytes'] / 2**30:.2f} GiB"
        )
    same = sum(a == b for a, b in zip(results["generate"]["ids"], results["vllm"]["ids"]))
    print(f"the same tokens: {same} of {len(options.clips)}")
    return int(same != len(options.clips))


if __name__ == "__main__":
    sys.exit(main())
