# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`transformers serve` of one model behind a [`Guard`]: OpenAI's chats and transcriptions for people whom one does not know."""

import asyncio
import threading

from data_salmonn.extras import needs_extra
from serving_salmonn.guard import Guard, ServerLimits, error_response


class OtherLoop:
    """An ASGI application on an event loop of its own: while it makes features of clips, the first loop goes on."""

    def __init__(self, app):
        self.app, self._loop = app, asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="salmonn-serve", daemon=True).start()

    async def __call__(self, scope, receive, send) -> None:
        first = asyncio.get_running_loop()

        def on_first(function):
            async def call(*arguments):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(*arguments), first))

            return call

        running = asyncio.run_coroutine_threadsafe(self.app(scope, on_first(receive), on_first(send)), self._loop)
        await asyncio.wrap_future(running)


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str | None = None,
    dtype: str | None = None,
    limits: ServerLimits | None = None,
) -> None:
    """
    Serves a model until the process is interrupted.

    Args:
        model (`str`): folder or Hub id of a SALMONN. Its code is that of this package, not what the folder brings.
        host, port: where to listen. By default only this machine is heard.
        device, dtype: as for `salmonn ask`.
        limits (`ServerLimits`, *optional*): what a request may take.
    """
    with needs_extra("serve"):
        import fastapi  # noqa: F401
        import openai  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server

    # Importing it tells Transformers' Auto classes about SALMONN.
    import salmonn_transformers  # noqa: F401
    from conversion_salmonn.loading import choose_device

    device = choose_device(device)
    build_server = server.build_server

    def build_guarded(*arguments, **options):
        app = build_server(*arguments, **options)
        for error in (ValueError, TypeError):
            app.add_exception_handler(error, _refuse)
        return Guard(OtherLoop(app), model, limits)

    # `Serve` builds its application and runs it, and has no place for anything between
    server.build_server = build_guarded
    try:
        Serve(
            force_model=model,
            host=host,
            port=port,
            device=str(device),
            dtype=dtype or ("float32" if device.type == "cpu" else "auto"),
        )
    finally:
        server.build_server = build_server


async def _refuse(request, error: Exception):
    return error_response(" ".join(str(error).split()))
