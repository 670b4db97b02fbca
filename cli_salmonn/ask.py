# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn ask`: questions to a model about clips, and transcriptions."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace

from cli_salmonn.commands import (
    MAX_BEAMS,
    add_command,
    add_dtype,
    add_speech_tagger,
    check_speech_tagger,
    integer,
    positive_integer,
    real_number,
)
from data_salmonn.transcripts import FORMATS, format_segments, join


EXAMPLES = """\
examples:
  salmonn ask ./salmonn-13b clip.wav
  salmonn ask ./salmonn-13b clip.wav "Is there music in the background?"
  salmonn ask ./salmonn-13b clip.wav -q "Who speaks?" -q "What is it about?"
  salmonn ask ./salmonn-13b one.wav two.wav "Which of the two is louder?"
  salmonn ask ./salmonn-13b recordings/ "Describe the sound." --jsonl > answers.jsonl
  salmonn ask ./salmonn-13b interview.mp3 --format srt > interview.srt
  salmonn ask ./salmonn-13b long.mp3 --format vtt --speech-tagger BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt
  salmonn ask ./salmonn-13b clip.wav "Tell a story about it." --lora-scale 0.5
  salmonn ask ./salmonn-13b clip.wav --head-mask legacy_checkpoints/gender_librispeech/checkpoint.pth
  salmonn ask ./base clip.wav --adapter runs/pretrain/adapter
  salmonn ask runs/pretrain/adapter clip.wav
  salmonn ask ./salmonn-13b questions.jsonl > answers.jsonl

A LoRA scale below 1 gives up some of what fine-tuning taught for freer answers: try it where the model answers every
question with a transcription. docs/ask.md has more.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "ask", "ask a model about clips, or transcribe them", _run, EXAMPLES)
    parser.intermixed = True
    parser.add_argument(
        "model", metavar="MODEL", help="folder or Hub id of a SALMONN, or of an adapter, whose base model it finds"
    )
    parser.add_argument(
        "words",
        metavar="AUDIO",
        nargs="+",
        help="audio files of any length, in one prompt; a folder or a quoted glob, each clip by itself; an http(s) "
        "address; - for standard input; or a manifest (.jsonl, .csv, a folder of one, ...). The last word is the "
        "QUESTION if it is none of these. Without a question, speech is transcribed, or the rows of a manifest are asked "
        "what they say",
    )
    parser.add_argument(
        "-q", "--question", dest="questions", action="append", default=[], metavar="QUESTION", help="may be repeated"
    )
    parser.add_argument("--each", action="store_true", help="ask about each of several clips by itself")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one object with all answers")
    output.add_argument("--jsonl", action="store_true", help="print an object a line for each clip and question")
    output.add_argument("--format", choices=FORMATS, help="print a transcript with times, by segment")
    parser.add_argument("--no-stream", action="store_true", help="print answers whole, on a terminal too")
    add_speech_tagger(parser)
    parser.add_argument(
        "--adapter", metavar="DIR", help="adapter, such as `salmonn train` writes, for a MODEL without one"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive_integer, metavar="N", help="longest answer (default: the model's own)"
    )
    parser.add_argument(
        "--num-beams", type=integer(1, MAX_BEAMS), metavar="N", help="1 is fastest (default: the model's own)"
    )
    parser.add_argument("--lora-scale", type=real_number(0), metavar="X", help="strength of LoRA, 1 is as trained")
    parser.add_argument(
        "--head-mask", metavar="FILE", help="published mask of attention heads (AHAMask), which stands for a question"
    )
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    add_dtype(parser, "default: float32 on a CPU, else the model's own")


def _run(options: argparse.Namespace) -> None:
    from conversion_salmonn.folders import check_adapter, check_model

    check_speech_tagger(options)
    check_model(options.model)
    if options.adapter is not None:
        check_adapter(options.adapter)
    from cli_salmonn.sources import find_sources  # which takes longer to import than these checks

    with tempfile.TemporaryDirectory(prefix="salmonn-") as folder:
        sources = find_sources(options.words, options.questions, options.each, folder)
        if options.head_mask is not None and not sources.questions:
            sources = replace(sources, questions=[""])  # the mask says what to do
        if options.speech_tagger is not None and sources.questions:
            raise ValueError("`--speech-tagger` is for transcripts, and questions are answered: leave out one of them")
        if options.format is not None:
            _check_format(options.format, sources)
        rows = None if sources.manifest is None else _read_rows(sources.manifest)

        as_text = rows is None and not (options.json or options.jsonl or options.format)
        listener = _load(options, stream=as_text and sys.stdout.isatty() and not options.no_stream)
        if options.format is not None:
            _print_transcript(listener, sources.groups[0][0], options.format)
        elif as_text:
            _print_text(listener, sources)
        else:
            found = _ask_clips(listener, sources) if rows is None else _ask_rows(listener, rows, sources.questions)
            _print_json(options.model, found, options.json)


def _check_format(kind: str, sources) -> None:
    if sources.questions or sources.manifest is not None:
        raise ValueError(f"`--format {kind}` is for transcripts of audio files: leave out the question")
    if len(sources.groups) > 1:
        raise ValueError(f"`--format {kind}` writes the transcript of one clip, got {len(sources.groups)} clips")


def _read_rows(manifest) -> list:
    """The rows of a manifest, all of them checked."""
    from data_salmonn.chats import check_single_answer
    from data_salmonn.manifests import read_manifest

    rows = read_manifest(manifest, task="asr", needs_text=False)
    for row in rows:
        check_single_answer({"id": row.id, "messages": row.messages})
    return rows


def _load(options: argparse.Namespace, stream: bool):
    from beats_salmonn import SpeechDetector
    from cli_salmonn import inference
    from conversion_salmonn.loading import choose_device

    device = choose_device(options.device)
    detector = SpeechDetector.from_options(options.speech_tagger, options.no_speech_threshold, device)
    model, processor = inference.load(options.model, options.device, options.dtype, options.adapter)
    head_mask = None
    if options.head_mask is not None:
        from conversion_salmonn.head_masks import load_head_mask

        head_mask = load_head_mask(options.head_mask, model.config.text_config)
    return inference.Listener(
        model,
        processor,
        stream=stream,
        detector=detector,
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        lora_scale=options.lora_scale,
        head_mask=head_mask,
    )


def _print_transcript(listener, clip, kind: str) -> None:
    from cli_salmonn.audio_files import open_clip

    for part in format_segments(listener.transcribe(open_clip(clip.path), clip.name), kind):
        _print(part)


def _print_text(listener, sources) -> None:
    """Answers as text, each below what it is an answer to where there are several."""
    is_first = True
    for group in sources.groups:
        names, clips = _names(group), _read(group, sources.questions)
        answers = listener.answer(clips, sources.questions, names) if sources.questions else None
        for question in sources.questions or [None]:
            heading = [names] * (len(sources.groups) > 1) + [question] * (len(sources.questions) > 1)
            if heading:
                _print(("" if is_first else "\n") + f"# {': '.join(heading)}")
            is_first = False
            text = join(listener.transcribe(clips[0], names)) if answers is None else next(answers)
            if listener.streamer is None:
                _print(text)


def _ask_clips(listener, sources) -> Iterator[dict]:
    """An object for each group of clips and question."""
    from tqdm.auto import tqdm

    hidden = True if len(sources.groups) == 1 else None  # or else if stderr is no terminal
    for group in tqdm(sources.groups, desc="Asking", unit="clip", leave=False, disable=hidden):
        names, clips = _names(group), _read(group, sources.questions)
        audio = names if len(group) == 1 else [clip.name for clip in group]
        if not sources.questions:
            segments = list(listener.transcribe(clips[0], names))
            times = [vars(segment) for segment in segments]
            yield {"audio": audio, "question": None, "answer": join(segments), "segments": times}
            continue
        for question, answer in zip(sources.questions, listener.answer(clips, sources.questions, names)):
            yield {"audio": audio, "question": question, "answer": answer}


def _ask_rows(listener, rows, questions: list[str]) -> Iterator[dict]:
    """An object for each row of a manifest: `questions`, or else what the row or its task asks, or a transcription."""
    from tqdm.auto import tqdm

    from data_salmonn.audio import open_audio, read_audio
    from data_salmonn.prompts import PromptBank

    bank = PromptBank.load()
    for row in tqdm(rows, desc="Asking", unit="row", leave=False, disable=None):
        own = row.question if row.task == "asr" else bank.test_prompt(row.task, row.question)
        asked, paths = questions or [own], list(row.paths)
        if asked == [None]:
            answers = [join(listener.transcribe(open_audio(paths), row.id))]
        else:
            answers = listener.answer([read_audio(paths)], asked, row.id)
        for question, answer in zip(asked, answers):
            yield {"id": row.id, "question": question, "answer": answer}


def _print_json(model: str, answers: Iterator[dict], as_one: bool) -> None:
    if as_one:
        _print(json.dumps({"model": model, "answers": list(answers)}, ensure_ascii=False, indent=2))
        return
    for answer in answers:
        _print(json.dumps(answer, ensure_ascii=False))


def _read(group, questions: list[str]) -> list:
    """The samples of clips that are asked about. One that is transcribed is read piece by piece."""
    from cli_salmonn.audio_files import open_clip, read_clip

    return [read_clip(clip.path) if questions else open_clip(clip.path) for clip in group]


def _names(group) -> str:
    return ", ".join(clip.name for clip in group)


def _print(text: str) -> None:
    """A line on standard output, at once, and clear of a progress bar on the same terminal."""
    from tqdm.auto import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
