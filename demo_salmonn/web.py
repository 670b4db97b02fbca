# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The web page: record or upload clips, ask about them, and turn LoRA down.

    salmonn demo
    salmonn demo ./salmonn-13b

Gradio brings the controls, `demo_salmonn.markup` everything else that is seen, `demo_salmonn.session` the answers, and
`demo_salmonn.web_api` the named functions for programs. docs/web.md describes all of it.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import soundfile

from data_salmonn.extras import needs_extra
from demo_salmonn import markup
from demo_salmonn.clips import DEMO_CLIPS, SAMPLING_RATE
from demo_salmonn.limits import Limits
from demo_salmonn.markup import Turn
from demo_salmonn.presets import STORY, TASKS, Preset, load_presets, nano_tasks
from demo_salmonn.session import Answer, EncodedClip, Listener


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before Gradio is imported
with needs_extra("web"):
    import gradio as gr


logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
EXAMPLES = Path(tempfile.gettempdir()) / "salmonn-examples"
MODEL = "model"  # all that the model does waits in one queue
SWEEP = (1.0, 0.75, 0.5, 0.25, 0.0)
VISIT_SECONDS = 3600  # clips of a visitor are kept so long after the last question
VISITORS = 200
SHOWN = {"api_visibility": "private", "show_progress": "hidden"}
MODELLED = {**SHOWN, "concurrency_id": MODEL, "concurrency_limit": 1}

INTRODUCTION = (
    "SALMONN gives a language model ears. Whisper hears the speech in a clip, BEATs everything else; ask about both."
)
LORA = (
    "Fine-tuning makes the model answer as it was trained to, whatever is asked: a transcript, a caption. Turn LoRA down "
    "and the language model follows the instruction again, but hears less. The paper calls it task over-fitting."
)


