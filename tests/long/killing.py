# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Jobs in processes of their own, which are killed at random moments and started again."""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock


KILLS = int(os.environ.get("SALMONN_KILLS", "20"))
SEED = int(os.environ.get("SALMONN_SEED", random.SystemRandom().randrange(2**31)))

# Processes that have imported what they need before they are forked: importing it takes longer than a job.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["killed_jobs"])


@dataclass
class Job:
    """
    What is killed, and how its result is known.

    Args:
        work: does the job; called with `folder`, in a process of its own. Called again, it goes on, or does nothing if all is done.
        folder: what the job writes into. Removed before it is begun anew.
        check: raises if what is in the folder it is given, after a kill, is neither absent nor whole.
        compare: raises if the folder in its first argument is not as that of the second, which nothing interrupted.
    """

    work: Callable[[Path], object]
    folder: Path
    check: Callable[[Path, Path], object]
    compare: Callable[[Path, Path], object]


def survive(job: Job, kills: int = KILLS) -> str:
    """
    Kills the job so many times, at moments drawn over the time that it takes, and starts it again each time. Where it
    ends before its kill, its result is compared and it begins anew. Returns what happened, in a sentence.
    """
    print(f"SALMONN_SEED={SEED}")
    draw = random.Random(SEED)
    whole = job.folder.with_name("whole")
    log = job.folder.with_name("job.log")
    for _ in range(2):  # what the first one reads is in memory for the second
        shutil.rmtree(whole, ignore_errors=True)
        seconds = finish(job.work, whole, log)

    done, finished = 0, 0
    job.folder.mkdir()
    while done < kills:
        if _run(job, log, draw.uniform(0, seconds)):
            job.compare(job.folder, whole)
            finished += 1
            shutil.rmtree(job.folder)
            job.folder.mkdir()
        else:
            done += 1
            job.check(job.folder, whole)
    assert _run(job, log)
    job.compare(job.folder, whole)
    return f"{done} kills within {seconds:.2f} s, {finished + 1} times to the end"


def finish(work: Callable[[Path], object], folder: Path, log: Path) -> float:
    """Does a job to its end, and returns the seconds from its begin."""
    process = _start(work, folder, log)
    begun = time.monotonic()
    process.join()
    assert process.exitcode == 0, log.read_text()[-3000:]
    return time.monotonic() - begun


def _run(job: Job, log: Path, seconds: float | None = None) -> bool:
    """Whether the job comes to its end before it is killed, which is after `seconds` from its begin."""
    process = _start(job.work, job.folder, log)
    process.join(seconds)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL), log.read_text()[-3000:]
    return process.exitcode == 0


def _start(work, folder: Path, log: Path):
    """A process that has begun to work."""
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # some Pythons preload without `sys.path`
        forkserver.ensure_running()
    parent, child = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_work, args=(work, folder, log, child))
    process.start()
    child.close()
    assert parent.recv() == "begun"
    return process


def _work(work, folder: Path, log: Path, connection) -> None:
    with open(log, "w", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
        connection.send("begun")
        sys.exit(0 if work(folder) is not False else 1)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
