# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What every refusal of bad input has in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_salmonn.main import main


LONGEST_MESSAGE = 4000  # characters: nobody reads more, and clips and files must not come back in a message


@contextmanager
def refuses(argument: str, *words: str) -> Iterator[None]:
    """The block must raise a `ValueError`, `TypeError` or `OSError` whose message names `argument` and has `words`."""
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        yield
    message = str(caught.value)
    for word in (argument, *words):
        assert word in message, f"{word!r} is not in {message[:500]!r}"
    assert len(message) <= LONGEST_MESSAGE, f"{len(message)} characters"


def refuses_command(capsys, arguments: list[str], argument: str, folder: Path) -> None:
    """`salmonn ARGUMENTS` must end with status 2 and name `argument` in its last line, and write nothing in `folder`."""
    before = tree(folder)
    try:
        status = main([str(part) for part in arguments])
    except SystemExit as error:  # argparse
        status = error.code
    error = capsys.readouterr().err.strip()
    assert status == 2, error
    assert "Traceback" not in error
    assert argument in error, f"{argument!r} is not in {error[-800:]!r}"
    assert tree(folder) == before


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Names of all files below `folder`, hidden ones included, with their sizes and times."""
    return {
        str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
