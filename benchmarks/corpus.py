# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A corpus of short made clips through `salmonn transcribe`, which is killed in the middle and called again.

    python benchmarks/corpus.py FOLDER --rows 10000
    python benchmarks/corpus.py FOLDER --rows 10000 --engine ray --workers 2

FOLDER gets a tiny random model, the clips and the output. Prints how many rows there were at the kill, how many the second
call has answered, and whether each row is in the output once.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def make_corpus(folder: Path, rows: int) -> None:
    """A model and clips of 0.3 to 1 s, each of which is asked about by itself."""
    from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor

    config = tiny_config(segment_seconds=1, max_audio_seconds=1, fixed_length=False)
    model = tiny_model(config)
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(folder / "model")
    tiny_processor(config).save_pretrained(folder / "model")
    (folder / "clips").mkdir(exist_ok=True)
    lengths = np.random.default_rng(0).uniform(0.3, 1, rows)
    with open(folder / "corpus.jsonl", "w") as file:
        for number, seconds in enumerate(lengths):
            soundfile.write(folder / "clips" / f"{number}.flac", noise(seconds, number), 16000)
            file.write(json.dumps({"id": str(number), "audio": f"clips/{number}.flac"}) + "\n")


def count_lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("journal-*.jsonl"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument(
        "--kill-at", type=float, default=0.4, help="share of the rows after which to kill (default: 0.4)"
    )
    parser.add_argument("--engine", default="transformers", choices=("transformers", "ray"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.folder / "corpus.jsonl").is_file():
        make_corpus(options.folder, options.rows)
    output = options.folder / f"{options.engine}.jsonl"
    command = [sys.executable, "-m", "cli_salmonn", "transcribe", str(options.folder / "model")]
    command += [str(options.folder / "corpus.jsonl"), "--output", str(output), "--engine", options.engine]
    command += ["--batch-size", str(options.batch_size)]
    command += [] if options.workers is None else ["--workers", str(options.workers)]

    work = output.with_name(output.name + ".work")
    job = subprocess.Popen(command, cwd=ROOT)
    while job.poll() is None and count_lines(work) < options.kill_at * options.rows:
        time.sleep(0.1)
    if job.poll() is not None:
        print(f"the job ended with {job.returncode} before it could be killed", file=sys.stderr)
        return 1
    job.send_signal(signal.SIGKILL)
    job.wait()
    print(f"killed with {count_lines(work)} of {options.rows} rows in the journal, output there: {output.exists()}")
    subprocess.run(command, cwd=ROOT, check=True)

    ids = Counter(json.loads(line)["id"] for line in output.read_text(encoding="utf-8").splitlines())
    wanted = [json.loads(line)["id"] for line in (options.folder / "corpus.jsonl").read_text().splitlines()]
    lost, twice = len(set(wanted) - ids.keys()), sum(count > 1 for count in ids.values())
    print(f"rows in the output: {ids.total()}, lost: {lost}, twice: {twice}, in order: {list(ids) == wanted}")
    return int(bool(lost or twice or list(ids) != wanted))


if __name__ == "__main__":
    sys.exit(main())
