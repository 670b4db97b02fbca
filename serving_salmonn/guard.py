# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
What stands before the server of Transformers, so that people may reach it whom one does not know.

Two routes are open, of one model; a request is read whole and checked, within limits of size, time and number; clips come in the
request itself, never as an address or a path, and are decoded here: what goes on to the server is WAV of 16 kHz. All that is wrong
is an error of the request, 4xx, with its message.
"""

import asyncio
import base64
import binascii
import contextlib
import io
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import soundfile

from audio_reading_salmonn import read_file, shorten
from data_salmonn.audio import SAMPLING_RATE
from data_salmonn.extras import needs_extra
from data_salmonn.json_text import parse_json
from data_salmonn.limits import PositiveLimits


with needs_extra("serve"):
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException
    from starlette.requests import Request
    from starlette.responses import JSONResponse

CHAT, TRANSCRIPTION = "/v1/chat/completions", "/v1/audio/transcriptions"
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class ServerLimits(PositiveLimits):
    """
    What one request may take. Raises `ValueError` unless all are numbers above 0.

    Args:
        upload_megabytes: largest request.
        upload_seconds: longest time in which it comes in.
        clip_seconds: longest clip.
        clips: most clips of a request.
        characters: of all its texts together.
        new_tokens: longest answer, and that of requests that name none.
        waiting: most requests at a time, of which the model answers one after the other.
    """

    upload_megabytes: float = 50
    upload_seconds: float = 60
    clip_seconds: float = 600
    clips: int = 8
    characters: int = 20_000
    new_tokens: int = 512
    waiting: int = 64


class Refused(Exception):
    """A request that is not taken."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


def error_response(message: str, status: int = 400) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    retry = {"Retry-After": "5"} if status == 503 else None
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status, headers=retry)


