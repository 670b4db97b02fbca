# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Long work before training starts, of which one of several processes does all."""

import time
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState


WAIT_SECONDS = 0.5


def make_once(path: Path, make: Callable[[], object]) -> Path:
    """
    Lets the first of several processes `make` the file `path`, unless it is there, and the others wait for it.

    They look for the file, however long that takes: a barrier, such as that of `main_process_first`, gives up after
    `ddp_timeout`, which is half an hour. `make` must put the file in place when it is whole, with `os.replace`. Whoever
    started the processes ends them all when one fails, as torchrun does.
    """
    if PartialState().is_main_process:
        if not path.is_file():
            make()
    else:
        while not path.is_file():
            time.sleep(WAIT_SECONDS)
    return path
