# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn ask`: what its words name, what it says of wrong ones, and how it prints answers."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from local_http import QuietHandler, answering

from cli_salmonn import audio_files, inference, spool
from cli_salmonn.main import build_parser, main
from cli_salmonn.sources import find_sources
from cli_salmonn.streaming import AnswerStreamer
from conversion_salmonn.head_masks import load_head_mask
from data_salmonn.transcripts import Segment, format_segments, join
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parts():
    """A model whose transcriptions have a prompt, and its processor."""
    config = tiny_config(segment_seconds=30, max_audio_seconds=2, fixed_length=False)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    config.transcription_separator_ids = processor.transcription_separator_ids()
    model = tiny_model(config)
    model.generation_config.max_new_tokens = 5
    return model, processor


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working folder: two clips, a long one, folders with clips and without, and a folder that looks like a model."""
    monkeypatch.chdir(tmp_path)
    for name, seconds, seed in (("a.wav", 0.5, 0), ("b.wav", 0.6, 1), ("long.wav", 5.0, 2)):
        soundfile.write(name, noise(seconds, seed), 16000)
    for name in ("clips", "empty", "model"):
        Path(name).mkdir()
    for name in ("1.wav", "2.flac"):
        soundfile.write(Path("clips", name), noise(0.3), 16000)
    Path("clips", "notes.md").write_text("no clip")
    Path("notes.txt").write_text("no sound")
    Path("model", "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def run(parts, monkeypatch, capsys):
    """Runs `salmonn ask model WORDS` with the tiny model, and returns what it prints."""
    monkeypatch.setattr(inference, "load", lambda *arguments: parts)

    def ask(*words: str) -> str:
        status = main(["ask", "model", *words])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return ask


def find(tmp_path, *words, questions=(), each=False):
    (tmp_path / "spool").mkdir(exist_ok=True)
    sources = find_sources(words, questions, each, tmp_path / "spool")
    return [tuple(clip.name for clip in group) for group in sources.groups], sources.questions


# ----------------------------------------------------------------------------------------------------------------------
# What the words name


@pytest.mark.parametrize(
    ("words", "groups", "questions"),
    [
        (["a.wav"], [("a.wav",)], []),
        (["a.wav", "What?"], [("a.wav",)], ["What?"]),
        (["a.wav", "b.wav", "Which is louder?"], [("a.wav", "b.wav")], ["Which is louder?"]),
        (["a.wav", "b.wav"], [("a.wav",), ("b.wav",)], []),  # no question: each is transcribed
        (["clips", "What?"], [("clips/1.wav",), ("clips/2.flac",)], ["What?"]),
        (["*.wav", "What?"], [("a.wav",), ("b.wav",), ("long.wav",)], ["What?"]),
        (["clips/**/[12].*", "What?"], [("clips/1.wav",), ("clips/2.flac",)], ["What?"]),
        (["a.wav", "Who said *that*?"], [("a.wav",)], ["Who said *that*?"]),
        (["a.wav", "Is it a.wav"], [("a.wav",)], ["Is it a.wav"]),
        (["a.wav", "long question " * 500], [("a.wav",)], ["long question " * 500]),
    ],
)
def test_words_are_clips_and_then_a_question(folder, words, groups, questions):
    assert find(folder, *words) == (groups, questions)


def test_options_say_what_is_asked_and_of_what(folder):
    assert find(folder, "a.wav", "b.wav", questions=["A?", "B?"]) == ([("a.wav", "b.wav")], ["A?", "B?"])
    assert find(folder, "a.wav", "b.wav", "A?", each=True) == ([("a.wav",), ("b.wav",)], ["A?"])


def test_options_may_stand_between_the_words():
    options = build_parser().parse_args(["ask", "m", "a.wav", "--num-beams", "2", "b.wav", "-q", "A?", "-q", "B?"])
    assert (options.model, options.words, options.questions) == ("m", ["a.wav", "b.wav"], ["A?", "B?"])
    assert options.num_beams == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.wav"], "`audio` absent.wav does not exist"),
        (["a.wav", "absent.wav"], "`audio` absent.wav does not exist"),
        (["a.wav", "absent.wav", "What?"], "`audio` absent.wav does not exist"),
        (["a.wav", "What", "is", "this?"], "`audio` What does not exist: clips come first"),
        (["What?", "a.wav"], "`audio` What? does not exist: clips come first"),
        (["none*.wav"], "`audio` none*.wav does not exist"),
        (["empty"], "`audio` empty is a folder without audio files"),
        (["notes.txt", "What?"], "`audio` notes.txt is no audio file that can be read"),
        (["a.wav", " "], "`question` must not be empty"),
        (["model/config.json", "a.wav"], "is a manifest, which is asked by itself"),
        (["-", "-"], "`audio` - can be read once"),
        (["a.wav", "What?", "--format", "srt"], "leave out the question"),
        (["a.wav", "b.wav", "--format", "vtt"], "of one clip, got 2 clips"),
    ],
)
def test_what_is_wrong_is_one_sentence(monkeypatch, capsys, words, message):
    monkeypatch.setattr(inference, "load", lambda *_: pytest.fail("loaded"))
    assert main(["ask", "model", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./gone", "a.wav"], "`model` ./gone does not exist"),
        (["a.wav", "model"], "`model` must be a folder or a Hub id, got the file a.wav"),
        (["empty", "a.wav"], "`model` empty is no folder of a model"),
        (["model", "a.wav", "--adapter", "empty"], "`adapter` empty is no folder of an adapter"),
    ],
)
def test_models_are_looked_at_first(monkeypatch, capsys, words, message):
    monkeypatch.setattr(inference, "load", lambda *_: pytest.fail("loaded"))
    assert main(["ask", *words]) == 2
    assert message in capsys.readouterr().err


def test_wrong_files_need_no_torch():
    code = (
        "import sys; from cli_salmonn.main import main\n"
        "for words in (['absent.wav'], ['notes.txt', 'Q'], ['a.wav', 'absent.wav'], ['empty']):\n"
        "    assert main(['ask', 'model', *words]) == 2\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["False", "False"], result.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Clips that are no WAV files on this machine


def test_standard_input_is_a_file(run, monkeypatch):
    data = Path("a.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
    assert run("-", "What?") == run("a.wav", "What?")


@pytest.mark.parametrize(("data", "message"), [(b"", "`audio` - is empty"), (b"text", "is no audio file")])
def test_standard_input_that_is_no_clip(monkeypatch, capsys, data, message):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
    assert main(["ask", "model", "-"]) == 2
    assert message in capsys.readouterr().err


def test_a_terminal_is_no_clip(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert main(["ask", "model", "-"]) == 2
    assert "which is a terminal" in capsys.readouterr().err


@pytest.fixture
def server(folder, monkeypatch):
    """The address of a server on this machine that has a.wav, and a file that ends too early."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    clip = Path("a.wav").read_bytes()

    class Handler(QuietHandler):
        def do_GET(self):
            if self.path not in ("/a.wav?x=1", "/short.wav"):
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(clip)))
            self.end_headers()
            self.wfile.write(clip if self.path != "/short.wav" else clip[:100])

    with answering(Handler) as address:
        yield address


