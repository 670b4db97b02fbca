# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Commands in this process: status 2, one line that names what is wrong, nothing written."""

import json
import shutil

import pytest
import soundfile
from refusals import refuses_command
from tiny_evaluation import write_manifest, write_task
from tiny_training import small_model, small_processor

from tiny_salmonn import noise


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model, clips, and files that are damaged in all the usual ways."""
    folder = tmp_path_factory.mktemp("base")
    small_model().save_pretrained(folder / "model")
    small_processor().save_pretrained(folder / "model")
    shutil.copytree(folder / "model", folder / "cut")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    write_manifest(folder / "data", task=["asr"] * 5)
    write_task(folder)
    soundfile.write(folder / "ok.wav", noise(0.5), 16000)
    soundfile.write(folder / "nothing.wav", noise(0.5)[:0], 16000)
    soundfile.write(folder / "rate1.wav", noise(0.5), 1)
    (folder / "half.wav").write_bytes((folder / "ok.wav").read_bytes()[:4000])
    (folder / "text.wav").write_text("no audio")
    row = {"id": "a", "audio": "ok.wav", "text": "a"}
    rows = {
        "dict.jsonl": [row | {"text": {"a": 1}}],
        "number.jsonl": [row | {"audio": 5}],
        "bool.jsonl": [row | {"text": True}],
        "missing.jsonl": [row | {"audio": "gone.wav"}],
        "cut.jsonl": [row | {"audio": "half.wav"}],
        "slow.jsonl": [row | {"audio": "rate1.wav"}],
        "pair.jsonl": [row | {"text": "\ud800"}],
        "task.jsonl": [row | {"task": "nonsense"}],
    }
    for name, content in rows.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in content))
    texts = {
        "deep.jsonl": "[" * 100_000,
        "broken.jsonl": "{",
        "empty.jsonl": "",
        "cells.csv": "id,audio,text\na,ok.wav,a,b\n",
        "no_cells.csv": "id,audio,text\n",
        "deep.json": "[" * 100_000,
        "list.json": "[1]",
        "broken.json": "{",
        "pattern.json": json.dumps(json.loads((folder / "tiny.json").read_text()) | {"prompt": "{0.__class__}"}),
        "braces.json": json.dumps(json.loads((folder / "tiny.json").read_text()) | {"prompt": "{"}),
        "twice.yaml": "max_steps: 1\nmax_steps: 2\n",
        "number.yaml": "extends: 5\n",
        "itself.yaml": "extends: itself.yaml\n",
        "list.yaml": "- 1\n",
        "broken.yaml": "a: [",
        "unknown.yaml": "max_stepps: 1\n",
        "latin.yaml": "stage: \xe9\n",
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode("latin-1"))
    (folder / "latin.jsonl").write_bytes(b'{"audio": "ok.wav", "text": "\xff"}\n')
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    for name, text in (("damaged", "{"), ("of_list", "[1]"), ("newer", '{"schema_version": 99}')):
        (folder / name).mkdir()
        (folder / name / "results.json").write_text(text)
        (folder / name / "run.json").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def here(base, monkeypatch):
    monkeypatch.chdir(base)


ASK = [
    (["model", "nothing.wav"], "nothing.wav"),
    (["model", "text.wav"], "text.wav"),
    (["model", "half.wav"], "half.wav"),
    (["model", "rate1.wav"], "rate1.wav"),
    (["model", "gone.wav"], "gone.wav"),
    (["model", "gone.wav", "What?"], "gone.wav"),
    (["model", "ok.wav", "ok.wav", " "], "question"),
    (["model", "ok.wav", "-q", ""], "question"),
    (["model", "full"], "full"),
    (["model", "http://"], "http://"),
    (["./gone", "ok.wav"], "gone"),
    (["ok.wav", "ok.wav"], "ok.wav"),
    (["full", "ok.wav"], "full"),
    (["cut", "ok.wav", "What?"], "cut"),
    (["model", "ok.wav", "--adapter", "gone"], "gone"),
    (["model", "ok.wav", "--device", "nonsense"], "nonsense"),
    (["model", "ok.wav", "--device", "cuda:99"], "cuda:99"),
    (["model", "ok.wav", "--dtype", "float99"], "float99"),
    (["model", "ok.wav", "--format", "docx"], "docx"),
    (["model", "ok.wav", "What?", "--format", "srt"], "--format"),
    (["model", "deep.jsonl"], "deep.jsonl"),
    (["model", "broken.jsonl"], "broken.jsonl"),
    (["model", "empty.jsonl"], "empty.jsonl"),
    (["model", "missing.jsonl"], "gone.wav"),
    (["model", "slow.jsonl"], "rate1.wav"),
    *[
        (["model", "ok.wav", "--num-beams", value], "--num-beams")
        for value in ("0", "-1", "1.5", "100000", "many", "")
    ],
    *[
        (["model", "ok.wav", "--max-new-tokens", value], "--max-new-tokens")
        for value in ("0", "-1", "many", "9" * 5000)
    ],
    *[(["model", "ok.wav", "--lora-scale", value], "--lora-scale") for value in ("-1", "nan", "inf", "many")],
]
EVALUATE = [
    *[
        (["model", "--tasks", "tiny.json", "--data", f"tiny={name}", "--output", "out"], name)
        for name in (
            "dict.jsonl",
            "number.jsonl",
            "missing.jsonl",
            "cut.jsonl",
            "slow.jsonl",
            "deep.jsonl",
            "broken.jsonl",
            "empty.jsonl",
            "cells.csv",
            "no_cells.csv",
            "latin.jsonl",
            "gone.jsonl",
            "ok.wav",
            "full",
        )
    ],
    *[
        (["model", "--tasks", name, "--data", "tiny=data", "--output", "out"], name)
        for name in ("deep.json", "list.json", "broken.json", "gone.json", "nonsense", "../escape")
    ],
    (["model", "--tasks", "pattern.json", "--data", "tiny=data", "--output", "out"], "prompt"),
    (["model", "--tasks", "braces.json", "--data", "tiny=data", "--output", "out"], "prompt"),
    (["model", "--tasks", "tiny.json", "--output", "out"], "data"),
    (["model", "--tasks", "tiny.json", "--data", "tiny", "--output", "out"], "--data"),
    (["./gone", "--tasks", "tiny.json", "--data", "tiny=data", "--output", "out"], "gone"),
    (["model", "--tasks", "tiny.json", "--data", "tiny=data", "--output", "ok.wav"], "ok.wav"),
    (["model", "--tasks", "tiny.json", "--data", "tiny=data", "--output", "full"], "full"),
    (["model", "--tasks", "tiny.json", "--data", "tiny=data", "--output", "damaged"], "run.json"),
    (["model", "--tasks", "tiny.json", "--data", "tiny=data", "--output", "of_list"], "run.json"),
    (["model", "--tasks", "tiny.json", "--data", "tiny=data", "--output", "out", "--device", "nonsense"], "nonsense"),
    *[
        (["model", "--tasks", "tiny.json", "--data", "tiny=data", "--output", "out", f"--{name}", value], f"--{name}")
        for name, values in (
            ("limit", ("0", "-1", "many")),
            ("batch-size", ("0", "-1", "1.5")),
            ("bootstrap-samples", ("-1", "many")),
            ("seed", ("-1", "1.5", str(2**40))),
            ("generation", ("num_beams", "=1")),
        )
        for value in values
    ],
]
TRAIN = [
    *[([name, "--model", "model", "--train", "data", "--output_dir", "out"], word) for name, word in (
        ("twice.yaml", "max_steps"), ("number.yaml", "extends"), ("itself.yaml", "itself.yaml"), ("list.yaml", "list.yaml"),
        ("broken.yaml", "broken.yaml"), ("unknown.yaml", "max_stepps"), ("latin.yaml", "latin.yaml"), ("gone.yaml", "recipe"),
    )],
    *[
        (["pretrain", "--model", "model", "--train", name, "--output_dir", "out"], name)
        for name in ("dict.jsonl", "missing.jsonl", "pair.jsonl", "task.jsonl", "deep.jsonl", "gone.jsonl", "slow.jsonl")
    ],
    *[
        (["pretrain", "--model", "model", "--train", "data", "--output_dir", "out", f"--{name}", value], name)
        for name, value in (
            ("lora_r", "-1"), ("lora_r", "0"), ("lora_r", "many"), ("lora_alpha", "nan"), ("lora_alpha", "-5"),
            ("lora_dropout", "2"), ("lora_dropout", "nan"), ("lora_target_modules", "nonsense"), ("learning_rate", "nan"),
            ("learning_rate", "-1"), ("learning_rate", "many"), ("max_steps", "many"), ("feature_cache", "ok.wav"),
            ("objective", "nonsense"), ("trained", "nonsense"), ("nonsense", "1"),
        )
    ],
    (["pretrain", "--model", "model", "--train", "data", "--output_dir", "ok.wav"], "output_dir"),
    (["pretrain", "--model", "model", "--train", "{source: data, caps: {'*': 0}}", "--output_dir", "out"], "caps"),
    (["pretrain", "--model", "model", "--train", "{weight: 1}", "--output_dir", "out"], "source"),
    (["pretrain", "--model", "./gone", "--train", "data", "--output_dir", "out"], "gone"),
    (["pretrain", "--train", "data", "--output_dir", "out"], "model"),
    (["pretrain", "--model", "model", "--output_dir", "out"], "train"),
]  # fmt: skip
OTHERS = [
    *[(["average", "model", "model", "out", "--weight", value], "--weight") for value in ("-1", "2", "nan", "half")],
    (["average", "model", "model", "out"], "first"),
    (["average", "gone", "gone", "out"], "first"),
    (["average", "model", "model", "ok.wav"], "output"),
    (["average", "model", "model", "full"], "output"),
    (["merge", "model", "out"], "adapter"),
    (["merge", "model", "ok.wav"], "output"),
    (["merge", "model", "full"], "output"),
    (["merge", "./gone", "out"], "gone"),
    (["merge", "model", "out", "--dtype", "float99"], "--dtype"),
    (["report", "damaged"], "results.json"),
    (["report", "of_list"], "results.json"),
    (["report", "newer"], "schema_version"),
    (["report", "full"], "run"),
    (["report", "gone"], "run"),
    (["info", "gone"], "gone"),
    (["info", "ok.wav"], "ok.wav"),
    (["info", "full"], "full"),
    *[
        (["nano", "make", "sounds", "out", "--split", "train", "--count", value], "--count")
        for value in ("0", "-1", "1.5", "many")
    ],
    *[(["nano", "make", "speech", "out", "--split", "train", "--count", "1", "--seed", value], "--seed") for value in ("-1", "x")],
    (["nano", "make", "music", "out", "--split", "train", "--count", "1", "--workers", "0"], "--workers"),
    *[
        (["assemble", "--whisper", "gone", "--llm", "gone", "out", f"--{name}", value], f"--{name}")
        for name, value in (
            ("num-query-tokens", "0"), ("num-query-tokens", "many"), ("stride-seconds", "nan"), ("stride-seconds", "-1"),
            ("qformer-layers", "0"), ("qformer-layers", "x"), ("seed", str(2**70)), ("seed", "-1"), ("segment-seconds", "0"),
        )
    ],
    *[
        (["convert", "salmonn", "gone.pth", "out", f"--{name}", value], f"--{name}")
        for name, value in (("lora-alpha", "nan"), ("lora-alpha", "-5"), ("lora-dropout", "2"), ("qformer-heads", "0"))
    ],
    *[(["tags", "ok.wav", "--model", "model", f"--{name}", value], f"--{name}") for name, value in (
        ("window", "0"), ("window", "nan"), ("hop", "-1"), ("top", "0"), ("threshold", "2"), ("threshold", "nan"),
        ("batch-size", "0"),
    )],
    (["tags", "gone.wav", "--model", "model"], "gone.wav"),
    (["tags", "half.wav", "--model", "model"], "half.wav"),
    *[(["demo", "--port", value], "--port") for value in ("0", "-1", "70000", "many")],
    (["nonsense"], "nonsense"),
    ([], "COMMAND"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "argument"), ASK, ids=lambda value: str(value)[:60])
def test_ask(base, capsys, words, argument):
    refuses_command(capsys, ["ask", *words], argument, base)


@pytest.mark.parametrize(("words", "argument"), EVALUATE, ids=lambda value: str(value)[:90])
def test_evaluate(base, capsys, words, argument):
    refuses_command(capsys, ["evaluate", *words], argument, base)


@pytest.mark.parametrize(("words", "argument"), TRAIN, ids=lambda value: str(value)[:90])
def test_train(base, capsys, words, argument):
    refuses_command(capsys, ["train", *words], argument, base)


@pytest.mark.parametrize(("words", "argument"), OTHERS, ids=lambda value: str(value)[:90])
def test_others(base, capsys, words, argument):
    refuses_command(capsys, words, argument, base)
