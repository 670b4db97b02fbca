# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A corpus is asked: every row of a manifest once, by an engine, into one file.

    answer_corpus("./salmonn-13b", "manifest.jsonl", "transcripts.parquet")

    OUT.work/job.json           while it goes on: what is asked of what. A job that goes on must ask the same
    OUT.work/journal-NNN.jsonl  the answers so far, of each process
    OUT                         at its end: all answers, in the order of the manifest

Batches are made of the whole manifest, longest clips first, before it is known which of them are done or who takes them: so
neither a kill nor the number of workers changes what stands together. A batch is in the journal as a whole or is made
again, and a row is in OUT once, whatever was made twice.
"""

import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from data_salmonn.chats import check_single_answer
from data_salmonn.files import whole_file, write_json
from data_salmonn.journals import Journal, drop_cut_line, read_journals
from data_salmonn.json_text import digest_bytes, read_object, read_object_lines, to_json
from data_salmonn.manifests import read_manifest
from data_salmonn.prompts import PromptBank


logger = logging.getLogger(__name__)

ENDINGS = (".jsonl", ".parquet")
COLUMNS = ("id", "question", "answer", "segments", "seconds", "error")
JOB = "job.json"


@dataclass(frozen=True)
class Item:
    """A row that is to be answered; without a `question` it is transcribed. `seconds` are those of its clips together."""

    id: str
    paths: tuple[str, ...]
    question: str | None
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What a job came to. `seconds` are those of the audio, `wall_seconds` those that this part of the job took."""

    rows: int
    answered_now: int
    seconds_now: float
    wall_seconds: float
    errors: int

    @property
    def hours_an_hour(self) -> float:
        return self.seconds_now / max(self.wall_seconds, 1e-9)


def answer_corpus(
    model: str | Path,
    manifest: str | Path,
    output: str | Path,
    *,
    question: str | None = None,
    engine: str = "transformers",
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    adapter: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    generation: dict | None = None,
    engine_options: dict | None = None,
    speech_tagger: str | Path | None = None,
    no_speech_threshold: float | None = None,
) -> Summary | None:
    """
    Answers every row of a manifest and writes `output`. Called again after a kill, it makes what is missing.

    Args:
        model (`str` or `Path`): folder or Hub id of a SALMONN or of an adapter; without an adapter for `engine="vllm"`.
        manifest (`str` or `Path`): as [`read_manifest`] takes it; rows need no answers.
        output (`str` or `Path`): file to write, JSON lines or Parquet by its ending. Columns: `id`, `question`, `answer`,
            `segments` of transcriptions (`start`, `end`, `text`), `seconds`, and `error` where a clip could not be read.
        question (`str`, *optional*): what to ask of all rows. Unless given, what each row asks, or a transcription.
        engine (`str`): `"transformers"`, one process or as many as `accelerate launch` starts; `"vllm"`; or `"ray"`.
        batch_size (`int`, *optional*): clips, or pieces of long ones, that are answered together. 8, and 256 for vLLM, which
            makes batches of its own.
        workers (`int`, *optional*): actors of Ray, each with a device of its own. As many as there are GPUs, or 1.
        overwrite (`bool`): begin anew where there is an output already.
        adapter, device, dtype: as for [`load_with_adapter`]; the device is not for Ray, which assigns it.
        generation (`dict`, *optional*): arguments of `generate`, of which vLLM takes `max_new_tokens` only.
        engine_options (`dict`, *optional*): arguments of `vllm.LLM`, such as `max_model_len`.
        speech_tagger (`str` or `Path`, *optional*): a BEATs with a classifier, see [`~beats_salmonn.SpeechDetector`]: pieces in
            which it hears no speech are not transcribed, and their text is empty.
        no_speech_threshold (`float`, *optional*): how sure it must be that nothing is said.

    Returns:
        [`Summary`], and `None` in all of several processes but the first.

    Raises:
        ValueError: before anything is loaded, on a bad manifest, on ids that are not unique, on arguments that the engine
            cannot take, and where `output` or its work is of another job.
    """
    from serving_salmonn.answerers import Settings
    from serving_salmonn.engines import ENGINES

    if engine not in ENGINES:
        raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if question is not None and not question.strip():
        raise ValueError("`question` must not be empty.")
    if no_speech_threshold is not None and speech_tagger is None:
        raise ValueError("`no_speech_threshold` needs a `speech_tagger`, whose scores it is for.")
    output = Path(output)
    if output.suffix not in ENDINGS:
        raise ValueError(f"`output` must end in {' or '.join(ENDINGS)}, got {output}.")
    if output.suffix == ".parquet":
        _import_parquet()  # which may be missing
    settings = Settings(
        model=str(model),
        adapter=None if adapter is None else str(adapter),
        device=device,
        dtype=dtype,
        batch_size=batch_size or ENGINES[engine].batch_size,
        workers=workers,
        generation={name: value for name, value in (generation or {}).items() if value is not None},
        engine_options=engine_options or {},
        speech_tagger=None if speech_tagger is None else str(speech_tagger),
        no_speech_threshold=no_speech_threshold,
    )
    runner = ENGINES[engine](settings)  # which checks them
    items = read_items(manifest, question)
    return _run(runner, items, output, engine, overwrite)


def read_items(manifest: str | Path, question: str | None = None) -> list[Item]:
    """The rows of a manifest, all of them checked, with what to ask: `question`, or else what each row asks."""
    rows = read_manifest(manifest, task="asr", needs_text=False)
    for row in rows:
        check_single_answer({"id": row.id, "messages": row.messages})
    repeated = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if repeated:
        raise ValueError(f"`manifest` must have an `id` of its own in each row, got {repeated[0]!r} more than once.")
    bank = PromptBank.load()
    items = []
    for row in rows:
        own = row.question if row.task == "asr" else bank.test_prompt(row.task, row.question)
        items.append(Item(row.id, row.paths, question or own, round(row.length, 3)))
    return items


