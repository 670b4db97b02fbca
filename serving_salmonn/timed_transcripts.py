# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Transcripts with times from vLLM's server, which makes them of time tokens, such as Whisper's, that SALMONN has none of.

    vllm serve ./merged --middleware serving_salmonn.timed_transcripts.TimedTranscripts

`/v1/audio/transcriptions` then takes the formats `verbose_json`, `srt` and `vtt`. A recording is cut into the pieces of
`salmonn transcribe`, the server is asked for each of them, and a piece is a segment. Other requests pass unchanged.
"""

import asyncio
import json
import math
import os
from dataclasses import dataclass, field
from io import BytesIO

import soundfile

from data_salmonn.audio import measure_audio, read_audio
from data_salmonn.extras import needs_extra
from data_salmonn.transcripts import Segment, format_segments


with needs_extra("vllm"):
    from starlette.datastructures import UploadFile
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from urllib3 import encode_multipart_formdata


PATH = "/v1/audio/transcriptions"
FORMATS = ("verbose_json", "srt", "vtt")
# vLLM's own bounds of a file, which the same variables change
BOUNDS = {"VLLM_MAX_AUDIO_CLIP_FILESIZE_MB": 25, "VLLM_MAX_AUDIO_DECODE_DURATION_S": 600}
CLIENT_HAS_LEFT = 499  # nginx's, which nobody reads
NO_SPACE_LANGUAGES = ("ja", "zh")  # for which vLLM joins pieces without a space


@dataclass
class _Answer:
    """What the server itself has answered."""

    status: int = 0
    body: bytes = b""
    headers: list = field(default_factory=list)

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    @property
    def response(self) -> Response:
        types = [value.decode() for name, value in self.headers if name == b"content-type"]
        return Response(self.body, self.status, media_type=types[0] if types else None)


class TimedTranscripts:
    """ASGI middleware for `vllm serve --middleware`."""

    def __init__(self, app):
        self.app, self._extractor = app, None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(PATH):
            return await self.app(scope, receive, send)
        messages, is_whole = await _read_body(receive)
        form = await Request(scope, _replay(messages, receive)).form() if is_whole else {}
        if form.get("response_format") not in FORMATS or not isinstance(form.get("file"), UploadFile):
            return await self.app(scope, _replay(messages, receive), send)
        gone = asyncio.Event()  # once the body is read, a client can only leave
        watch = asyncio.create_task(_wait_until_gone(receive, gone))
        try:
            response = await self._answer(scope, form, gone)
        finally:
            watch.cancel()
        await response(scope, receive, send)

    async def _answer(self, scope, form, gone: asyncio.Event) -> Response:
        # before a clip is decoded: whoever may not ask is told so by the server
        allowed = await self._call(
            {**scope, "method": "GET", "path": "/v1/models", "raw_path": b"/v1/models"}, b"", gone
        )
        if allowed.status != 200:
            return allowed.response
        try:
            _check(form)
            pieces, rate = await asyncio.to_thread(self._cut, scope["app"], await form["file"].read())
        except ValueError as error:
            problem = {"message": str(error), "type": "BadRequestError", "param": None, "code": 400}
            return JSONResponse({"error": problem}, 400)
        kept = [(name, value) for name, value in form.multi_items() if name not in ("file", "response_format")]
        fields = [(name, value) for name, value in kept if not name.startswith("timestamp_granularities")]
        answers = await asyncio.gather(*(self._transcribe(scope, fields, piece, rate, gone) for piece in pieces))
        if gone.is_set():
            return Response(status_code=CLIENT_HAS_LEFT)
        failed = next((answer for answer in answers if answer.status != 200), None)
        if failed is not None:
            return failed.response
        ends = [sum(map(len, pieces[: n + 1])) / rate for n in range(len(pieces))]
        texts = [json.loads(answer.body)["text"] for answer in answers]
        segments = [Segment(*row) for row in zip([0.0, *ends], ends, texts)]
        if form["response_format"] != "verbose_json":
            return PlainTextResponse("\n".join(format_segments(segments, form["response_format"])))
        return JSONResponse(_describe(segments, form.get("language"), float(form.get("temperature") or 0)))

    def _cut(self, app, content: bytes):
        """The pieces of a file, in samples, and their rate."""
        if self._extractor is None:
            from transformers import AutoFeatureExtractor

            # Importing it tells Transformers' Auto classes about SALMONN.
            import salmonn_transformers  # noqa: F401

            config = app.state.vllm_config.model_config
            self._extractor = AutoFeatureExtractor.from_pretrained(config.model, revision=config.revision)
        clip = {"bytes": content, "path": None}
        seconds, longest = measure_audio(clip)[0], _bound("VLLM_MAX_AUDIO_DECODE_DURATION_S")
        if seconds > longest:
            raise ValueError(
                f"`file` must last at most {longest:g} s, got {seconds:.1f} s: VLLM_MAX_AUDIO_DECODE_DURATION_S of the server"
            )
        clip = read_audio(clip)
        return list(self._extractor.split_for_transcription(clip)), self._extractor.sampling_rate

    async def _transcribe(self, scope, fields: list, piece, rate: int, gone: asyncio.Event) -> _Answer:
        file = BytesIO()
        await asyncio.to_thread(soundfile.write, file, piece, rate, format="WAV", subtype="FLOAT")
        parts = [*fields, ("response_format", "json"), ("file", ("piece.wav", file.getvalue(), "audio/wav"))]
        body, content_type = encode_multipart_formdata(parts)
        own = (b"content-type", b"content-length")
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in own]
        headers += [(own[0], content_type.encode()), (own[1], str(len(body)).encode())]
        return await self._call({**scope, "headers": headers}, body, gone)

    async def _call(self, scope, body: bytes, gone: asyncio.Event) -> _Answer:
        """Asks the server itself; it is told if the client leaves."""
        answer, requests = _Answer(), [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if requests:
                return requests.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        await self.app({**scope, "state": dict(scope.get("state") or {})}, receive, answer.send)
        return answer


def _check(form) -> None:
    """Raises `ValueError` for what has no answer with times."""
    if "word" in form.getlist("timestamp_granularities[]"):
        raise ValueError("`timestamp_granularities` must be segment: words have no times")
    if str(form.get("stream", "")).lower() in ("true", "1"):
        raise ValueError(f"`response_format` {form['response_format']} cannot be streamed: leave `stream` out")


def _describe(segments: list[Segment], language: str | None, temperature: float) -> dict:
    """`verbose_json`. What is not known of a segment, such as its probability, is null."""
    unknown = dict.fromkeys(("tokens", "avg_logprob", "compression_ratio", "no_speech_prob"))
    rows = [
        {"id": number, "seek": int(each.start), "start": round(each.start, 3), "end": round(each.end, 3)}
        | {"text": each.text, "temperature": temperature}
        | unknown
        for number, each in enumerate(segments)
    ]
    separator = "" if language in NO_SPACE_LANGUAGES else " "
    return {
        "task": "transcribe",
        "language": language,
        "duration": round(segments[-1].end, 3),
        "text": separator.join(each.text for each in segments if each.text),
        "segments": rows,
        "usage": {"type": "duration", "seconds": math.ceil(segments[-1].end)},
    }


async def _read_body(receive) -> tuple[list[dict], bool]:
    """The messages of a body, and whether that is all of it: a larger one than vLLM takes is left to vLLM to refuse."""
    room = _bound("VLLM_MAX_AUDIO_CLIP_FILESIZE_MB") * 2**20
    messages: list[dict] = []
    while True:
        messages.append(await receive())
        room -= len(messages[-1].get("body", b""))
        if messages[-1]["type"] != "http.request" or room < 0:
            return messages, False
        if not messages[-1].get("more_body"):
            return messages, True


def _bound(name: str) -> float:
    return float(os.environ.get(name, BOUNDS[name]))


def _replay(messages: list[dict], receive):
    """`receive` from the beginning."""
    left = list(messages)

    async def replayed():
        return left.pop(0) if left else await receive()

    return replayed


async def _wait_until_gone(receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


__all__ = ["TimedTranscripts"]