class Page:
    """What the controls of the page do. One for all visitors; what belongs to one of them is passed in and out."""

    def __init__(self, listener: Listener):
        self.listener = listener

    # ------------------------------------------------------------------------------------------------------------------
    # Clips

    def add(self, paths: Sequence[str] | None, clips: tuple[EncodedClip, ...], chosen: list[str], name: str = ""):
        """Encodes files, and reports those that cannot be taken without losing the others."""
        problems, added = [], []
        for path in paths or []:
            try:
                if len(clips) >= self.listener.limits.clips:
                    raise ValueError(f"At most {self.listener.limits.clips} clips are kept: remove some first.")
                clip = self.listener.listen(path, _unused_name(name or Path(path).name, clips))
            except (ValueError, OSError) as error:
                problems.append(_sentence(error))
                continue
            clips, added = (*clips, clip), [*added, clip.name]
        # one new clip is what the next question is about; several that come together are meant together
        return self._show(clips, added or chosen, problems)

    def add_recording(self, path: str | None, clips: tuple[EncodedClip, ...], chosen: list[str]):
        return self.add([path] if path else [], clips, chosen, "Recording")

    def add_example(self, name: str, clips: tuple[EncodedClip, ...], chosen: list[str]):
        label = name.capitalize()
        if any(clip.name == label for clip in clips):
            return self._show(clips, [label])
        try:
            path = make_example(name)
        except (ValueError, OSError) as error:
            return self._show(clips, chosen, [f"This example cannot be made here: {_sentence(error)}."])
        return self.add([str(path)], clips, chosen, label)

    def remove(self, clips: tuple[EncodedClip, ...], chosen: list[str]):
        kept = tuple(clip for clip in clips if clip.name not in chosen)
        return self._show(kept, [clip.name for clip in kept[-1:]])

    def choose(self, clips: tuple[EncodedClip, ...], chosen: list[str]):
        """The pictures of what is asked about, what encoding it took, and the button that removes it."""
        asked = _chosen(clips, chosen)
        remove = gr.Button("Remove clip" if len(asked) == 1 else "Remove these clips", visible=bool(asked))
        return markup.clip_cards(asked), markup.cost(asked, None), remove

    def _show(self, clips: tuple[EncodedClip, ...], chosen: list[str], problems: Sequence[str] = ()):
        """Clips, the choice among them, what is wrong, and what `choose` returns."""
        names = [clip.name for clip in clips]
        picker = gr.CheckboxGroup(names, value=[name for name in names if name in chosen], visible=len(clips) > 1)
        return clips, picker, markup.notice(*problems), *self.choose(clips, chosen)

    # ------------------------------------------------------------------------------------------------------------------
    # Questions

    def ask(
        self,
        clips: tuple[EncodedClip, ...],
        chosen: list[str],
        turns: tuple[Turn, ...],
        lora_scale: float,
        longest: float,
        remembers: bool,
        question: str,
    ) -> Iterator[tuple]:
        """Streams turns, conversation, problem, cost, and which of the buttons Ask and Stop is there."""
        asked = _chosen(clips, chosen)
        names = tuple(clip.name for clip in asked)
        history = [(turn.answer.question, turn.answer.text) for turn in turns if remembers and turn.clips == names]
        try:
            answers = self.listener.ask(asked, question, lora_scale, int(longest), history)
        except ValueError as error:
            yield turns, markup.conversation(turns), markup.notice(str(error)), gr.skip(), *_buttons(False)
            return
        waiting = Turn(names, Answer(question.strip(), lora_scale))
        yield (*turns, waiting), markup.conversation([*turns, waiting]), "", gr.skip(), *_buttons(True)
        for answer in answers:
            now = (*turns, Turn(names, answer))
            is_last = answer.ending is not None
            cost = markup.cost(asked, answer) if is_last else gr.skip()
            yield now, markup.conversation(now), "", cost, *_buttons(not is_last)

    def stop(self, turns: tuple[Turn, ...]):
        """What is left of the last turn once its event has been cancelled."""
        if turns and turns[-1].answer.ending is None:
            turns = (*turns[:-1], replace(turns[-1], answer=replace(turns[-1].answer, ending="stopped")))
        return turns, markup.conversation(turns), *_buttons(False)

    def compare(
        self,
        clips: tuple[EncodedClip, ...],
        chosen: list[str],
        known: tuple[Turn, ...],
        longest: float,
        question: str,
        scale: float,
    ) -> Iterator[tuple]:
        """Streams the answer as trained, and beside it the one with LoRA at `scale`."""
        yield from self._answer_at((1.0, scale), clips, chosen, known, longest, question)

    def sweep(self, *given) -> Iterator[tuple]:
        """Streams answers from LoRA as trained to LoRA off. Takes what `compare` takes, but for the scale."""
        yield from self._answer_at(SWEEP, *given)

    def _answer_at(self, scales: Sequence[float], clips, chosen, known, longest, question) -> Iterator[tuple]:
        """Answers at `scales`, and those to the same question about the same clips that are known already."""
        asked = _chosen(clips, chosen)
        names, question = tuple(clip.name for clip in asked), question.strip()
        known = tuple(turn for turn in known if turn.clips == names and turn.answer.question == question)
        for scale in scales:
            if any(turn.answer.lora_scale == scale for turn in known):
                continue
            try:
                answers = self.listener.ask(asked, question, scale, int(longest))
            except ValueError as error:
                yield known, self._compared(known), markup.notice(str(error)), gr.skip(), *_buttons(False)
                return
            now = (*known, Turn(names, Answer(question, scale)))
            yield now, self._compared(now), "", gr.skip(), *_buttons(True)
            for answer in answers:
                now = (*known, Turn(names, answer))
                cost = gr.skip() if answer.ending is None else markup.cost(asked, answer)
                yield now, self._compared(now), "", cost, *_buttons(True)
            known = now
        yield known, self._compared(known), "", gr.skip(), *_buttons(False)

    def stop_comparing(self, known: tuple[Turn, ...]):
        known = tuple(turn for turn in known if turn.answer.ending is not None)
        return known, self._compared(known), *_buttons(False)

    @staticmethod
    def _compared(turns: Sequence[Turn]) -> str:
        return markup.comparison(turn.answer for turn in turns)


def _unused_name(name: str, clips: Sequence[EncodedClip]) -> str:
    names, number, unused = {clip.name for clip in clips}, 2, name
    while unused in names:
        unused, number = f"{name} ({number})", number + 1
    return unused


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


def _chosen(clips: Sequence[EncodedClip], names: Sequence[str]) -> list[EncodedClip]:
    return [clip for clip in clips if clip.name in names]


def _buttons(is_running: bool):
    return gr.Button(visible=not is_running), gr.Button(visible=is_running)


def make_example(name: str) -> Path:
    """
    The file of one of the clips of the demo, made on the spot the first time.

    Raises `ValueError` or `OSError` where its source is not to be had.
    """
    path = EXAMPLES / f"{name}.wav"
    if not path.is_file():
        samples = next(clip for clip in DEMO_CLIPS if clip.name == name).make()
        EXAMPLES.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.wav")
        soundfile.write(unfinished, samples, SAMPLING_RATE)
        unfinished.replace(path)
    return path


# ----------------------------------------------------------------------------------------------------------------------
# The page