class Guard:
    """
    An ASGI application before another one.

    Args:
        app: the server, to which checked requests go.
        model: the one that it serves, under the name by which clients ask for it.
        limits (`ServerLimits`, *optional*): what a request may take.
    """

    def __init__(self, app, model: str, limits: ServerLimits | None = None):
        self.app, self.model, self.limits = app, model, limits or ServerLimits()
        self._running = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            response = self._answer(scope)
            if response is None:
                return await self._pass_on(scope, receive, send)
        except Refused as refused:
            response = error_response(str(refused), refused.status)
        await response(scope, receive, send)

    def _answer(self, scope) -> JSONResponse | None:
        """What needs no model."""
        method, path = scope["method"], scope["path"]
        if path == "/health" and method in ("GET", "HEAD"):
            return JSONResponse({"status": "ok"})
        if path == "/v1/models" and method == "GET":
            return JSONResponse(
                {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "salmonn"}]}
            )
        if path not in (CHAT, TRANSCRIPTION):
            raise Refused(f"There is nothing at {shorten(path)}: take {CHAT} or {TRANSCRIPTION}.", 404)
        if method != "POST":
            raise Refused(f"{path} takes POST, got {shorten(method)}.", 405)
        return None

    async def _pass_on(self, scope, receive, send) -> None:
        if self._running >= self.limits.waiting:
            raise Refused(f"{self._running} requests are waiting already: try again later.", 503)
        self._running += 1
        try:
            body = await self._read(scope, receive)
            if body is None:  # the client has gone
                return
            prepare = self._prepare_chat if scope["path"] == CHAT else self._prepare_transcription
            try:
                content_type, body = await prepare(scope, body)
            except (ValueError, TypeError) as error:
                raise Refused(" ".join(str(error).split())) from error
            headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
            headers += [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
            await self.app({**scope, "headers": headers}, _replay(body, receive), send)
        finally:
            self._running -= 1

    async def _read(self, scope, receive) -> bytes | None:
        """The body of a request, `None` if its client goes away."""
        most, parts, size = round(self.limits.upload_megabytes * 2**20), [], 0
        too_large = Refused(f"A request must be at most {self.limits.upload_megabytes:g} MB.", 413)
        with contextlib.suppress(ValueError):
            if int(dict(scope["headers"]).get(b"content-length", b"0")) > most:
                raise too_large
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(f"A request must come in within {self.limits.upload_seconds:g} s.", 408) from None

    def _check_model(self, name) -> None:
        if name is not None and name != self.model:
            raise Refused(
                f"`model` must be {self.model!r}, the one that is served here, got {shorten(repr(name))}.", 404
            )

    # ------------------------------------------------------------------------------------------------------------------
    # Chats

    async def _prepare_chat(self, scope, body: bytes) -> tuple[str, bytes]:
        try:
            request = parse_json(body)
        except ValueError as error:
            raise Refused(f"The request must be JSON ({shorten(str(error))}).") from error
        if not isinstance(request, dict):
            raise Refused(f"The request must be an object, got {type(request).__name__}.")
        self._check_model(request.pop("model", None))
        checked = {"model": self.model, "messages": await self._prepare_messages(request.pop("messages", None))}
        longest = request.pop("max_completion_tokens", None) or request.pop("max_tokens", None)
        checked["max_tokens"] = int(self.limits.new_tokens) if longest is None else longest
        _check_number("max_tokens", checked["max_tokens"], int, 1, self.limits.new_tokens)
        for name, value in request.items():
            if value is None or name in ("max_tokens", "stream_options", "user"):
                continue
            if name not in OPTIONS:
                raise Refused(f"`{shorten(name)}` is not taken here: leave it out.")
            OPTIONS[name](name, value)
            checked[name] = value
        return "application/json", json.dumps(checked).encode()

    async def _prepare_messages(self, messages) -> list[dict]:
        """The messages, clips in them decoded."""
        if not isinstance(messages, list) or not messages:
            raise Refused("`messages` must be a list of messages, got none.")
        prepared, clips, characters = [], 0, 0
        for message in messages:
            if not isinstance(message, dict) or message.keys() - {"role", "content", "name"}:
                raise Refused("A message must be an object of `role` and `content`.")
            if message.get("role") not in ROLES:
                raise Refused(f"`role` must be one of {', '.join(ROLES)}, got {shorten(repr(message.get('role')))}.")
            content = message.get("content")
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            if not isinstance(content, list) or not content:
                raise Refused(f"`content` must be a text or a list of parts, got {shorten(repr(content))}.")
            parts = []
            for part in content:
                kind = part.get("type") if isinstance(part, dict) else None
                if kind == "text" and isinstance(part.get("text"), str):
                    characters += len(part["text"])
                    parts.append({"type": "text", "text": part["text"]})
                elif kind == "input_audio":
                    clips += 1
                    self._check_count("clips", clips, self.limits.clips)
                    parts.append({"type": "input_audio", "input_audio": await self._prepare_part(part)})
                else:
                    raise Refused(
                        "A part of `content` must be a `text` or an `input_audio`, with the clip itself as base64, got "
                        f"{shorten(repr(kind))}: addresses and paths are not read."
                    )
            self._check_count("characters", characters, self.limits.characters)
            prepared.append({"role": message["role"], "content": parts})
        return prepared

    @staticmethod
    def _check_count(name: str, count: int, most: float) -> None:
        if count > most:
            raise Refused(f"A request must have at most {most:g} {name}.")

    async def _prepare_part(self, part: dict) -> dict:
        audio = part.get("input_audio")
        data = audio.get("data") if isinstance(audio, dict) else None
        if not isinstance(data, str):
            raise Refused("`input_audio` must be an object with `data`, a clip as base64.")
        try:
            decoded = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise Refused("`data` of `input_audio` must be base64: addresses and paths are not read.") from None
        return {"data": base64.b64encode(await self._decode(decoded)).decode(), "format": "wav"}

    # ------------------------------------------------------------------------------------------------------------------
    # Transcriptions

    async def _prepare_transcription(self, scope, body: bytes) -> tuple[str, bytes]:
        try:
            form = await Request(scope, _replay(body)).form(max_files=1, max_fields=10)
        except (MultiPartException, KeyError) as error:
            raise Refused(f"The request must be a form with a `file` ({shorten(str(error))}).") from error
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(form.close)
            fields = {name: value for name, value in form.items() if value != ""}
            file = fields.pop("file", None)
            if not isinstance(file, UploadFile):
                raise Refused("`file` must be an uploaded audio file.")
            self._check_model(fields.pop("model", None))
            stream = fields.pop("stream", "false")
            if str(stream).lower() not in ("true", "false"):
                raise Refused(f"`stream` must be true or false, got {shorten(repr(stream))}.")
            for name, value in fields.items():
                if (name, value) not in (("response_format", "json"), ("temperature", "0"), ("temperature", "0.0")):
                    raise Refused(f"`{shorten(name)}` is not taken here: leave it out.")
            clip = await self._decode(await file.read())
        boundary = secrets.token_hex(16)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{{}}"'
        texts = {"model": self.model, "stream": str(stream).lower()}
        parts = [f"{head.format(name)}\r\n\r\n{value}\r\n".encode() for name, value in texts.items()]
        parts.append(f'{head.format("file")}; filename="clip.wav"\r\nContent-Type: audio/wav\r\n\r\n'.encode())
        return f"multipart/form-data; boundary={boundary}", b"".join(
            [*parts, clip, f"\r\n--{boundary}--\r\n".encode()]
        )

    # ------------------------------------------------------------------------------------------------------------------
    # Clips

    async def _decode(self, data: bytes) -> bytes:
        """The bytes of an audio file as those of a WAV file of 16 kHz, mono, float32."""
        return await asyncio.to_thread(self._decode_now, data)

    def _decode_now(self, data: bytes) -> bytes:
        samples = read_file(io.BytesIO(data), SAMPLING_RATE, "of the request", self.limits.clip_seconds)
        wav = io.BytesIO()
        soundfile.write(wav, samples, SAMPLING_RATE, format="WAV", subtype="FLOAT")
        return wav.getvalue()


def _replay(body: bytes, receive: Callable[[], Awaitable[dict]] | None = None) -> Callable[[], Awaitable[dict]]:
    """What gives a body that has been read, and then what `receive` gives: that the client goes away."""
    is_given = False

    async def give() -> dict:
        nonlocal is_given
        if not is_given:
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return {"type": "http.disconnect"} if receive is None else await receive()

    return give


# ----------------------------------------------------------------------------------------------------------------------
# Options of a chat


def _check_number(name: str, value, kind, least: float, most: float) -> None:
    kinds = (int, float) if kind is float else int
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise Refused(f"`{name}` must be a number from {least:g} to {most:g}, got {shorten(repr(value))}.")


def _check_flag(name: str, value) -> None:
    if not isinstance(value, bool):
        raise Refused(f"`{name}` must be true or false, got {shorten(repr(value))}.")


def _check_one(name: str, value) -> None:
    if value != 1:
        raise Refused(f"`{name}` must be 1, got {shorten(repr(value))}.")


OPTIONS: dict[str, Callable] = {
    "temperature": lambda name, value: _check_number(name, value, float, 0, 2),
    "top_p": lambda name, value: _check_number(name, value, float, 0, 1),
    "seed": lambda name, value: _check_number(name, value, int, 0, 2**32 - 1),
    "n": _check_one,
    "stream": _check_flag,
}