def test_clips_of_the_web(run, server, capsys, monkeypatch):
    assert run(f"{server}/a.wav?x=1", "What?") == run("a.wav", "What?")
    for path, message in (
        ("gone.wav", "cannot be had (HTTP Error 404"),
        ("short.wav", "/short.wav broke off after 100"),
    ):
        assert main(["ask", "model", f"{server}/{path}"]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(spool, "MAX_BYTES", 1000)
    assert main(["ask", "model", f"{server}/a.wav?x=1"]) == 2
    assert "is larger than" in capsys.readouterr().err


def test_a_stream_without_a_length_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "MAX_BYTES", 1000)
    data = SimpleNamespace(buffer=io.BytesIO(bytes(1001)), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", data)
    with pytest.raises(ValueError, match="is larger than"):
        spool.save_input(tmp_path)


def test_other_formats_need_a_decoder(folder, monkeypatch):
    Path("a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setattr(audio_files, "_has_torchcodec", lambda: False)
    for look in (audio_files.check_clip, audio_files.read_clip):
        with pytest.raises(ValueError, match="a.m4a is of a format that libsndfile does not read: install ffmpeg"):
            look("a.m4a")

    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    samples = noise(0.2)
    (folder / "decoded").write_bytes(samples.tobytes())
    program.write_text(f'#!/bin/sh\necho "$@" > "{folder}/said"\nexec /bin/cat "{folder}/decoded"\n')
    program.chmod(0o755)
    audio_files.check_clip("a.m4a")
    assert "-t 0.1" in (folder / "said").read_text()
    np.testing.assert_array_equal(audio_files.read_clip("a.m4a"), samples)
    np.testing.assert_array_equal(np.concatenate(list(audio_files.open_clip("a.m4a"))), samples)
    assert "-i file:a.m4a -vn -f f32le -ac 1 -ar 16000" in (folder / "said").read_text()

    program.write_text("#!/bin/sh\necho moov atom not found >&2\nexit 1\n")
    with pytest.raises(ValueError, match="no audio file that can be read .moov atom not found"):
        audio_files.check_clip("a.m4a")

    # endless, and larger than a message on standard error may be
    monkeypatch.setenv("SALMONN_MAX_AUDIO_HOURS", "0.01")
    program.write_text("#!/bin/sh\n/usr/bin/head -c 300000 /dev/zero >&2\nexec /bin/cat /dev/zero\n")
    with pytest.raises(ValueError, match="`audio` a.m4a must be at most 0.01 hours long"):
        audio_files.open_clip("a.m4a")


def test_torchcodec_reads_what_nothing_else_does(folder, monkeypatch):
    calls = []
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(audio_files, "_has_torchcodec", lambda: True)
    monkeypatch.setattr(
        "transformers.audio_utils.load_audio", lambda *a, **named: calls.append((a, named)) or noise(1)
    )
    Path("a.webm").write_bytes(b"\x1aE\xdf\xa3")
    audio_files.check_clip("a.webm")
    assert len(audio_files.read_clip("a.webm")) == 16000
    assert calls == [(("a.webm",), {"sampling_rate": 16000, "backend": "torchcodec"})]


def test_clips_without_samples(folder):
    soundfile.write("none.wav", np.zeros(0), 16000)
    for look in (audio_files.check_clip, audio_files.read_clip):
        with pytest.raises(ValueError, match="none.wav holds no samples"):
            look("none.wav")


# ----------------------------------------------------------------------------------------------------------------------
# Answers


def expected(parts, clips, question) -> str:
    model, processor = parts
    inputs = inference.prepare(processor, clips, question)
    return inference.decode(processor, inputs, model.generate(**inputs))


def test_several_questions_encode_a_clip_once(parts, run, monkeypatch):
    model, calls = parts[0], []
    answers = [expected(parts, noise(0.5), question) for question in ("What?", "Who is it?")]
    encode = model.get_audio_features
    monkeypatch.setattr(model, "get_audio_features", lambda **inputs: calls.append(1) or encode(**inputs))
    printed = run("a.wav", "-q", "What?", "-q", "Who is it?")
    assert printed == f"# What?\n{answers[0]}\n\n# Who is it?\n{answers[1]}\n"
    assert len(calls) == 1


def test_several_clips_are_one_prompt_or_each_its_own(parts, run):
    one, two = audio_files.read_clip("a.wav"), audio_files.read_clip("b.wav")
    assert run("a.wav", "b.wav", "Which?") == expected(parts, [one, two], "Which?") + "\n"
    apart = [expected(parts, clip, "Which?") for clip in (one, two)]
    assert run("a.wav", "b.wav", "Which?", "--each") == f"# a.wav\n{apart[0]}\n\n# b.wav\n{apart[1]}\n"


def test_answers_as_json(parts, run):
    lines = [json.loads(line) for line in run("clips", "-q", "A?", "-q", "B?", "--jsonl").splitlines()]
    assert [(line["audio"], line["question"]) for line in lines] == [
        (clip, question) for clip in ("clips/1.wav", "clips/2.flac") for question in ("A?", "B?")
    ]
    assert lines[0]["answer"] == expected(parts, audio_files.read_clip("clips/1.wav"), "A?")
    whole = json.loads(run("clips", "-q", "A?", "-q", "B?", "--json"))
    assert whole == {"model": "model", "answers": lines}
    assert json.loads(run("a.wav", "b.wav", "Q", "--jsonl"))["audio"] == ["a.wav", "b.wav"]


def test_manifests_are_asked_all_questions(run):
    Path("m.jsonl").write_text('{"audio": "a.wav", "id": "one"}\n{"audio": "b.wav", "question": "Own?"}\n')
    lines = [json.loads(line) for line in run("m.jsonl").splitlines()]
    assert [(line["id"], line["question"]) for line in lines] == [("one", None), ("m.jsonl:2", "Own?")]
    answers = json.loads(run("m.jsonl", "-q", "A?", "-q", "B?", "--json"))["answers"]
    assert [line["question"] for line in answers] == ["A?", "B?"] * 2


def test_long_clips_are_named_when_asked_about(run, caplog):
    run("long.wav", "What?")
    assert "long.wav is 5 s long, and this model was trained on 2 s" in caplog.text
    caplog.clear()
    run("a.wav", "What?")
    assert "trained on" not in caplog.text


# ----------------------------------------------------------------------------------------------------------------------
# Transcripts


def test_a_transcript_is_that_of_the_model(parts, run):
    """Piece by piece with times, and the same words as `transcribe` gives."""
    model, processor = parts
    clip = audio_files.read_clip("long.wav")
    inputs = processor(audio=clip, return_tensors="pt")
    whole = processor.decode(model.transcribe(**inputs)[0], skip_special_tokens=True).strip()
    segments = list(inference.Listener(model, processor).transcribe(clip))
    assert len(segments) == len(inputs["segment_ids"]) >= 3
    assert join(segments) == whole
    assert segments[0].start == 0 and segments[-1].end == 5
    assert all(one.end == two.start for one, two in zip(segments, segments[1:]))
    assert all(0 < segment.end - segment.start <= 2 for segment in segments)
    assert run("long.wav") == whole + "\n"
    answer = json.loads(run("long.wav", "--jsonl"))
    assert answer["answer"] == whole and answer["segments"] == [vars(segment) for segment in segments]
    assert len(run("long.wav", "--format", "txt").splitlines()) == len([s for s in segments if s.text])


def test_models_of_any_length_transcribe_at_once():
    config = tiny_config(max_audio_seconds=None, fixed_length=False)
    listener = inference.Listener(tiny_model(config), tiny_processor(config), max_new_tokens=2)
    (segment,) = listener.transcribe(noise(31))
    assert (segment.start, segment.end) == (0, 31)


SEGMENTS = [Segment(0, 1.5, "Hello & <you>."), Segment(1.5, 2, ""), Segment(2, 3723.0456, "Two\n\nlines")]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("txt", "0.00\t1.50\tHello & <you>.\n2.00\t3723.05\tTwo lines\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,500\nHello & <you>.\n\n2\n00:00:02,000 --> 01:02:03,046\nTwo\nlines\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello &amp; &lt;you&gt;.\n\n"
            "00:00:02.000 --> 01:02:03.046\nTwo\nlines\n\n",
        ),
    ],
)
def test_formats(kind, text):
    assert "".join(part + "\n" for part in format_segments(SEGMENTS, kind)) == text


