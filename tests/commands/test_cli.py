# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The `salmonn` command."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import AutoModelForMultimodalLM

from cli_salmonn.main import build_parser, main
from conversion_salmonn import assemble
from conversion_salmonn.loading import choose_device
from nano_salmonn import assemble as nano_assemble
from tiny_salmonn import tiny_config, tiny_model, tiny_processor, with_adapter
from training_salmonn.run import keep_traceback
from training_salmonn.trainer import NonFiniteError


ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parents[1] / "fixtures"
CONVERT = [
    *("convert", "salmonn", "--ckpt", str(FIXTURES / "salmonn" / "salmonn_tiny.pth")),
    *("--whisper", str(FIXTURES / "salmonn" / "whisper"), "--llm", str(FIXTURES / "salmonn" / "llama")),
    *("--beats", str(FIXTURES / "beats" / "BEATs_tiny.pt")),
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    output = tmp_path_factory.mktemp("cli") / "model"
    assert main([*CONVERT, "--qformer-heads", "4", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "clip.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, (22050, 2)), 22050)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base model, an adapter of it with a processor, as training leaves it, and one with the adapter beside it."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config()
    tiny_model(config).save_pretrained(folder / "base")
    processor = tiny_processor(config)
    processor.save_pretrained(folder / "base")
    model = with_adapter(AutoModelForMultimodalLM.from_pretrained(folder / "base"))
    model.save_pretrained(folder / "adapter", adapter_only=True)
    model.save_pretrained(folder / "both")
    for name in ("adapter", "both"):
        processor.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["ask"],
        ["info"],
        ["tags"],
        ["embed"],
        ["check-conversion"],
        ["convert"],
        ["convert", "beats"],
        ["convert", "salmonn"],
        ["assemble"],
        ["merge"],
        ["train"],
        ["activate"],
        ["nano", "train-beats"],
    ],
)
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "usage: salmonn" in text
    assert command in ([], ["convert"]) or "example" in text


def test_help_needs_no_torch():
    code = "import sys; from cli_salmonn.main import build_parser; build_parser(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def _walk(parser: argparse.ArgumentParser):
    """Every parser below and including `parser`."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _walk(child)


EXAMPLES = [
    line.strip()
    for parser in _walk(build_parser())
    for line in (parser.epilog or "").replace("\\\n", " ").splitlines()
    if line.startswith(("  salmonn ", "  torchrun ", "  accelerate "))
]


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_in_help_are_commands(line):
    words = shlex.split(line)
    start = words.index("salmonn") if words[0] == "salmonn" else words.index("cli_salmonn")
    end = words.index(">") if ">" in words else len(words)  # the rest is the shell's
    build_parser().parse_args(words[start + 1 : end])


@pytest.mark.parametrize(
    ("kind", "maker", "options", "expected"),
    [
        (
            "speech",
            "speech.make_speech",
            ["--shuffle-words"],
            {"shuffle_words": True, "voices": "all", "backgrounds": True},
        ),
        ("sounds", "sounds.make_sounds", ["--arrangement", "sequence"], {"arrangement": "sequence"}),
        ("music", "music.make_music", [], {}),
    ],
)
def test_options_of_make_reach_the_makers(monkeypatch, tmp_path, capsys, kind, maker, options, expected):
    calls = []
    monkeypatch.setattr(f"nano_salmonn.data_makers.{maker}", lambda *args, **named: calls.append((args, named)))
    monkeypatch.setattr("nano_salmonn.data_makers.debian.write_credits", lambda *args: None)

    command = [
        "nano",
        "make",
        kind,
        str(tmp_path),
        "--split",
        "train",
        "--count",
        "3",
        "--seed",
        "7",
        "--workers",
        "1",
    ]
    assert main([*command, *options]) == 0
    assert calls == [((str(tmp_path), "train", 3), {"seed": 7, "workers": 1, **expected})]
    assert "wrote" in capsys.readouterr().out


def test_convert_salmonn(converted, capsys):
    assert (converted / "model.safetensors").is_file() and (converted / "adapter_model.safetensors").is_file()


def test_convert_beats(tmp_path, capsys):
    command = ["convert", "beats", str(FIXTURES / "beats" / "BEATs_tiny.pt"), str(tmp_path / "beats")]
    assert main(command) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'beats'}\n"
    assert main(command) == 2  # it is there now
    assert main([*command, "--overwrite"]) == 0


def test_assemble(tmp_path):
    parts = ["--whisper", str(FIXTURES / "salmonn" / "whisper"), "--llm", str(FIXTURES / "salmonn" / "llama")]
    windows = ["--window-seconds", "none", "--num-query-tokens", "3", "--qformer-hidden-size", "32"]
    output = tmp_path / "model"
    assert main(["assemble", *parts, *windows, "--qformer-heads", "4", str(output)]) == 0
    assert '"window_seconds": null' in (output / "config.json").read_text()


def test_assemble_gives_only_what_was_said(monkeypatch):
    calls = []
    monkeypatch.setattr(assemble, "assemble", lambda **settings: calls.append(settings) or "there")
    monkeypatch.setattr(nano_assemble, "assemble_nano", lambda **settings: calls.append(settings) or "there")
    common = {"output": "out", "dtype": None, "overwrite": False}
    for command, expected in (
        ("--whisper w --llm l", {"whisper": "w", "llm": "l", "beats": None}),
        (
            "--whisper w --llm l --adapter a --real-length --window-seconds none --qformer-layers 3 --seed 2",
            {
                **{"whisper": "w", "llm": "l", "beats": None, "adapter": "a", "fixed_length": False, "seed": 2},
                **{"window_seconds": None, "qformer": {"num_hidden_layers": 3}},
            },
        ),
        ("--nano", {"checkpoint": nano_assemble.NANO_CHECKPOINT}),
        ("--nano --checkpoint c", {"checkpoint": "c"}),
        ("--nano --checkpoint none --beats b", {"checkpoint": None, "beats": "b"}),
    ):
        assert main(["assemble", *command.split(), "out"]) == 0
        assert calls.pop() == {**common, **expected}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--nano --llm l --real-length", "cannot be combined with fixed_length, llm"),
        ("--nano --checkpoint absent", "`checkpoint` absent is no checkpoint of salmonn-nano"),
        ("--whisper w --llm l --checkpoint c", "--checkpoint is for --nano"),
        ("--whisper w", "--llm and --whisper or --beats are needed"),
    ],
)
def test_assemble_refuses(tmp_path, capsys, command, message):
    assert main(["assemble", *command.split(), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ask(converted, clip, capsys):
    command = ["ask", str(converted), str(clip)]
    limits = ["--max-new-tokens", "3", "--num-beams", "1"]
    assert main([*command, "What?", *limits, "--lora-scale", "0.5"]) == 0
    assert main([*command, *limits]) == 0
    assert capsys.readouterr().out.count("\n") >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--qformer-heads", "5"], "`qformer_heads` must divide"),
        (["--ckpt", "absent.pth"], "absent.pth does not exist"),
        (["--whisper", "./absent"], "`whisper` must be a folder"),
    ],
)
def test_user_errors_are_one_line(tmp_path, capsys, change, message):
    assert main([*CONVERT, *change, str(tmp_path / "model")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("salmonn: error: ") and message in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_verbose_shows_where(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        main([*CONVERT, "--ckpt", "absent.pth", "--verbose", str(tmp_path / "model")])


def test_ask_refuses_what_is_no_audio(converted, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no sound")
    assert main(["ask", str(converted), str(tmp_path / "notes.txt")]) == 2
    assert "no audio file that can be read" in capsys.readouterr().err
    assert main(["ask", str(converted), str(tmp_path / "absent.wav")]) == 2
    assert "does not exist" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# What was trained


def ask(capsys, *words) -> str:
    assert main(["ask", *map(str, words), "--max-new-tokens", "8", "--num-beams", "1"]) == 0
    return capsys.readouterr().out


def test_an_adapter_is_asked_in_each_of_its_forms(trained, clip, tmp_path, capsys):
    answer = ask(capsys, trained / "base", clip, "What?", "--adapter", trained / "adapter")

    assert answer != ask(capsys, trained / "base", clip, "What?")
    assert answer == ask(capsys, trained / "adapter", clip, "What?")
    assert answer == ask(capsys, trained / "both", clip, "What?")
    leave_out = shutil.ignore_patterns("processor_config.json", "tokenizer*")
    bare = shutil.copytree(trained / "adapter", tmp_path / "bare", ignore=leave_out)
    assert answer == ask(capsys, bare, clip, "What?")  # with the processor of its base


def test_adapters_that_cannot_be_used_are_one_line(trained, clip, tmp_path, capsys):
    for model, adapter, message in (
        (trained / "both", trained / "adapter", "must not be given for a model that has one"),
        (trained / "adapter", trained / "adapter", "must not be given for a model that has one"),
        (trained / "base", tmp_path, "is no folder of an adapter"),
        (trained / "base", tmp_path / "gone", "is no folder of an adapter"),
        (trained / "gone", trained / "adapter", "does not exist"),
    ):
        assert main(["ask", str(model), str(clip), "--adapter", str(adapter)]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    moved = shutil.copytree(trained / "adapter", tmp_path / "moved")
    for base, message in ((None, "does not say what its base model is"), ("./gone", "./gone, which is not there")):
        settings = json.loads((moved / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
        (moved / "adapter_config.json").write_text(json.dumps(settings))
        assert main(["ask", str(moved), str(clip)]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert ask(capsys, trained / "base", clip, "--adapter", moved)


def test_merge(trained, clip, tmp_path, capsys):
    assert main(["merge", str(trained / "adapter"), str(tmp_path / "merged")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'merged'}\n"
    assert ask(capsys, tmp_path / "merged", clip, "What?") == ask(capsys, trained / "both", clip, "What?")
    assert main(["merge", str(trained / "base"), str(tmp_path / "again")]) == 2
    assert "no adapter to merge" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("salmonn ")


def test_an_error_of_several_lines_keeps_them(tmp_path, capsys):
    """All bad rows of a manifest."""
    rows = [{"path": "missing.wav", "text": "x", "task": "asr"}, {"path": "also.wav", "text": "x", "task": "asr"}]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["train", "pretrain", "--bf16", "false", "--model", "./none", "--train", str(tmp_path / "bad.jsonl")]
    assert main([*command, "--output_dir", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert any("missing.wav" in line for line in lines) and any("also.wav" in line for line in lines)
    assert sum("missing.wav" in line or "also.wav" in line for line in lines) == 2
    assert not any("Traceback" in line for line in lines)


def test_a_failure_within_the_work_keeps_its_traceback(monkeypatch):
    """What `keep_traceback` marks is no wrong argument."""
    with pytest.raises(RuntimeError, match="training failed: a fault") as failure, keep_traceback("training"):
        raise ValueError("a fault")
    assert isinstance(failure.value.__cause__, ValueError)
    with pytest.raises(NonFiniteError), keep_traceback("training"):
        raise NonFiniteError("says it all")
    failing = argparse.Namespace(verbose=False, run=lambda options: (_ for _ in ()).throw(RuntimeError("a fault")))
    monkeypatch.setattr("argparse.ArgumentParser.parse_args", lambda *args: failing)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["tasks"])


@pytest.mark.parametrize("device", ["junk", "xpu:99", "cuda:99"])
def test_devices_that_are_not_there_are_refused(device):
    with pytest.raises(ValueError, match=f"`device` must be one that torch has here, got '{device}'"):
        choose_device(device)
    assert choose_device("cpu").type == "cpu" and choose_device().type in ("cpu", "cuda")