def build_page(
    listener: Listener, presets: Sequence[Preset], title: str, subtitle: str = "", warning: str = ""
) -> gr.Blocks:
    """
    The page for a model.

    Args:
        listener (`Listener`): the model.
        presets: tasks to ask with one click.
        title: name of the model.
        subtitle: what else is said of it.
        warning: what visitors must know about its answers.
    """
    from demo_salmonn.web_api import add_api

    page, limits = Page(listener), listener.limits
    with gr.Blocks(
        title=f"SALMONN · {title}", analytics_enabled=False, delete_cache=(VISIT_SECONDS, VISIT_SECONDS)
    ) as blocks:
        add_api(listener, presets, MODEL)  # first: later functions of the same names get a number
        clips = gr.State((), time_to_live=VISIT_SECONDS)
        gr.HTML(markup.masthead(INTRODUCTION, title, subtitle) + markup.notice(warning, kind="warning"))
        cost = gr.HTML(markup.cost([], None), elem_id="cost", render=False)
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=5, min_width=300, elem_classes="sheet"):
                picker = _add_clips(page, clips, cost)
            with gr.Column(scale=6, min_width=300, elem_classes="sheet"):
                with gr.Tabs():
                    with gr.Tab("Ask"):
                        longest = _add_questions(page, presets, clips, picker, cost)
                    if listener.has_lora:
                        with gr.Tab("LoRA strength"):
                            _add_comparison(page, presets, clips, picker, cost, longest)
                gr.HTML(markup.heading("Time and tokens"))
                cost.render()
    blocks.queue(max_size=int(limits.waiting), default_concurrency_limit=4)
    return blocks


def _add_clips(page: Page, clips: gr.State, cost: gr.HTML) -> gr.CheckboxGroup:
    """The left side: where clips come from, and what they look like. Returns the choice among them."""
    limits = page.listener.limits
    with gr.Tabs(elem_classes="sources"):
        with gr.Tab("Upload"):
            files = gr.File(
                file_count="multiple",
                file_types=["audio"],
                label="Audio files",
                show_label=False,
                height=92,
                elem_id="upload",
            )
            most = f"Up to {limits.clip_seconds:g} s and {limits.upload_megabytes:g} MB each, {limits.clips:g} clips at once."
            gr.HTML(f'<p class="hint">{most}</p>')
        with gr.Tab("Record"):
            recorder = gr.Audio(
                sources=["microphone"],
                type="filepath",
                format="wav",
                label="Microphone",
                show_label=False,
                elem_id="record",
            )
    with gr.Row(elem_classes="chips"):
        gr.HTML('<span class="chips-label">Or try</span>')
        examples = [(clip.name, gr.Button(clip.name.capitalize(), size="sm")) for clip in DEMO_CLIPS]
    problem = gr.HTML(elem_id="clip-problem")
    picker = gr.CheckboxGroup([], label="Ask about", visible=False, elem_id="picker")
    cards = gr.HTML(markup.clip_cards([]), elem_id="clips")
    remove = gr.Button("Remove clip", size="sm", visible=False, elem_classes="quiet")

    shown, state = [clips, picker, problem, cards, cost, remove], [clips, picker]
    working = {**MODELLED, "show_progress": "minimal", "show_progress_on": cards}
    files.upload(page.add, [files, *state], shown, **working).then(lambda: None, None, files, **SHOWN)
    recorder.stop_recording(page.add_recording, [recorder, *state], shown, **working).then(
        lambda: None, None, recorder, **SHOWN
    )
    for name, button in examples:
        button.click(partial(page.add_example, name), state, shown, **working)
    remove.click(page.remove, state, shown, **SHOWN)
    picker.input(page.choose, state, [cards, cost, remove], **SHOWN)
    return picker


def _add_questions(page: Page, presets, clips, picker, cost) -> gr.Slider:
    """The conversation. Returns the slider of the longest answer, which holds for comparisons too."""
    limits, turns = page.listener.limits, gr.State((), time_to_live=VISIT_SECONDS)
    with gr.Row(elem_classes="chips"):
        chips = [(preset, gr.Button(preset.label, size="sm")) for preset in presets]
    with gr.Row(elem_classes="question"):
        question = gr.Textbox(
            placeholder="Or ask in your own words …",
            label="Question",
            show_label=False,
            container=False,
            max_length=limits.question_characters,
            scale=5,
            elem_id="question",
        )
        ask = gr.Button("Ask", variant="primary", min_width=76, scale=0, elem_id="ask")
        stop = gr.Button("Stop", variant="stop", min_width=76, scale=0, visible=False, elem_id="stop")
    problem = gr.HTML(elem_id="question-problem")
    talk = gr.HTML(markup.conversation([]), elem_id="talk")
    with gr.Accordion("Options", open=False):
        longest = gr.Slider(
            1, int(limits.new_tokens), min(64, int(limits.new_tokens)), step=1, label="Longest answer, in tokens"
        )
        lora_scale = gr.Slider(
            0, 1, 1, step=0.05, label="Strength of LoRA (1 as trained)", visible=page.listener.has_lora
        )
        remembers = gr.Checkbox(
            label="Read earlier turns about the same clips again",
            info="SALMONN was trained on single questions: answers are best without.",
        )
        clear = gr.Button("Clear the conversation", size="sm", elem_classes="quiet")

    given = [clips, picker, turns, lora_scale, longest, remembers]
    shown = [turns, talk, problem, cost, ask, stop]
    events = [
        ask.click(page.ask, [*given, question], shown, **MODELLED),
        question.submit(page.ask, [*given, question], shown, **MODELLED),
    ]
    for preset, button in chips:
        # sent as it is, and shown in the box so that it can be changed and sent again
        button.click(lambda text=preset.question: text, None, question, queue=False, **SHOWN)
        events.append(button.click(_preset(page, preset.question), given, shown, **MODELLED))
    stop.click(page.stop, turns, [turns, talk, ask, stop], cancels=events, **SHOWN)
    clear.click(lambda: ((), markup.conversation([])), None, [turns, talk], **SHOWN)
    return longest


