# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The page's named functions for programs: `/ask`, `/compare` and `/tasks`.

    client = gradio_client.Client("http://127.0.0.1:7860")
    client.predict(gradio_client.handle_file("clip.wav"), "What happens here?", api_name="/ask")

They go through hidden components rather than `gr.api`, which would take any path on the server for an upload.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_salmonn.extras import needs_extra
from demo_salmonn.presets import Preset
from demo_salmonn.session import Answer, Listener


with needs_extra("web"):
    import gradio as gr


def describe_answer(answer: Answer) -> dict:
    """An answer as JSON: seconds by part, numbers of tokens, and why it ended."""
    return {
        "answer": answer.text,
        "question": answer.question,
        "lora_scale": answer.lora_scale,
        "ending": answer.ending,
        "tokens": {"audio": answer.audio_tokens, "text": answer.text_tokens, "new": answer.new_tokens},
        "seconds": {name: round(use.seconds, 4) for name, use in answer.parts.items()},
    }


def add_api(listener: Listener, presets: Sequence[Preset], concurrency_id: str) -> None:
    """Adds the functions to the `gr.Blocks` that is being built. Their errors are sentences."""
    limits = listener.limits

    def ask(audio: str, question: str, lora_scale: float, max_new_tokens: float) -> Iterator[dict]:
        for answer in _checked(lambda: _ask(audio, question, [lora_scale], max_new_tokens)):
            yield describe_answer(answer)

    def compare(audio: str, question: str, lora_scales: list[float], max_new_tokens: float) -> list[dict]:
        answers = _checked(lambda: _ask(audio, question, lora_scales, max_new_tokens))
        return [describe_answer(answer) for answer in answers if answer.ending is not None]

    def _ask(audio: str | None, question: str, lora_scales: Sequence[float], max_new_tokens: float):
        if audio is None:
            raise ValueError("`audio` must be a file, got none.")
        if not isinstance(lora_scales, list) or not 0 < len(lora_scales) <= 11:
            raise ValueError(f"`lora_scales` must be a list of 1 to 11 numbers, got {lora_scales!r}.")
        if not all(isinstance(scale, (int, float)) for scale in lora_scales):
            raise ValueError(f"`lora_scales` must be numbers, got {lora_scales!r}.")
        clip = listener.listen(audio, Path(audio).name)
        for scale in lora_scales:
            yield from listener.ask([clip], question, scale, int(max_new_tokens))

    def tasks() -> list[dict]:
        return [{"task": preset.task, "label": preset.label, "question": preset.question} for preset in presets]

    with gr.Group(visible=False):
        audio = gr.Audio(type="filepath", label="audio")
        question = gr.Textbox("Transcribe the speech.", label="question")
        scale = gr.Number(1.0, label="lora_scale")
        scales = gr.JSON([1.0, 0.5, 0.0], label="lora_scales")
        longest = gr.Number(min(64, int(limits.new_tokens)), label="max_new_tokens", precision=0)
        result = gr.JSON(label="answer")
        button = gr.Button()
    model = {"concurrency_id": concurrency_id, "concurrency_limit": 1}
    described = (
        "Answers a question about a clip; streams the answer as it grows.",
        "Answers a question about a clip at several strengths of LoRA.",
        "Lists the tasks that the page offers, and how they are asked.",
    )
    button.click(ask, [audio, question, scale, longest], result, api_name="ask", api_description=described[0], **model)
    inputs = [audio, question, scales, longest]
    button.click(compare, inputs, result, api_name="compare", api_description=described[1], **model)
    button.click(tasks, None, result, api_name="tasks", api_description=described[2], queue=False)


def _checked(answers) -> Iterator[Answer]:
    """What the caller did wrong, as an error that Gradio hands on without a traceback."""
    try:
        yield from answers()
    except (ValueError, TypeError, OSError) as error:
        raise gr.Error(" ".join(str(error).split()), print_exception=False) from error
