# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The chain that makes salmonn-nano: how it is read, and how it is run, here with commands that take no time."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nano_salmonn import build as module
from nano_salmonn.build import Build, CommandError, format_time, read_times
from nano_salmonn.chain import CHAIN, CHAINS, find_chain, find_dependents, read_chain


# What stands in for `salmonn`: each command adds a line to a log and writes a file, as it is told.
PROGRAM = """
import os, pathlib, sys, time
command, target, *rest = sys.argv[1:]
with open("log.txt", "a") as log:
    log.write(" ".join([command, target, *rest]) + "\\n")
file = pathlib.Path(target)
file.parent.mkdir(parents=True, exist_ok=True)
if command == "fail" and not pathlib.Path("repaired").exists():
    sys.exit(3)
if command == "burn":
    until = time.process_time() + float(rest[0])
    while time.process_time() < until:
        pass
if command == "wait":
    file.with_suffix(".begun").write_text(str(os.getpid()))
    while not pathlib.Path("released").exists():
        time.sleep(0.02)
file.write_text(" ".join(rest))
"""
THREE = {
    "a": {"about": "first", "run": "salmonn write made/a <100>", "makes": ["made/a"], "minutes": 10},
    "b": {"about": "second", "needs": ["a"], "run": "salmonn write made/b x", "makes": ["made/b"], "minutes": 20},
    "c": {"about": "beside", "run": "salmonn write made/c y", "makes": ["made/c"], "minutes": 5},
}


@pytest.fixture
def chain(tmp_path):
    """Writes a chain and gives a build of it in `folder`."""

    def make(steps: dict, scale: float = 1.0, processes: int = 1, folder: str = "out") -> Build:
        file = tmp_path / "chain.yaml"
        file.write_text(json.dumps({"steps": steps}))
        return Build(tmp_path / folder, read_chain(file, scale), start, processes)

    return make


def start(words, folder, processes):
    return subprocess.Popen([sys.executable, "-S", "-c", PROGRAM, *words], cwd=folder)


def log_of(build: Build) -> list[str]:
    file = build.folder / "log.txt"
    return file.read_text().splitlines() if file.is_file() else []


# ----------------------------------------------------------------------------------------------------------------------
# Reading


def test_numbers_are_scaled_and_batches_shared(chain):
    step = {"about": "x", "parallel": True, "run": "salmonn make a <200> tasks=<10 at least 4> --size <batch 96>"}
    assert chain({"a": step}).steps["a"].commands() == [["make", "a", "200", "tasks=10", "--size", "96"]]
    limited = chain({"a": step | {"run": "salmonn make <39 at least 4 at most 40>"}}, scale=2.0).steps["a"]
    assert limited.commands() == [["make", "40"]]
    small = chain({"a": step}, scale=0.01).steps["a"]
    assert small.commands(4) == [["make", "a", "2", "tasks=4", "--size", "24"]]
    alone = chain({"a": step | {"parallel": False}}).steps["a"]
    assert alone.commands(4)[0][-1] == "96"


def test_a_digest_changes_with_its_inputs_alone(chain):
    def digests(steps, **settings):
        return {name: step.digest for name, step in chain(steps, **settings).steps.items()}

    before = digests(THREE)
    assert digests(THREE, processes=8) == before
    assert digests({name: step | {"minutes": 1, "about": "other words"} for name, step in THREE.items()}) == before
    changed = digests(THREE | {"a": THREE["a"] | {"run": "salmonn write made/a <101>"}})
    assert changed["a"] != before["a"] and changed["b"] != before["b"] and changed["c"] == before["c"]
    scaled = digests(THREE, scale=2.0)
    assert scaled["a"] != before["a"] and scaled["b"] != before["b"] and scaled["c"] == before["c"]


def test_a_digest_changes_with_recipes_and_files(chain, monkeypatch, tmp_path):
    step = {"about": "x", "run": "salmonn train nano/instruct --max_steps 3", "reads": ["recipes/instruct.yaml"]}
    before = chain({"a": step}).steps["a"].digest
    read = module.__name__.replace("build", "chain") + ".read_recipe"
    monkeypatch.setattr(read, lambda path, folder: {"learning_rate": 0.1})
    after = chain({"a": step}).steps["a"].digest
    monkeypatch.setattr(read.replace("read_recipe", "_hash_file"), lambda path: "another")
    assert len({before, after, chain({"a": step}).steps["a"].digest}) == 3


