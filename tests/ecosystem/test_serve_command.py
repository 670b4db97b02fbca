# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn serve` over HTTP: what it answers, what it refuses, and that it lives on."""

import base64
import io
import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
from local_http import QuietHandler, answering
from served import chat, save_served, serving, wav

from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor
from tiny_salmonn import ask, noise, question


openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

CHAT, TRANSCRIPTION = "/v1/chat/completions", "/v1/audio/transcriptions"
LIMITS = ("--max-clip-seconds", "10", "--max-upload-megabytes", "2", "--max-new-tokens", "20")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model, which is where the server looks for it."""
    return save_served(tmp_path_factory.mktemp("served") / "salmonn")


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, "cli_salmonn", "serve", model, "--device", "cpu", *LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)


def send(url: str, data: bytes | None = None, content_type: str = "application/json") -> tuple[int, dict]:
    """Status and answer of a request."""
    request = urllib.request.Request(url, data, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def form(**fields) -> tuple[bytes, str]:
    """A form with files, which are bytes, and texts."""
    lines = []
    for name, value in fields.items():
        file = '; filename="clip.wav"' if isinstance(value, bytes) else ""
        lines.append(f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode())
        lines += [value if isinstance(value, bytes) else value.encode(), b"\r\n"]
    return b"".join([*lines, b"--edge--\r\n"]), "multipart/form-data; boundary=edge"


def is_alive(address: str) -> bool:
    return send(f"{address}/health") == (200, {"status": "ok"})


# ----------------------------------------------------------------------------------------------------------------------
# What is answered


def test_a_chat_is_answered_as_generate_answers(model, client):
    loaded, processor = SalmonnForConditionalGeneration.from_pretrained(model), SalmonnProcessor.from_pretrained(model)
    clips = [noise(2, 1), noise(1.5, 2)]
    inputs = ask(processor, question(*clips))
    output = loaded.generate(**inputs, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    request = chat(model, *(wav(clip).getvalue() for clip in clips))
    answer = client.chat.completions.create(**request)
    assert answer.choices[0].message.content == processor.decode(output, skip_special_tokens=True)
    assert answer.usage.completion_tokens <= 5
    stream = client.chat.completions.create(**request, stream=True, temperature=0, seed=1, n=1)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == answer.choices[0].message.content and len(pieces) > 1
    # without a name, with the other name of the longest answer, and as long as the server allows
    unnamed = {name: value for name, value in request.items() if name not in ("model", "max_tokens")}
    status, shorter = send(
        f"{client.base_url}chat/completions", json.dumps(unnamed | {"max_completion_tokens": 2}).encode()
    )
    assert status == 200 and shorter["usage"]["completion_tokens"] <= 2
    status, longest = send(f"{client.base_url}chat/completions", json.dumps(unnamed).encode())
    assert status == 200 and longest["usage"]["completion_tokens"] <= 20


@pytest.mark.parametrize("seconds", [2, 6])
def test_a_transcription_is_that_of_generate(model, client, seconds):
    loaded, processor = SalmonnForConditionalGeneration.from_pretrained(model), SalmonnProcessor.from_pretrained(model)
    expected = processor.decode(loaded.generate(**processor(audio=noise(seconds)))[0], skip_special_tokens=True)
    assert client.audio.transcriptions.create(model=model, file=wav(seconds)).text == expected
    request = client.audio.transcriptions.with_streaming_response
    with request.create(model=model, file=wav(seconds), stream=True) as response:
        body = response.read().decode()
    assert "".join(body.split("data: ")).replace("\n", "") == expected.replace("\n", "")


def test_clips_of_other_rates_and_formats(model, client):
    clip = np.sin(np.arange(22050) / 20).astype(np.float32)
    answers = set()
    for kind in ("WAV", "FLAC"):
        file = io.BytesIO()
        soundfile.write(file, np.stack([clip, clip], axis=1), 22050, format=kind, subtype="PCM_16")
        answers.add(client.chat.completions.create(**chat(model, file.getvalue())).choices[0].message.content)
        file.seek(0)
        file.name = f"clip.{kind.lower()}"
        assert client.audio.transcriptions.create(model=model, file=file, response_format="json").text is not None
    assert len(answers) == 1


def test_one_model_is_named(model, client):
    assert [found.id for found in client.models.list()] == [model]


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A clip on the server's disk."""
    path = tmp_path_factory.mktemp("secret") / "abcd"
    path.write_bytes(wav(1).getvalue())
    return str(path)


