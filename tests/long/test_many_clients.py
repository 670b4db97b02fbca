# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
32 clients at once, every second of them wrong, of `salmonn serve` and of the web page: each right one gets the answer to its own
clip, each wrong one an error of its own, and the server lives on. `SALMONN_ROUNDS` is how often each of them asks.
"""

import asyncio
import concurrent.futures
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from served import chat, serving, suppress_single_bytes, wav

from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor
from tiny_salmonn import ask, noise, question, tiny_config, tiny_model, tiny_processor


CLIENTS, ROUNDS = 32, int(os.environ.get("SALMONN_ROUNDS", "4"))
NEW_TOKENS = 12
QUESTIONS = ("What is this?", "Who speaks?", "Is there music?", "Where?")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients") / "model"
    config = tiny_config(max_audio_seconds=2, fixed_length=False)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    config.transcription_separator_ids = processor.transcription_separator_ids()
    loaded = tiny_model(config)
    suppress_single_bytes(loaded, processor)
    loaded.generation_config.max_new_tokens = NEW_TOKENS
    loaded.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parts(model):
    return SalmonnForConditionalGeneration.from_pretrained(model).eval(), SalmonnProcessor.from_pretrained(model)


def clip_of(number: int) -> np.ndarray:
    return noise(0.5 + 0.1 * number, number)


def is_wrong(client: int, turn: int) -> bool:
    return (client + turn) % 2 == 1


@torch.no_grad()
def test_servers(model, parts, tmp_path_factory, capsys):
    openai = pytest.importorskip("openai")
    pytest.importorskip("fastapi")
    loaded, processor = parts
    name, mine = str(model), [clip_of(client) for client in range(CLIENTS)]
    transcripts, answers = [], []
    for client, clip in enumerate(mine):
        output = loaded.generate(**processor(audio=clip))[0]
        transcripts.append(processor.decode(output, skip_special_tokens=True))
        inputs = ask(processor, question(clip, text=QUESTIONS[client % 4]))
        output = loaded.generate(**inputs, max_new_tokens=NEW_TOKENS)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(output, skip_special_tokens=True))
    assert len(set(transcripts + answers)) > CLIENTS  # so that one that is mixed up is seen

    async def ask_rightly(api, client: int, turn: int) -> str:
        if (client + turn // 2) % 4 == 0:
            return (await api.audio.transcriptions.create(model=name, file=wav(mine[client]))).text
        request = chat(name, wav(mine[client]).getvalue(), text=QUESTIONS[client % 4], max_tokens=NEW_TOKENS)
        if turn % 4 < 2:
            return (await api.chat.completions.create(**request)).choices[0].message.content
        stream = await api.chat.completions.create(**request, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def ask_wrongly(api, client: int, turn: int):
        clip = wav(mine[client]).getvalue()
        kind = (client + 3 * turn) // 2 % 6
        if kind == 0:
            return await api.audio.transcriptions.create(model=name, file=io.BytesIO(clip[:-400]))
        if kind == 1:
            return await api.audio.transcriptions.create(model="somebody/model", file=io.BytesIO(clip))
        wrong = {
            2: {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "http://a/"}}]}]},
            3: {"max_tokens": 10**6},
            4: {"model": "somebody/model"},
            5: {"messages": [{"role": "user", "content": f"<|audio|> {client}"}]},
        }
        return await api.chat.completions.create(**chat(name, clip) | wrong[kind])

    async def one_client(api, client: int) -> tuple[list, list[float]]:
        found, times = [], []
        for turn in range(ROUNDS):
            start = time.monotonic()
            try:
                found.append(await (ask_wrongly if is_wrong(client, turn) else ask_rightly)(api, client, turn))
            except openai.APIStatusError as error:
                found.append(error.status_code)
            times.append(time.monotonic() - start)
        return found, times

    async def watch(api, health: list) -> None:
        while True:
            start = time.monotonic()
            health.append(((await api._client.get("/health")).status_code, time.monotonic() - start))
            await asyncio.sleep(0.2)

    async def all_clients(address: str):
        health: list = []
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=590) as api:
            async with openai.AsyncOpenAI(base_url=address, api_key="none") as other:
                watching = asyncio.create_task(watch(other, health))
                found = await asyncio.gather(*(one_client(api, client) for client in range(CLIENTS)))
                watching.cancel()
        return found, health

    with serving(tmp_path_factory.mktemp("server"), "cli_salmonn", "serve", name, "--device", "cpu") as address:
        everything, health = asyncio.run(all_clients(address))
    right = refused = 0
    for client, (found, _) in enumerate(everything):
        for turn, answer in enumerate(found):
            if is_wrong(client, turn):
                assert answer in (400, 404), (client, turn, answer)
                refused += 1
            else:
                expected = transcripts if (client + turn // 2) % 4 == 0 else answers
                assert answer == expected[client], (client, turn)
                right += 1
    assert right + refused == CLIENTS * ROUNDS and {status for status, _ in health} == {200}
    longest = max(max(times) for _, times in everything)
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients of salmonn serve: {right} answered, {refused} refused, the longest in {longest:.1f} s; "
            f"/health {len(health)} times, the longest in {max(taken for _, taken in health):.2f} s"
        )


def test_pages(parts, tmp_path, capsys):
    pytest.importorskip("gradio")
    gradio_client = pytest.importorskip("gradio_client")
    from demo_salmonn import web
    from demo_salmonn.limits import Limits
    from demo_salmonn.presets import load_presets
    from demo_salmonn.session import Listener

    limits = Limits(new_tokens=16, clip_seconds=10, question_characters=60, waiting=2 * CLIENTS)
    listener = Listener(*parts, limits)
    expected = []
    for client in range(CLIENTS):
        soundfile.write(tmp_path / f"{client}.wav", clip_of(client), 16000, subtype="FLOAT")
        *_, last = listener.ask([listener.listen(tmp_path / f"{client}.wav")], QUESTIONS[client % 4], 1, NEW_TOKENS)
        expected.append(last.text)
    assert len(set(expected)) > CLIENTS // 2
    soundfile.write(tmp_path / "long.wav", noise(11), 16000)
    (tmp_path / "text.wav").write_text("no audio")
    wrong = [
        ("long.wav", "Who?", "at most 10 s"),
        ("text.wav", "Who?", "cannot be read"),
        (None, "", "no question"),
        (None, "a" * 100, "at most 60"),
    ]
    page = web.build_page(listener, load_presets(["asr"]), "tiny")
    _, url, _ = web.launch_page(page, limits, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")

    def one_client(client: int) -> list:
        wait = {"timeout": 600}
        api = gradio_client.Client(url, verbose=False, analytics_enabled=False, httpx_kwargs=wait)
        found = []
        for turn in range(ROUNDS):
            own = Path(tmp_path, f"{client}.wav")
            if not is_wrong(client, turn):
                clip = gradio_client.handle_file(str(own))
                found.append(api.predict(clip, QUESTIONS[client % 4], 1, NEW_TOKENS, api_name="/ask")["answer"])
                continue
            name, text, message = wrong[(client + turn) // 2 % len(wrong)]
            clip = gradio_client.handle_file(str(tmp_path / (name or own.name)))
            with pytest.raises(Exception, match=message):
                api.predict(clip, text, 1, NEW_TOKENS, api_name="/ask")
            found.append(None)
        return found

    try:
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            everything = list(pool.map(one_client, range(CLIENTS)))
    finally:
        page.close()
    answered = [(client, text) for client, found in enumerate(everything) for text in found if text is not None]
    assert all(text == expected[client] for client, text in answered)
    with capsys.disabled():
        refused = CLIENTS * ROUNDS - len(answered)
        print(f"\n{CLIENTS} clients of the web page: {len(answered)} answered, {refused} refused")