@pytest.mark.parametrize(
    "step, reason",
    [
        ({"about": "x", "run": "salmonn a b", "neds": []}, "no field 'neds', did you mean 'needs'"),
        ({"about": "x", "run": "rm -r b"}, "must hold commands of salmonn, got 'rm -r b'"),
        ({"about": "x"}, "`run` must hold at least one command, got none"),
        ({"run": "salmonn a b"}, "`about` must say what the step does, got None"),
        ({"about": "x", "run": "salmonn a b", "needs": ["later"]}, "must name steps above it, got 'later'"),
        ({"about": "x", "run": "salmonn a b", "makes": ["../b"]}, "must be paths inside of the build, got '../b'"),
        ({"about": "x", "run": "salmonn a b", "minutes": 0}, "`minutes` must be a finite number above 0, got 0"),
        ({"about": "x", "run": "salmonn a b", "reads": ["none.json"]}, "none.json"),
    ],
)
def test_a_malformed_step_is_refused(chain, step, reason):
    with pytest.raises(ValueError, match=f"step 'a': .*{reason}"):
        chain({"a": step, "later": THREE["c"]})


def test_malformed_chains_and_scales_are_refused(chain, tmp_path):
    with pytest.raises(ValueError, match="must hold `steps`, a mapping"):
        chain({})
    with pytest.raises(ValueError, match="`scale` must be a finite number above 0, got 0"):
        chain(THREE, scale=0)
    with pytest.raises(ValueError, match="chain .*none.yaml"):
        read_chain(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="there is no step 'd'.* Steps are a, b, c"):
        chain(THREE).run(until="d")


def test_a_chain_replaces_and_leaves_out_steps_of_another(chain, tmp_path):
    whole = chain(THREE)
    file = tmp_path / "less.yaml"
    step = THREE["b"] | {"needs": [], "run": "salmonn write made/b z"}
    file.write_text(json.dumps({"extends": "chain.yaml", "steps": {"b": step, "a": None}}))
    less = read_chain(file)

    assert [(name, step.run) for name, step in less.items()] == [
        ("b", ("salmonn write made/b z",)), ("c", ("salmonn write made/c y",))
    ]  # fmt: skip
    assert less["c"] == whole.steps["c"]


def test_a_chain_has_steps_of_its_own_before_those_of_another(chain, tmp_path):
    chain(THREE)
    file = tmp_path / "more.yaml"
    steps = {name: THREE["a"] | {"run": f"salmonn write made/{name} z", "before": "b"} for name in ("y", "z")}
    file.write_text(json.dumps({"extends": "chain.yaml", "steps": {"a": THREE["a"], **steps}}))
    assert list(read_chain(file)) == ["a", "y", "z", "b", "c"]


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"extends": "chain.yaml", "steps": {"d": THREE["a"]}}, "chain.yaml has no step 'd' to replace"),
        (
            {"extends": "chain.yaml", "steps": {"d": {"before": "e"}}},
            "`before` must place a new step .* 'd' before 'e'",
        ),
        (
            {"extends": "chain.yaml", "steps": {"b": {"before": "c"}}},
            "`before` must place a new step .* 'b' before 'c'",
        ),
        ({"extends": "chain.yaml", "steps": {"a": None}}, "step 'b': `needs` must name steps above it, got 'a'"),
        ({"extends": "none.yaml", "steps": {"a": None}}, "none.yaml: .*No such file"),
        ({"extends": "less.yaml", "steps": {"a": None}}, "extends itself"),
        ({"extends": 3, "steps": {"a": None}}, "`extends` must name a file beside it, got 3"),
    ],
)
def test_a_chain_that_extends_nothing_is_refused(chain, tmp_path, content, reason):
    chain(THREE)
    (tmp_path / "less.yaml").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=reason):
        read_chain(tmp_path / "less.yaml")


def test_chains_are_found_by_name(tmp_path):
    with pytest.raises(ValueError, match="`chain` must be a file or one of chain, continue, got 'none'"):
        find_chain("none")
    assert all(find_chain(name).is_file() for name in CHAINS) and find_chain(__file__) == Path(__file__)


@pytest.mark.parametrize("scale", [0.01, 1.0])
@pytest.mark.parametrize("name", CHAINS)
def test_the_chains_of_the_project_are_some(name, scale):
    """Its commands exist, with their options, and what a step reads is made by a step that it needs."""
    from cli_salmonn.main import build_parser

    steps = read_chain(find_chain(name), scale)
    made: dict[str, set[str]] = {}
    for step in steps.values():
        needed = {name for name in steps if step.name in find_dependents(steps, name)}
        known = {path for name in needed for path in made.get(name, ())} | set(step.makes) | set(step.scratch)
        for words in step.commands(2):
            build_parser().parse_args(words)
            paths = [word for word in words if word.startswith(("data/", "runs/"))]
            for path in paths:
                inside = any(Path(path).is_relative_to(one) or Path(one).is_relative_to(path) for one in known)
                assert inside, f"{step.name} reads or makes {path}, which is not declared"
        made[step.name] = set(step.makes)


# ----------------------------------------------------------------------------------------------------------------------
# Running