@pytest.fixture(scope="module")
def internal():
    """A server that nobody may be sent to, and how often somebody came."""
    visits = []

    class Handler(QuietHandler):
        def do_GET(self):
            visits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(wav(1).getvalue())

    with answering(Handler) as address:
        yield f"{address}/clip.wav", visits


def slow_rate(clip: bytes) -> bytes:
    """A WAV file whose header says 1 Hz."""
    return clip[:24] + (1).to_bytes(4, "little") + clip[28:]


def silent_flac(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(round(8000 * seconds)), 8000, format="FLAC")
    return file.getvalue()


def part(kind: str, value) -> dict:
    return {
        "messages": [{"role": "user", "content": [{"type": kind, kind: value}, {"type": "text", "text": "What?"}]}]
    }


NOT_FINITE = wav(np.array([0.1, np.nan, 0.1] * 1000, np.float32)).getvalue()
# A change of a chat that would be answered, and what is said of it.
BAD_CHATS = {
    "another model": ({"model": "somebody/model"}, 404, "`model` must be"),
    "a path as a model": ({"model": "/"}, 404, "`model` must be"),
    "a model that is no name": ({"model": ["a"]}, 404, "`model` must be"),
    "an address": (part("audio_url", {"url": "INTERNAL"}), 400, "addresses and paths are not read"),
    "a path as an address": (part("audio_url", {"url": "SECRET"}), 400, "addresses and paths are not read"),
    "a clip by path": (part("audio", "SECRET"), 400, "addresses and paths are not read"),
    "an image": (part("image_url", {"url": "INTERNAL"}), 400, "addresses and paths are not read"),
    "an address as data": (part("input_audio", {"data": "INTERNAL", "format": "wav"}), 400, "must be base64"),
    "an address alone": (part("input_audio", "INTERNAL"), 400, "`input_audio` must be an object with `data`"),
    "a path as data": (part("input_audio", {"data": "/tmp/abcd"}), 400, "must be base64"),
    "a path that is base64": (part("input_audio", {"data": "SECRET"}), 400, ""),
    "a clip that is no audio": (
        part("input_audio", {"data": base64.b64encode(b"text" * 99).decode()}),
        400,
        "is no audio",
    ),
    "an empty clip": (part("input_audio", {"data": ""}), 400, "is no audio"),
    "no messages": ({"messages": []}, 400, "`messages` must be a list"),
    "messages that are a text": ({"messages": "Hello"}, 400, "`messages` must be a list"),
    "an unknown role": ({"messages": [{"role": "root", "content": "Hello"}]}, 400, "`role` must be one of"),
    "no content": ({"messages": [{"role": "user"}]}, 400, "`content` must be"),
    "tool calls": ({"messages": [{"role": "assistant", "tool_calls": []}]}, 400, "A message must be"),
    "a placeholder in a text": ({"messages": [{"role": "user", "content": "<|audio|>"}]}, 400, "<|audio|>"),
    "a long text": ({"messages": [{"role": "user", "content": "a " * 20_000}]}, 400, "at most 20000 characters"),
    "endless answers": ({"max_tokens": 10**9}, 400, "`max_tokens` must be a number from 1 to 20"),
    "no answer": ({"max_tokens": 0}, 400, "`max_tokens` must be"),
    "half a token": ({"max_tokens": 1.5}, 400, "`max_tokens` must be"),
    "many answers": ({"n": 1000}, 400, "`n` must be 1"),
    "a generation config": ({"generation_config": '{"num_beams": 100000}'}, 400, "`generation_config` is not taken"),
    "a template": (
        {"chat_template_kwargs": {"chat_template": "{{ 1/0 }}"}},
        400,
        "`chat_template_kwargs` is not taken",
    ),
    "tools": ({"tools": [{}]}, 400, "`tools` is not taken"),
    "a hot temperature": ({"temperature": 1e9}, 400, "`temperature` must be"),
    "an endless seed": ({"seed": 10**30}, 400, "`seed` must be"),
    "stops": ({"stop": ["."]}, 400, "`stop` is not taken"),
    "a stream that is a word": ({"stream": "yes"}, 400, "`stream` must be true or false"),
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_bad_chats(model, address, secret, internal, name):
    change, status, message = BAD_CHATS[name]
    url, visits = internal
    text = json.dumps(chat(model, wav(0.5).getvalue()) | change).replace("INTERNAL", url).replace("SECRET", secret)
    found, answer = send(address + CHAT, text.encode())
    assert found == status and message in answer["error"]["message"] and len(answer["error"]["message"]) < 600, answer
    assert not visits and is_alive(address)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (slow_rate(wav(2).getvalue()), "sampling rate from 1000"),
        (silent_flac(3600), "at most 10 s long, got 3600.0 s"),
        (wav(10.5).getvalue(), "at most 10 s long"),
        (wav(2).getvalue()[:-900], "is cut off"),
        (NOT_FINITE, "finite samples"),
        (b"RIFF", "is no audio"),
    ],
    ids=["one Hz", "an hour in a few bytes", "too long", "cut off", "NaN", "four bytes"],
)
def test_bad_clips(model, address, data, message):
    for url, body in (
        (CHAT, (json.dumps(chat(model, data)).encode(),)),
        (TRANSCRIPTION, form(file=data, model=model)),
    ):
        status, answer = send(address + url, *body)
        assert status == 400 and message in answer["error"]["message"], answer
    assert is_alive(address)