def _add_comparison(page: Page, presets, clips, picker, cost, longest) -> None:
    """Answers side by side at several strengths of LoRA."""
    known = gr.State((), time_to_live=VISIT_SECONDS)
    story = next((preset.question for preset in presets if preset.task == STORY), presets[0].question)
    gr.HTML(f'<p class="explanation">{LORA}</p>')
    question = gr.Textbox(story, label="Question", max_length=page.listener.limits.question_characters)
    scale = gr.Slider(0, 1, 0.25, step=0.05, label="Strength of LoRA, beside 1 (as trained)", elem_id="lora")
    with gr.Row():
        compare = gr.Button("Compare", variant="primary", min_width=110, elem_id="compare")
        stop = gr.Button("Stop", variant="stop", min_width=110, visible=False)
        sweep = gr.Button("Sweep from 1 to 0", min_width=110, elem_id="sweep")
    problem = gr.HTML(elem_id="comparison-problem")
    answers = gr.HTML(markup.comparison([]), elem_id="comparison")

    given, shown = [clips, picker, known, longest, question], [known, answers, problem, cost, compare, stop]
    events = [
        sweep.click(page.sweep, given, shown, **MODELLED),
        compare.click(page.compare, [*given, scale], shown, **MODELLED),
        scale.release(page.compare, [*given, scale], shown, **MODELLED),
    ]
    stop.click(page.stop_comparing, known, [known, answers, compare, stop], cancels=events, **SHOWN)


def _preset(page: Page, question: str):
    # Gradio streams what is a generator function, which a partial is not to it
    def ask(*given):
        yield from page.ask(*given, question=question)

    return ask


def make_theme() -> gr.themes.Base:
    """Calm, of the system's fonts: nothing is fetched from elsewhere."""
    fonts = {
        "font": ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        "font_mono": ["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    }
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", radius_size="lg", spacing_size="md", text_size="md", **fonts
    )


# ----------------------------------------------------------------------------------------------------------------------
# Serving


def load_page(
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    tasks: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> gr.Blocks:
    """
    The page for the SALMONN in the folder (or of the Hub id) `model`, by default for `salmonn-nano`, assembled into the
    cache if it is not there. `tasks` are those of the prompt bank that are offered.
    """
    from cli_salmonn.inference import load
    from demo_salmonn.demo import UNTRAINED, count_parameters, find_nano

    presets = load_presets(tasks or (nano_tasks() if model is None else TASKS))
    folder = find_nano() if model is None else model
    loaded, processor = load(folder, device, dtype)
    warning = UNTRAINED if model is None and not (folder / "adapter_config.json").is_file() else ""
    where = f"{count_parameters(loaded) / 1e6:,.0f} M parameters · {loaded.device} · {loaded.dtype}"
    title = "salmonn-nano" if model is None else str(model).rstrip("/").rsplit("/", maxsplit=1)[-1]
    return build_page(
        Listener(loaded, processor, limits), presets, title, where.replace("torch.", ""), " ".join(warning.split())
    )


def launch_page(page: gr.Blocks, limits: Limits | None = None, **options):
    """Opens a page of [`build_page`] to visitors. `options` are those of `gr.Blocks.launch`."""
    EXAMPLES.mkdir(exist_ok=True)
    settings = {
        "theme": make_theme(),
        "css_paths": HERE / "web.css",
        "head_paths": HERE / "web.html",
        "footer_links": [],
        "max_file_size": int((limits or Limits()).upload_megabytes * 2**20),
        "state_session_capacity": VISITORS,
        "allowed_paths": [str(EXAMPLES)],
        "ssr_mode": False,
        "pwa": False,
    }
    return page.launch(**{**settings, **options})
