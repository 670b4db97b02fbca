# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The web page in a browser: headless Chromium uploads, asks, compares, and sees what goes wrong as a sentence."""

import os
import shutil

import pytest
import soundfile

from demo_salmonn.limits import Limits
from demo_salmonn.session import Listener
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor, with_adapter


pytest.importorskip("gradio", reason="the web page needs Gradio: pip install -e '.[web]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install -e '.[web-test]'")

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium, or its path in CHROMIUM", allow_module_level=True)

from demo_salmonn import web  # noqa: E402
from demo_salmonn.presets import load_presets  # noqa: E402


# as little of the network as it can be told; a container's root cannot use its sandbox
ARGUMENTS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def url():
    config = tiny_config(fixed_length=False)
    listener = Listener(with_adapter(tiny_model(config)), tiny_processor(config), Limits(new_tokens=24))
    page = web.build_page(listener, load_presets(["asr", "story"]), "tiny")
    _, url, _ = web.launch_page(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield url
    page.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def page(request, browser, url):
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 850}, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    page.asked = []
    page.on("request", lambda sent: page.asked.append(sent.url))
    page.goto(url)
    page.wait_for_selector("#ask")
    yield page
    page.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    soundfile.write(folder / "one.wav", noise(1.5), 16000)
    soundfile.write(folder / "two.flac", noise(2.5, 1), 22050)
    (folder / "broken.mp3").write_bytes(b"ID3 no sound")
    return folder


def upload(page, files, *names):
    page.set_input_files("#upload input[type=file]", [str(files / name) for name in names])


def wait_for_answers(page, number, kind="turn"):
    finished = f"document.querySelectorAll('.{kind} .text:not(.writing)').length == {number}"
    page.wait_for_function(f"{finished} && !document.querySelector('.{kind} .writing')")


def test_visit(page, url, files):
    assert "No clip yet" in page.inner_text("#clips")
    page.get_by_role("button", name="Transcribe", exact=True).click()
    page.wait_for_selector("#question-problem .notice")
    assert "There is no clip" in page.inner_text("#question-problem")

    upload(page, files, "broken.mp3", "one.wav", "two.flac")
    page.wait_for_selector(".clip")
    assert "“broken.mp3” cannot be read as audio" in page.inner_text("#clip-problem")
    assert page.locator(".clip .mel").count() == 2 and page.locator("#picker input:checked").count() == 2
    # both players have what they play
    loaded = "[...document.querySelectorAll('.clip audio')].every(player => player.duration > 1)"
    page.wait_for_function(loaded)

    page.locator("#picker input").nth(1).uncheck()
    page.wait_for_function("document.querySelectorAll('.clip').length == 1")
    page.get_by_role("button", name="Transcribe", exact=True).click()
    wait_for_answers(page, 1)
    page.fill("#question textarea", "And what else?")
    page.keyboard.press("Enter")
    wait_for_answers(page, 2)
    talk = page.inner_text("#talk")
    assert "Transcribe the speech." in talk and "And what else?" in talk and "24 tokens" in talk
    assert "LLM writes" in page.inner_text("#cost")

    page.get_by_role("tab", name="LoRA strength").click()
    page.click("#compare")
    wait_for_answers(page, 2, "compared")
    page.locator("#lora input[type=number]").fill("0")
    page.keyboard.press("Tab")
    page.click("#compare")
    wait_for_answers(page, 3, "compared")
    assert page.locator(".compared header strong").all_inner_texts() == ["1", "0.25", "0"]

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert not page.locator("footer").is_visible()
    elsewhere = [asked for asked in page.asked if not asked.startswith((url, "data:", "blob:"))]
    assert not elsewhere, "the page must not fetch from other hosts"
