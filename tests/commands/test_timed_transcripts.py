# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Transcripts with times of vLLM's server, before a server that knows none: it says how long and how loud a piece is."""

import asyncio
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from urllib3 import encode_multipart_formdata

from serving_salmonn.timed_transcripts import PATH, TimedTranscripts
from tiny_salmonn import noise, tiny_config, tiny_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_processor(tiny_config(segment_seconds=4, max_audio_seconds=3)).save_pretrained(folder)
    return folder


@pytest.fixture
def server(folder):
    """As vLLM's, as far as the middleware knows it. `seen` are its transcriptions: fields of the form, and samples."""
    seen = []

    async def transcribe(request):
        form = await request.form()
        if form.get("model") == "slow":
            while not await request.is_disconnected():
                await asyncio.sleep(0)
            seen.append("left")
            return JSONResponse({})
        if form["response_format"] != "json":
            return JSONResponse({"error": {"message": f"no {form['response_format']} here"}}, 400)
        samples, rate = soundfile.read(io.BytesIO(await form["file"].read()), dtype="float32")
        fields = {name: value for name, value in form.items() if name != "file"}
        seen.append((fields, samples))
        if form.get("model") == "wrong":
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        return JSONResponse({"text": f"{len(samples) / rate:.2f} < 9" if np.abs(samples).max() > 0.01 else ""})

    async def models(request):
        allowed = request.headers.get("authorization") == "Bearer key"
        return JSONResponse({}, 200 if allowed else 401)

    app = Starlette(routes=[Route(PATH, transcribe, methods=["POST"]), Route("/v1/models", models)])
    app.state.vllm_config = SimpleNamespace(model_config=SimpleNamespace(model=str(folder), revision=None))
    app.state.seen = seen
    app.add_middleware(TimedTranscripts)
    return app


def wav(samples, rate=16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def post(server, file: bytes, *fields, key="Bearer key", leaves_after=None, **named):
    """Status, content type and body of the answer to a form."""
    form = [*fields, *named.items(), ("file", ("clip.wav", file, "audio/wav"))]
    body, content_type = encode_multipart_formdata(form)
    headers = {"content-type": content_type, "content-length": str(len(body)), "authorization": key}
    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    halves = [body[len(body) // 2 :], body[: len(body) // 2]]
    answer = {"body": b""}

    async def receive():
        if halves:
            return {"type": "http.request", "body": halves.pop(), "more_body": bool(halves)}
        await asyncio.sleep(3600 if leaves_after is None else leaves_after)
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            answer["status"], answer["type"] = (
                message["status"],
                dict(message["headers"]).get(b"content-type", b"").decode(),
            )
        answer["body"] += message.get("body", b"")

    asyncio.run(server(scope, receive, send))
    return answer["status"], answer["type"], answer["body"].decode()


CLIP = np.concatenate([noise(2.5), np.zeros(8000, np.float32), noise(4.0)])  # 7 s


def test_segments_are_the_pieces_of_a_recording(server, folder):
    status, _, body = post(
        server, wav(CLIP), model="m", language="de", temperature="0", response_format="verbose_json"
    )
    found = json.loads(body)
    pieces = tiny_processor(tiny_config(segment_seconds=4, max_audio_seconds=3)).feature_extractor
    pieces = list(pieces.split_for_transcription(CLIP))
    lengths = [len(piece) / 16000 for piece in pieces]
    assert status == 200 and len(pieces) == 3 and sum(lengths) == 7
    assert [row["end"] - row["start"] for row in found["segments"]] == pytest.approx(lengths, abs=2e-3)
    assert [row["start"] for row in found["segments"][1:]] == [row["end"] for row in found["segments"][:-1]]
    assert [row["text"] for row in found["segments"]] == [f"{length:.2f} < 9" for length in lengths]
    assert found["text"] == " ".join(row["text"] for row in found["segments"])
    assert (found["duration"], found["language"], found["usage"]["seconds"]) == (7, "de", 7)
    for (fields, samples), piece in zip(
        sorted(server.state.seen, key=lambda seen: -len(seen[1])), sorted(pieces, key=len)[::-1]
    ):
        assert fields == {"model": "m", "language": "de", "temperature": "0", "response_format": "json"}
        np.testing.assert_array_equal(samples, piece)


def test_subtitles(server):
    status, content_type, body = post(server, wav(noise(2.0)), response_format="srt")
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    assert body == "1\n00:00:00,000 --> 00:00:02,000\n2.00 < 9\n"
    assert post(server, wav(noise(2.0)), response_format="vtt")[2] == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n2.00 &lt; 9\n"
    )


def test_other_rates_and_silent_pieces(server):
    clip = np.concatenate([0.1 * np.sin(np.arange(8000 * 2) / 5), np.zeros(8000 * 3)])
    found = json.loads(post(server, wav(clip, 8000), response_format="verbose_json")[2])
    assert found["duration"] == 5 and found["segments"][-1]["text"] == "" and not found["text"].endswith(" ")


def test_what_has_no_times_passes_unchanged(server):
    status, _, body = post(server, wav(CLIP), model="m", response_format="json")
    assert (status, json.loads(body)["text"]) == (200, "7.00 < 9")
    assert post(server, wav(CLIP), response_format="other")[0] == 400


def test_an_answer_that_is_an_error_is_the_answer(server):
    status, _, body = post(server, wav(CLIP), model="wrong", response_format="srt")
    assert status == 404 and "no such model" in body


@pytest.mark.parametrize(
    ("file", "fields", "reason"),
    [
        (b"no sound", [], "is no audio that can be read"),
        (wav(CLIP)[:50], [], "`audio` bytes"),
        (
            wav(CLIP),
            [("timestamp_granularities[]", "segment"), ("timestamp_granularities[]", "word")],
            "must be segment",
        ),
        (wav(CLIP), [("stream", "true")], "`response_format` verbose_json cannot be streamed"),
    ],
)
def test_what_cannot_be_answered_is_refused(server, file, fields, reason):
    status, _, body = post(server, file, *fields, response_format="verbose_json")
    error = json.loads(body)["error"]
    assert (status, error["code"], server.state.seen) == (400, 400, [])
    assert reason in error["message"]


def test_bounds_are_those_of_the_server(server, monkeypatch):
    monkeypatch.setenv("VLLM_MAX_AUDIO_DECODE_DURATION_S", "6")
    status, _, body = post(server, wav(CLIP), response_format="verbose_json")
    assert status == 400 and "`file` must last at most 6 s, got 7.0 s" in body
    monkeypatch.setenv("VLLM_MAX_AUDIO_CLIP_FILESIZE_MB", "0.1")  # which the server itself refuses
    assert "no verbose_json here" in post(server, wav(CLIP), response_format="verbose_json")[2]


def test_whoever_may_not_ask_is_told_so_first(server):
    assert post(server, b"no sound", key="none", response_format="srt")[0] == 401


def test_a_client_that_leaves_is_not_answered_for(server):
    post(server, wav(CLIP), model="slow", leaves_after=0.05, response_format="srt")
    assert server.state.seen == ["left"] * 3