# ----------------------------------------------------------------------------------------------------------------------
# Streaming


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard output look like a terminal, and counts its writes."""
    writes = []

    def watch():
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        write = sys.stdout.write
        monkeypatch.setattr(sys.stdout, "write", lambda text: writes.append(text) or write(text), raising=False)
        return writes

    return watch


@pytest.mark.parametrize("words", [["a.wav", "What?"], ["a.wav", "-q", "A", "-q", "B"], ["long.wav"], ["clips", "Q"]])
def test_a_terminal_shows_the_same_text(run, terminal, words):
    piped = run(*words)
    writes = terminal()
    assert run(*words) == piped
    streamed = len(writes)
    writes.clear()
    assert run(*words, "--no-stream") == piped
    assert run(*words, "--num-beams", "2")  # whose words are not final before the end
    assert streamed > 0


def test_words_appear_as_they_are_written(capsys):
    texts = {1: "Hel", 2: "lo", 3: " wor", 4: "ld", 5: "\n", 6: "  Ünd", 7: ".", 8: " "}
    decode = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(texts[i] for i in ids))
    streamer = AnswerStreamer(decode)
    seen = []
    for _ in range(2):
        streamer.put(torch.tensor([[1, 2, 3]]))  # the prompt
        for token in texts:
            streamer.put(torch.tensor([token]))
            seen.append(capsys.readouterr().out)
        streamer.end()
        seen.append(capsys.readouterr().out)
    streamer.finish()
    text = "Hello world\n  Ünd."
    assert "".join(seen) + capsys.readouterr().out == f"{text} {text}\n"
    assert seen[2] == "Hello" and seen[5] == " world\n "


def test_chinese_appears_without_spaces(capsys):
    streamer = AnswerStreamer(SimpleNamespace(decode=lambda ids, skip_special_tokens: "你好吗"[: len(ids)]))
    streamer.put(torch.tensor([[0]]))
    streamer.put(torch.tensor([1]))
    assert capsys.readouterr().out == "你"


def test_a_head_mask_stands_for_the_question(run, parts):
    mask = ROOT / "tests" / "fixtures" / "head_mask" / "checkpoint.pth"
    model, processor = parts
    answer = run("a.wav", "--head-mask", str(mask))
    heads = load_head_mask(mask, model.config.text_config)
    inputs = inference.prepare(processor, audio_files.read_clip("a.wav"), "")
    expected = inference.decode(processor, inputs, model.generate(**inputs, head_mask=heads))
    assert answer.strip() == expected != run("a.wav").strip()
    assert json.loads(run("a.wav", "--head-mask", str(mask), "--json"))["answers"][0]["question"] == ""