def test_commands_are_recorded_as_a_shell_takes_them(chain):
    steps = {"a": {**THREE["a"], "run": "salmonn write made/a '{source: x, weight: 0.5}' \"two words\""}}
    build = chain(steps)
    build.run()
    [row] = read_times(build.folder)
    [command] = row["commands"]
    assert shlex.split(command) == ["salmonn", "write", "made/a", "{source: x, weight: 0.5}", "two words"]


def test_steps_run_in_order_and_once(chain):
    build = chain(THREE)
    assert [row["state"] for row in build.status()] == ["to do"] * 3
    build.run()
    assert log_of(build) == ["write made/a 100", "write made/b x", "write made/c y"]
    chain(THREE, processes=3).run()
    assert len(log_of(build)) == 3
    assert [row["state"] for row in build.status()] == ["done"] * 3
    assert [row["step"] for row in read_times(build.folder)] == ["a", "b", "c"]


def test_until_stops_and_from_does_anew_what_depends_on_it(chain):
    build = chain(THREE)
    build.run(until="a")
    assert len(log_of(build)) == 1
    build.run()
    (build.folder / "made/b").unlink()
    assert [step.name for step in build.find_work()] == ["b"]  # what is gone is made again
    build.run(again_from="a")
    assert log_of(build)[3:] == ["write made/a 100", "write made/b x"]


def test_other_inputs_do_anew_what_depends_on_them_if_that_is_allowed(chain):
    chain(THREE).run()
    changed = THREE | {"a": THREE["a"] | {"run": "salmonn write made/a <7>"}}
    build = chain(changed)
    with pytest.raises(ValueError, match="2 steps in .* were run with other inputs, 0.0 hours of work: a, b"):
        build.run()
    assert [row["state"] for row in build.status()] == ["other inputs", "other inputs", "done"]
    assert len(log_of(build)) == 3
    build.run(redo=True)
    assert log_of(build)[3:] == ["write made/a 7", "write made/b x"]
    assert (build.folder / "made/a").read_text() == "7"


def test_what_other_inputs_made_is_removed_first(chain):
    chain({"a": THREE["a"] | {"run": "salmonn write made/a/old 1"}}).run()
    build = chain({"a": THREE["a"] | {"run": "salmonn write made/a/new 1"}})
    build.run(redo=True)
    assert [path.name for path in (build.folder / "made/a").iterdir()] == ["new"]


def test_scratch_is_removed_when_a_step_is_done(chain):
    run = ["salmonn write cache/x 1", "salmonn write made/a 1"]
    build = chain({"a": {"about": "x", "run": run, "makes": ["made"], "scratch": ["cache"]}})
    build.run()
    assert (build.folder / "made/a").exists() and not (build.folder / "cache").exists()
    assert not build.find_work()


def test_a_step_that_fails_goes_on_where_it_was(chain):
    run = ["salmonn write made/a 1", "salmonn fail made/b 2", "salmonn write made/c 3"]
    build = chain({"a": {"about": "x", "run": run, "makes": ["made/c"]}})
    with pytest.raises(CommandError, match="step a: `salmonn fail made/b 2` failed with exit status 3"):
        build.run()
    assert build.status()[0]["state"] == "interrupted" and not read_times(build.folder)
    (build.folder / "repaired").touch()
    build.run()
    assert log_of(build) == ["write made/a 1", "fail made/b 2", "fail made/b 2", "write made/c 3"]
    assert build.record(build.steps["a"]).runs == 2


def test_a_step_that_makes_nothing_is_not_done(chain):
    build = chain({"a": THREE["a"] | {"makes": ["made/other"]}})
    with pytest.raises(CommandError, match="step a has not made made/other"):
        build.run()
    assert build.find_work()


def test_times_are_summed_over_runs(chain):
    build = chain(
        {"a": {"about": "x", "run": ["salmonn burn made/a 0.3", "salmonn fail made/b 0"], "makes": ["made"]}}
    )
    with pytest.raises(CommandError):
        build.run()
    first = build.record(build.steps["a"])
    (build.folder / "repaired").touch()
    build.run()
    second = build.record(build.steps["a"])
    assert 0.3 <= first.cpu < second.cpu and first.wall < second.wall and first.cpu <= first.wall * os.cpu_count()


def test_the_time_left_follows_from_what_was_done(chain, monkeypatch):
    build = chain(THREE)
    assert build.remaining_minutes(build.find_work()) == pytest.approx(35)
    build.run(until="a")
    record = build.record(build.steps["a"])
    record.wall = 1200.0  # twice what was said
    build._note(build.steps["a"], record)
    assert build.remaining_minutes(build.find_work()) == pytest.approx(25 * (20 + 25) / (10 + 25))
    assert [format_time(seconds) for seconds in (40, 720, 12000)] == ["40 s", "12 min", "3 h 20 min"]


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