BAD_FORMS = {
    "another model": ({"model": "somebody/model"}, 404, "`model` must be"),
    "a path as a file": ({"file": "/etc/passwd"}, 400, "`file` must be an uploaded"),
    "no file": ({"file": None}, 400, "`file` must be an uploaded"),
    "a prompt": ({"prompt": "Hello"}, 400, "`prompt` is not taken"),
    "times": ({"response_format": "verbose_json"}, 400, "`response_format` is not taken"),
    "an unknown field": ({"unknown": "1"}, 400, "`unknown` is not taken"),
    "a stream that is a word": ({"stream": "maybe"}, 400, "`stream` must be true or false"),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_transcriptions(model, address, name):
    change, status, message = BAD_FORMS[name]
    fields = {"file": wav(0.5).getvalue(), "model": model} | change
    found, answer = send(address + TRANSCRIPTION, *form(**{k: v for k, v in fields.items() if v is not None}))
    assert found == status and message in answer["error"]["message"], answer
    assert is_alive(address)


def test_other_requests(model, address):
    """Routes of Transformers' server that load any model or unload this one are closed; what is no request is refused."""
    named = json.dumps({"model": "somebody/model"}).encode()
    for path in ("/load_model", "/reset", "/v1/responses", "/v1/completions", "/v1/systemone", "/docs", "/"):
        assert send(address + path, named)[0] == 404
    assert send(address + CHAT)[0] == 405
    for body in (b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b""):
        status, answer = send(address + CHAT, body)
        assert status == 400 and "must be" in answer["error"]["message"]
    assert send(address + TRANSCRIPTION, b"no form", "multipart/form-data")[0] == 400
    assert send(address + TRANSCRIPTION, b"--edge\r\n", "multipart/form-data; boundary=edge")[0] == 400
    assert is_alive(address)


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def test_a_length_beyond_the_limit_is_refused_at_once(address):
    """Before the body comes."""
    with connect(address) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {3 * 2**20}\r\n\r\n".encode())
        said = b""
        while b"at most 2 MB" not in said and (more := connection.recv(1000)):
            said += more
    assert b" 413 " in said and b"at most 2 MB" in said
    assert is_alive(address)


def test_a_body_without_an_end_is_bounded(address):
    """Chunks that go on and on, and no length."""
    with connect(address) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
        said = b""
        try:
            for _ in range(200):
                connection.sendall(chunk)
            said = connection.recv(1000)
        except ConnectionError:
            pass
    assert said == b"" or b" 413 " in said
    assert is_alive(address)


def test_wrong_settings(capsys):
    from cli_salmonn.main import main

    assert main(["serve", "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err
    for words in (["--port", "0"], ["--max-new-tokens", "0"], ["--max-clip-seconds", "nan"]):
        with pytest.raises(SystemExit):
            main(["serve", "model", *words])


def test_limits_are_numbers():
    from serving_salmonn.guard import ServerLimits

    for name, value in (("waiting", 0), ("clip_seconds", float("nan")), ("clips", True), ("new_tokens", "9")):
        with pytest.raises(ValueError, match=f"`{name}` must be a number above 0"):
            ServerLimits(**{name: value})
