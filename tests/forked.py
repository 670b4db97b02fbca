# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Commands of `salmonn` in several processes, in the environment that torchrun gives them."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from fsdp_on_cpu import shard_across_cpus

from cli_salmonn.main import main


# Processes that have imported what they need before they are forked: importing it takes longer than a run.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cli_salmonn.main", "training_salmonn.run", "tiny_training"])


def run_forked(arguments: Sequence[str], processes: int, folder: Path, with_fsdp: bool = False) -> list[str]:
    """Runs a command in so many processes and returns what each said on stdout. What they log stands in `folder`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    running, logs = [], []
    for rank in map(str, range(processes)):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
        environment = environment | sizes if processes > 1 else {}
        logs.append(folder / f"process-{rank}.log")
        running.append(PROCESSES.Process(target=_work, args=(list(arguments), environment, with_fsdp, logs[-1])))
        running[-1].start()
    for process, log in zip(running, logs, strict=True):
        process.join(timeout=600)
        assert process.exitcode == 0, log.read_text()[-3000:]
    return [log.with_suffix(".out").read_text() for log in logs]


def _work(arguments: list[str], environment: dict[str, str], with_fsdp: bool, log: Path) -> None:
    os.environ.update(environment)
    with (
        open(log, "w", encoding="utf-8") as errors,
        open(log.with_suffix(".out"), "w", encoding="utf-8") as answers,
        redirect_stderr(errors),
        redirect_stdout(answers),
    ):
        if with_fsdp:
            shard_across_cpus()
        status = main(arguments)
    sys.exit(status)