# A build in a process of its own, which can be killed.
BUILD = """
import subprocess, sys
from nano_salmonn.build import Build
from nano_salmonn.chain import read_chain
program, chain, folder = sys.argv[1:]
start = lambda words, folder, processes: subprocess.Popen([sys.executable, "-S", "-c", program, *words], cwd=folder)
Build(folder, read_chain(chain), start).run()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_killed_build_goes_on(chain, tmp_path, how):
    """With SIGTERM its command ends too; after SIGKILL the command is left, and nothing else may work beside it."""
    slow = {"about": "x", "needs": ["a"], "run": "salmonn wait made/slow 1", "makes": ["made/slow"]}
    build = chain({"a": THREE["a"], "slow": slow})
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", BUILD, PROGRAM, str(tmp_path / "chain.yaml"), str(build.folder)]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    begun, record = build.folder / "made/slow.begun", lambda: build.record(build.steps["slow"])
    wait_for(lambda: begun.exists() and record().process is not None)
    with pytest.raises(ValueError, match="another build works in"):
        build.run()
    running.send_signal(how)
    assert running.wait() != 0
    if how == signal.SIGKILL:
        assert build.status()[1]["state"] == "running"
        with pytest.raises(ValueError, match="of a build that was killed still works on step slow"):
            build.run()
        os.kill(record().process[0], signal.SIGKILL)
    wait_for(lambda: build.status()[1]["state"] == "interrupted")
    assert not (build.folder / "made/slow").exists()
    (build.folder / "released").touch()
    build.run()
    assert [line.split()[0] for line in log_of(build)] == ["write", "wait", "wait"]
    assert record().runs == 2 and not build.find_work()


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def command(chain, tmp_path, monkeypatch, capsys):
    """`salmonn nano build` of a chain of three steps, whose commands take no time; returns its status and what it says."""
    from cli_salmonn import nano_build
    from cli_salmonn.main import main

    chain(THREE)
    monkeypatch.setattr(nano_build, "start", start)

    def run(*options: str) -> tuple[int, str]:
        status = main(["nano", "build", str(tmp_path / "out"), "--chain", str(tmp_path / "chain.yaml"), *options])
        told = capsys.readouterr()
        return status, told.out + told.err

    return run


def test_the_command_builds_and_says_what_is_done(command):
    status, text = command("--dry-run", "--scale", "0.5")
    assert status == 0 and text.startswith(
        "# a: first\nsalmonn write made/a 50\n# b: second\nsalmonn write made/b x\n"
    )
    status, text = command("--until", "b", "--processes", "1")
    assert status == 0 and "  0%|                    | step 1 of 3, a: first (about 35 min left in all)" in text
    assert " 29%|" in text and "step 2 of 3, b: second" in text
    status, text = command("--status", "--processes", "1")
    lines = [line.split() for line in text.splitlines()]
    assert [line[:2] for line in lines[:2]] == [["a", "done"], ["b", "done"]] and lines[2][:3] == ["c", "to", "do"]
    assert text.splitlines()[3].startswith("so far ")
    assert command("--dry-run") == (0, "# c: beside\nsalmonn write made/c y\n")


def test_a_command_that_fails_is_named(chain, command):
    chain({"a": {"about": "x", "run": "salmonn fail made/a"}})
    status, text = command()
    assert status == 1 and text.endswith(
        "salmonn: error: step a: `salmonn fail made/a` failed with exit status 3. The same build goes on from there.\n"
    )


def test_the_command_refuses_in_one_line(command):
    assert command("--until", "d") == (2, "salmonn: error: there is no step 'd'. Steps are a, b, c.\n")
    command()
    status, text = command("--scale", "2")
    assert status == 2 and "2 steps in" in text and text.count("\n") == 1


def test_commands_start_in_processes_with_one_thread_each(tmp_path, monkeypatch):
    from cli_salmonn import nano_build

    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, cwd, env: started.append((words, cwd, env)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    nano_build.start(["train", "x"], tmp_path, 1)
    nano_build.start(["train", "x"], tmp_path, 2)
    (alone, folder, environment), (together, _, _) = started
    assert alone == [sys.executable, "-m", "cli_salmonn", "train", "x"] and folder == tmp_path
    assert environment["OMP_NUM_THREADS"] == "1" and environment["PYTHONPATH"].startswith(str(Path(CHAIN).parents[1]))
    # memory is kept for the next tensor, unless the user has said otherwise
    assert environment["MALLOC_MMAP_THRESHOLD_"] == str(2**30) and environment["MALLOC_TRIM_THRESHOLD_"] == "5"
    assert together[1:7] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    assert together[7:] == ["cli_salmonn", "train", "x"]