def make_batches(items: Sequence[Item], batch_size: int, piece_seconds: float) -> list[list[Item]]:
    """
    All items, longest first: so the first batch shows whether memory is enough, and little is padding. A batch has at most
    `batch_size` pieces of `piece_seconds`, or one item.
    """
    batches: list[list[Item]] = []
    room = 0
    for item in sorted(items, key=lambda item: (-item.seconds, item.question or "", item.id)):
        pieces = max(1, -int(-item.seconds // piece_seconds))
        if pieces > room:
            batches.append([])
            room = batch_size
        batches[-1].append(item)
        room -= pieces
    return batches


def _run(runner, items: list[Item], output: Path, engine: str, overwrite: bool) -> Summary | None:
    """Answers what is missing and writes `output`, in each of the processes of `runner`."""
    work = output.with_name(output.name + ".work")
    job = {"engine": engine, **runner.settings.describe(), "rows": len(items), "digest": _digest(items)}
    if runner.is_main:
        _prepare(output, work, job, items, overwrite)
    runner.wait()
    if runner.gather([output.is_file()])[0]:  # `_prepare` has seen that it is that of this job
        return _summarize(items, read_output(output), [], 0.0) if runner.is_main else None

    batches = make_batches(items, runner.settings.batch_size, runner.piece_seconds)
    done = {row["id"] for row in runner.gather(list(read_journals(work).values()))}
    pending = [batch for batch in batches if not all(item.id in done for item in batch)]
    mine = pending[runner.process :: runner.processes]
    work.mkdir(parents=True, exist_ok=True)  # on each machine
    journal, start, rows_now, seconds_now = Journal(work, runner.process), time.monotonic(), 0, 0.0
    with tqdm(
        total=sum(map(len, mine)), desc=f"Answering on {engine}", unit="row", disable=None if runner.is_main else True
    ) as bar:
        for answers in runner.answer(mine) if mine else ():
            journal.append(answers)
            rows_now += len(answers)
            seconds_now += sum(row["seconds"] for row in answers)
            bar.update(len(answers))
            bar.set_postfix_str(f"{seconds_now / (time.monotonic() - start):.1f} h of audio an hour")
    runner.wait()
    wall_seconds = time.monotonic() - start
    rows = {row["id"]: row for row in runner.gather(list(read_journals(work).values()))}
    totals = runner.gather([(rows_now, seconds_now)])
    if runner.is_main:
        missing = [item.id for item in items if item.id not in rows]
        if missing:
            raise RuntimeError(
                f"{len(missing)} rows have no answer, such as {missing[0]!r}: another job has taken {work}"
            )
        write_output(output, [rows[item.id] for item in items])
    runner.wait()
    shutil.rmtree(work, ignore_errors=True)
    return _summarize(items, rows.values(), totals, wall_seconds) if runner.is_main else None


def _summarize(
    items: list[Item], rows: Iterable[dict], totals: list[tuple[int, float]], wall_seconds: float
) -> Summary:
    """`totals` are the rows and seconds that each process has answered now."""
    errors = sum(row["error"] is not None for row in rows)
    return Summary(len(items), sum(n for n, _ in totals), sum(s for _, s in totals), wall_seconds, errors)


def _prepare(output: Path, work: Path, job: dict, items: list[Item], overwrite: bool) -> None:
    """The folder of the work, with what is asked. Raises `ValueError` if there is other work, or another output."""
    if overwrite:
        output.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
    if output.exists():
        found = [(row["id"], row["question"]) for row in read_output(output)]
        if found != [(item.id, item.question) for item in items]:
            raise ValueError(
                f"`output` {output} holds answers to other rows or questions: name another, or overwrite it."
            )
        logger.warning("%s has all answers already", output)
        shutil.rmtree(work, ignore_errors=True)  # a kill may have left it
        return
    if (work / JOB).is_file():
        before = read_object(work / JOB)
        changed = sorted(name for name in job.keys() | before.keys() if job.get(name) != before.get(name))
        if changed:
            raise ValueError(
                f"`output` {output} was begun otherwise, with {', '.join(f'{name}={before.get(name)!r}' for name in changed)}: "
                "go on with that, name another, or overwrite it."
            )
        for path in work.glob("journal-*.jsonl"):  # of more processes than there are now, too
            drop_cut_line(path)
        return
    write_json(work / JOB, job)


def _digest(items: Sequence[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(digest_bytes(json.dumps(asdict(item), ensure_ascii=False)))
    return digest.hexdigest()[:16]


def write_output(output: Path, rows: list[dict]) -> None:
    """Writes rows of [`COLUMNS`] to a file that appears whole or not at all."""
    with whole_file(output) as unfinished:
        if output.suffix == ".jsonl":
            with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(to_json(row) + "\n" for row in rows)
            return
        pyarrow, parquet = _import_parquet()
        types = dict.fromkeys(COLUMNS, pyarrow.string()) | {"seconds": pyarrow.float64()}
        segment = {"start": pyarrow.float64(), "end": pyarrow.float64(), "text": pyarrow.string()}
        types["segments"] = pyarrow.list_(pyarrow.struct(segment))
        table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(types))
        parquet.write_table(table, unfinished)


def read_output(output: Path) -> Iterator[dict]:
    """The rows of a file that [`write_output`] has written."""
    if output.suffix == ".jsonl":
        yield from read_object_lines(output)
        return
    yield from _import_parquet()[1].read_table(output).to_pylist()


def _import_parquet():
    from data_salmonn.extras import needs_extra

    with needs_extra("train"):
        import pyarrow
        from pyarrow import parquet
    return pyarrow, parquet
