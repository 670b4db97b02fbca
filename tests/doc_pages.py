# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Runs the shell and Python blocks of a Markdown page as a reader would, one after the other, in one folder.

A block that cannot run here is marked on the line before: `<!-- not run: reason -->`. In its place the commands of
`salmonn` in it are held against the command line's parser, so that it cannot grow old unseen.
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from cli_salmonn.main import build_parser, main


ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run:((?:(?!-->).)*)-->\n\Z", re.DOTALL)
SHELL = "bash"
# so that the project need not be installed
SALMONN = 'salmonn() { python -m cli_salmonn "$@"; }\n'
LANGUAGES = (SHELL, "python")


@dataclass(frozen=True)
class Block:
    """A block of a page: its language and text, the line it begins in, and why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The shell and Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in FENCE.finditer(text):
        if found[1] in LANGUAGES:
            mark = MARK.search(text, 0, found.start())
            line = text.count("\n", 0, found.start()) + 1
            blocks.append(Block(page, line, found[1], found[2], mark and mark[1].strip()))
    return blocks


def run_blocks(blocks: list[Block], shrink: Callable[[list[str]], list[str]] = list, **names) -> None:
    """
    Runs the blocks of a page that are not marked, in the working folder. What fails is named with page and line.

    `shrink` may add options to the arguments of a command of `salmonn`; `names` are there for Python from the beginning.
    """
    names["__name__"] = "__main__"
    for block in blocks:
        if block.not_run is not None:
            continue
        try:
            if block.language == SHELL:
                for line in join_lines(block.text):
                    run_line(line, shrink)
            else:
                exec(compile(block.text, str(block), "exec"), names)
        except Exception as error:
            raise AssertionError(f"{block} does not run: {error}") from error


def join_lines(text: str) -> list[str]:
    """The commands of a shell block: lines that go on, here-documents and loops are one."""
    commands, held = [], ""
    for line in text.splitlines():
        held += line + "\n"
        here = re.search(r"<<'?(\w+)'?", held)
        if here:
            is_open = line != here[1]
        else:
            starts, ends = (len(re.findall(rf"^\s*{word}\b", held, re.MULTILINE)) for word in ("for", "done"))
            is_open = line.endswith("\\") or starts > ends
        if is_open:
            continue
        if held.strip() and not held.lstrip().startswith("#"):
            commands.append(held)
        held = ""
    if held:
        raise ValueError(f"a shell block ends within a command: {held!r}")
    return commands


def run_line(command: str, shrink: Callable[[list[str]], list[str]]) -> None:
    """`salmonn ...` and `python FILE ...` in this process, which has loaded what they need; all else in a shell."""
    words = read_words(command)
    if words[:1] == ["python"]:
        with mock.patch("sys.argv", words[1:]):
            runpy.run_path(words[1], run_name="__main__")
        return
    file = re.fullmatch(r"(salmonn [^&|;<>]*)>\s*(\S+)\s*", command)
    if file:
        words = read_words(file[1])
    if words[:1] != ["salmonn"]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["bash", "-ec", SALMONN + command], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"`{' '.join(command.split())}` ends with {done.returncode}: {done.stderr.strip()}")
        return
    words, said = words[1:], io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(said))
        if file:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(file[2], "w", encoding="utf-8"))))
        status = main(shrink(words))
    if status != 0:
        raise RuntimeError(f"`{' '.join(command.split())}` ends with {status}: {said.getvalue().strip()}")


def read_words(command: str) -> list[str]:
    """The words of a command, with the names of files for a `*`; none of what only a shell understands."""
    if re.search(r"&&|[|;<>]", command):
        return []
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    return [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


def check_commands(block: Block) -> None:
    """Holds the commands of `salmonn` in a block that is not run against the parser; what it refuses is an error."""
    for command in join_lines(block.text):
        for part in re.split(r"&&|\n|;", command.replace("\\\n", " ")):
            found = re.search(r"(?:^|\s)(?:salmonn|-m cli_salmonn)\s(.*)", part)
            if found is None or part.lstrip().startswith("#"):
                continue
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    build_parser().parse_args(shlex.split(re.sub(r"\$\w+", "1", found[1]), comments=True))
            except SystemExit as error:
                raise AssertionError(f"{block}: salmonn {found[1]}: {said.getvalue().strip()}") from error
