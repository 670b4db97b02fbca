# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn transcribe`: a whole corpus is transcribed, or asked, by an engine."""

import argparse

from cli_salmonn.commands import (
    add_command,
    add_dtype,
    add_speech_tagger,
    check_speech_tagger,
    name_and_value,
    positive_integer,
)


EXAMPLES = """\
examples:
  salmonn transcribe ./salmonn-13b corpus.jsonl --output transcripts.jsonl
  salmonn transcribe ./salmonn-13b corpus.csv --output music.parquet --question "Is there music? Answer yes or no."
  accelerate launch -m cli_salmonn transcribe ./salmonn-13b corpus.jsonl --output transcripts.parquet
  salmonn transcribe ./merged corpus.jsonl --output transcripts.jsonl --engine vllm
  salmonn transcribe ./salmonn-13b corpus.jsonl --output transcripts.jsonl --engine ray --workers 8

The same command goes on where it was interrupted. Each row of the manifest is in the output once, by its id, and a clip that
cannot be read has an error in the place of an answer. docs/engines.md says which engine is for what.
"""


def add_parser(commands) -> None:
    parser = add_command(commands, "transcribe", "transcribe a corpus, or ask a question about it", _run, EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a SALMONN, or of an adapter")
    parser.add_argument(
        "manifest", metavar="MANIFEST", help="a row a clip: .jsonl, .csv, a folder of one, ... (docs/data.md)"
    )
    parser.add_argument("--output", required=True, metavar="OUT", help="file to write, .jsonl or .parquet")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, whatever OUT and its work hold")
    parser.add_argument(
        "-q",
        "--question",
        metavar="QUESTION",
        help="ask it of all rows (default: what each row asks, or a transcription)",
    )
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm", "ray"),
        default="transformers",
        help="transformers: a process, or those that accelerate launch starts; vllm: a merged model; ray: workers of a "
        "cluster (default: transformers)",
    )
    parser.add_argument(
        "--batch-size", type=positive_integer, metavar="N", help="clips answered together (default: 8, of vLLM 256)"
    )
    parser.add_argument(
        "--workers", type=positive_integer, metavar="N", help="of Ray (default: one for each GPU, or 1)"
    )
    add_speech_tagger(parser)
    parser.add_argument("--adapter", metavar="DIR", help="adapter for a MODEL without one")
    parser.add_argument(
        "--max-new-tokens", type=positive_integer, metavar="N", help="longest answer (default: the model's own)"
    )
    parser.add_argument(
        "--num-beams", type=positive_integer, metavar="N", help="1 is fastest (default: the model's own)"
    )
    parser.add_argument(
        "--engine-option",
        dest="engine_options",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="argument of vllm.LLM, such as max_model_len=4096; may be repeated",
    )
    parser.add_argument("--device", help="such as cuda or cpu (default: cuda if there is one)")
    add_dtype(parser, "default: float32 on a CPU, else the model's own")


def _run(options: argparse.Namespace) -> int:
    from conversion_salmonn.folders import check_adapter, check_model

    check_speech_tagger(options)
    check_model(options.model)
    if options.adapter is not None:
        check_adapter(options.adapter)
    from serving_salmonn.corpus import answer_corpus  # which takes longer to import than these checks

    summary = answer_corpus(
        options.model,
        options.manifest,
        options.output,
        question=options.question,
        engine=options.engine,
        batch_size=options.batch_size,
        workers=options.workers,
        overwrite=options.overwrite,
        adapter=options.adapter,
        device=options.device,
        dtype=options.dtype,
        generation={"max_new_tokens": options.max_new_tokens, "num_beams": options.num_beams},
        engine_options=dict(options.engine_options),
        speech_tagger=options.speech_tagger,
        no_speech_threshold=options.no_speech_threshold,
    )
    if summary is None:  # one of several processes, of which the first speaks
        return 0
    if summary.answered_now:
        hours = summary.seconds_now / 3600
        print(
            f"answered {summary.answered_now} rows, {hours:.2f} hours of audio, in {summary.wall_seconds:.0f} s: "
            f"{summary.hours_an_hour:.1f} hours of audio an hour"
        )
    print(
        f"wrote {options.output}: {summary.rows} rows"
        + (f", {summary.errors} of them errors" if summary.errors else "")
    )
    return 0
