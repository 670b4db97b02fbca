# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Runs the steps of a chain in a folder: what is done is skipped, what was interrupted goes on, and what has other inputs
now is made anew.

    build/chain/NAME.json   of each step: its digest, its time so far, and, written last, when it was finished
    build/...               what the steps make

Each command is a process of its own. The wall and CPU time of a step are those of all its processes, over all runs that
it took: they are noted every few seconds, so that even a machine that is switched off loses no more than that.
"""

import json
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from data_salmonn.files import write_json
from data_salmonn.json_text import read_object
from nano_salmonn.chain import Step, check_name, find_dependents


RECORDS = "chain"  # folder of the records
LOCK = "build.lock"
NOTE_SECONDS = 5.0
# So long a command that is told to end may take, for the file that it is writing, before it is killed.
PATIENCE_SECONDS = 60.0

# Starts a command in a folder, with so many processes, and returns what `subprocess.Popen` does.
Start = Callable[[Sequence[str], Path, int], subprocess.Popen]


class CommandError(RuntimeError):
    """A command of a step has failed. What it did stays: the same build goes on from there."""


@dataclass
class Record:
    """
    How far a step is. Times are in seconds, over all runs of the step.

    `process` is the command that works on it now, by number and start.
    """

    digest: str
    about: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    runs: int = 0
    commands: list[str] = field(default_factory=list)
    commands_done: int = 0
    process: tuple[int, float] | None = None
    finished: str | None = None


class Build:
    """
    A folder in which a chain is run.

    Args:
        folder: Where it is, or is to be.
        steps: The chain, see [`read_chain`].
        start: Starts a command, given as its words after `salmonn`.
        processes: Of a step that is parallel.
    """

    def __init__(self, folder: str | Path, steps: Mapping[str, Step], start: Start, processes: int = 1):
        if processes < 1:
            raise ValueError(f"`processes` must be at least 1, got {processes}.")
        self.folder, self.steps, self.start, self.processes = Path(folder).absolute(), steps, start, processes
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"`folder` must be a folder, got the file {self.folder}.")

    # ------------------------------------------------------------------------------------------------------------------
    # What is done

    def record(self, step: Step) -> Record | None:
        """
        What is known of a step, with whatever inputs it was run; `None` if it was not.

        Raises `ValueError` on a file that is no record.
        """
        path = self._record_file(step)
        if not path.is_file():
            return None
        try:
            return Record(**read_object(path))
        except TypeError as error:
            raise ValueError(f"{path} must be the record of a step: {error}.") from error

    def is_done(self, step: Step) -> bool:
        """Whether a step was finished with the inputs that it has now, and what it makes is there."""
        record = self.record(step)
        is_finished = record is not None and record.digest == step.digest and record.finished is not None
        return is_finished and all((self.folder / path).exists() for path in step.makes)

    def find_work(self, until: str | None = None, again_from: str | None = None) -> list[Step]:
        """
        The steps that are not done, in their order, up to and with `until`; with `again_from` also those that were, of
        this step and all that need it.
        """
        again = set() if again_from is None else find_dependents(self.steps, again_from)
        wanted = list(self.steps.values())
        if until is not None:
            check_name(self.steps, until)
            wanted = wanted[: list(self.steps).index(until) + 1]
        return [step for step in wanted if step.name in again or not self.is_done(step)]

    def find_stale(self) -> list[tuple[Step, Record]]:
        """Steps that were finished or begun with other inputs than they have now."""
        records = [(step, self.record(step)) for step in self.steps.values()]
        return [(step, record) for step, record in records if record is not None and record.digest != step.digest]

    def remaining_minutes(self, work: Sequence[Step]) -> float:
        """
        What `work` will take, by the minutes that the chain says: less what was done of steps that were interrupted, and
        corrected by what finished steps took, the more so the more of the chain they are.
        """
        finished = [
            (step, self.record(step)) for step in self.steps.values() if step not in work and self.is_done(step)
        ]
        said, left = (sum(map(self._said_seconds, steps)) for steps in ([step for step, _ in finished], work))
        ratio = (sum(record.wall for _, record in finished) + left) / max(1e-9, said + left)
        seconds = 0.0
        for step in work:
            record, expected = self.record(step), self._said_seconds(step) * ratio
            is_begun = record is not None and record.digest == step.digest and record.finished is None
            seconds += max(0.05 * expected, expected - (record.wall if is_begun else 0.0))
        return seconds / 60

    def _said_seconds(self, step: Step) -> float:
        return 60 * step.minutes / (self.processes if step.parallel else 1)

    def status(self) -> list[dict[str, Any]]:
        """A row a step: `step`, `about`, `state`, `wall` and `cpu` in seconds, `minutes` that the chain says."""
        rows = []
        for step in self.steps.values():
            record = self.record(step)
            state = "to do"
            if record is not None and record.digest != step.digest:
                state = "other inputs"
            elif self.is_done(step):
                state = "done"
            elif record is not None and record.finished is None:
                state = "running" if _find_process(record) else "interrupted"
            times = {"wall": record.wall, "cpu": record.cpu} if record else {"wall": 0.0, "cpu": 0.0}
            rows.append({"step": step.name, "about": step.about, "state": state, **times, "minutes": step.minutes})
        return rows

    # ------------------------------------------------------------------------------------------------------------------
    # Doing it

    def run(self, until: str | None = None, again_from: str | None = None, redo: bool = False) -> None:
        """
        Does what is not done.

        Args:
            until: The last step to do; all by default.
            again_from: A step that is done anew even if it is done, with all that need it.
            redo: Whether steps that were done with other inputs may be done anew. What they made is deleted first.

        Raises `ValueError` if steps would have to be done anew and `redo` is not given, if another build works in the
        folder, and [`CommandError`] if a command fails.
        """
        work = self.find_work(until, again_from)
        stale = [(step, record) for step, record in self.find_stale() if step in work]
        if stale and not redo:
            hours = sum(record.wall for _, record in stale) / 3600
            raise ValueError(
                f"{len(stale)} steps in {self.folder} were run with other inputs, {hours:.1f} hours of work: "
                f"{', '.join(step.name for step, _ in stale)}. Set `redo` (--redo) to do them anew, or name another "
                "folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock(), _end_on_signal():
            self._check_orphans()
            if again_from is not None:
                for name in find_dependents(self.steps, again_from):
                    self._forget(self.steps[name])
            for step in work:
                tqdm.write(self._describe(step), file=sys.stderr)
                self._do(step)

    def _describe(self, step: Step) -> str:
        """A bar of the whole chain, which step comes, and how long all that is left will take."""
        left = self.find_work()
        minutes, place = self.remaining_minutes(left), list(self.steps).index(step.name) + 1
        total = sum(map(self._said_seconds, self.steps.values()))
        done = total - sum(map(self._said_seconds, left))
        bar = tqdm.format_meter(done, total, 0, bar_format="{percentage:3.0f}%|{bar:20}|")
        return (
            f"{bar} step {place} of {len(self.steps)}, {step.name}: {step.about} "
            f"(about {format_time(60 * minutes)} left in all)"
        )

    def _do(self, step: Step) -> None:
        record = self.record(step)
        if record is None or record.digest != step.digest or record.finished is not None:
            self._forget(step)
            record = Record(step.digest, step.about)
        record.runs, record.process = record.runs + 1, None
        commands = step.commands(self.processes)
        record.commands = [shlex.join(["salmonn", *words]) for words in commands]
        with self._timed(step, record):
            for words in commands[record.commands_done :]:
                self._run_command(step, record, words)
                record.commands_done += 1
        missing = [path for path in step.makes if not (self.folder / path).exists()]
        if missing:
            raise CommandError(f"step {step.name} has not made {', '.join(missing)}.")
        for path in step.scratch:
            _remove(self.folder / path)
        record.process, record.finished = None, datetime.now(UTC).isoformat(timespec="seconds")
        self._note(step, record)

    @contextmanager
    def _timed(self, step: Step, record: Record) -> Iterator[None]:
        """Adds the time inside to the record, even if what is inside fails."""
        before, wall, cpu = (time.monotonic(), _cpu_of_children()), record.wall, record.cpu
        self._note(step, record)
        try:
            yield
        finally:
            record.wall = wall + time.monotonic() - before[0]
            # the last note is all that is known of processes that this one has not waited for
            record.cpu = max(record.cpu, cpu + _cpu_of_children() - before[1])
            record.process = None
            self._note(step, record)

    def _run_command(self, step: Step, record: Record, words: Sequence[str]) -> None:
        wall, cpu, begun = record.wall, record.cpu, time.monotonic()
        process = self.start(words, self.folder, self.processes if step.parallel else 1)
        try:
            watched = psutil.Process(process.pid)
            record.process = (process.pid, watched.create_time())
            status = None
            while status is None:
                record.wall, record.cpu = wall + time.monotonic() - begun, cpu + _cpu_of_tree(watched)
                self._note(step, record)
                try:
                    status = process.wait(timeout=NOTE_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
        except BaseException:
            _end(process)
            raise
        if status != 0:
            raise CommandError(f"step {step.name}: `salmonn {' '.join(words)}` failed with exit status {status}.")

    def _forget(self, step: Step) -> None:
        """Removes what a step has made and its record, which tells that it is there, first."""
        self._record_file(step).unlink(missing_ok=True)
        for path in (*step.makes, *step.scratch):
            _remove(self.folder / path)

    def _record_file(self, step: Step) -> Path:
        return self.folder / RECORDS / f"{step.name}.json"

    def _note(self, step: Step, record: Record) -> None:
        write_json(self._record_file(step), asdict(record))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                yield
        except Timeout:
            raise ValueError(f"another build works in {self.folder}.") from None

    def _check_orphans(self) -> None:
        """Raises `ValueError` if a command still runs whose build was killed: two must not write the same files."""
        for step in self.steps.values():
            record = self.record(step)
            if record is not None and (process := _find_process(record)) is not None:
                raise ValueError(
                    f"process {process.pid} of a build that was killed still works on step {step.name} in "
                    f"{self.folder}: wait for it, or end it."
                )


def start_command(
    words: Sequence[str], folder: Path, program: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen:
    """Starts `program` with `words` in `folder`."""
    return subprocess.Popen([*program, *words], cwd=folder, env=dict(environment))


def read_times(folder: str | Path) -> list[dict[str, Any]]:
    """The records of all steps that were finished in the folder of a build: `step`, and the fields of [`Record`]."""
    files = sorted(Path(folder, RECORDS).glob("*.json"))
    rows = [{"step": file.stem, **json.loads(file.read_text(encoding="utf-8"))} for file in files]
    return sorted((row for row in rows if row["finished"]), key=lambda row: row["finished"])


def format_time(seconds: float) -> str:
    """`3 h 20 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


# ----------------------------------------------------------------------------------------------------------------------
# Processes


def _cpu_of_children() -> float:
    """CPU seconds of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_of_tree(process: psutil.Process) -> float:
    """CPU seconds of a running process, its children, and those that these have waited for."""
    total = 0.0
    try:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.Error:  # one has ended meanwhile: the next note has it
        pass
    return total


def _find_process(record: Record) -> psutil.Process | None:
    """The process that works on a step, if it runs."""
    if record.process is None:
        return None
    try:
        process = psutil.Process(record.process[0])
        is_same = abs(process.create_time() - record.process[1]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        return process if is_same else None
    except psutil.Error:
        return None


def _end(process: subprocess.Popen) -> None:
    """Ends a command and its workers, and waits for them."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.Error:
        family = []
    process.terminate()
    try:
        process.wait(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in family:
        try:
            one.kill()
        except psutil.Error:
            pass


@contextmanager
def _end_on_signal() -> Iterator[None]:
    """Inside, SIGTERM is as Ctrl-C: the command that runs is ended before this process ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
