# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Reads a chain: the steps by which a model is made, as a YAML file declares them.

    steps:
      clips:
        about: what is trained on
        run: salmonn nano make sounds data/train --split train --count <20000 at least 40>
        makes: [data/train]
        minutes: 30
      model:
        about: the model itself
        needs: [clips]
        run: >-
          salmonn train nano/alignment --resume --train data/train
          --max_steps <8000> --per_device_train_batch_size <batch 96>
        makes: [runs/model]
        scratch: [runs/features]
        parallel: true
        minutes: 300

`run` holds one command of `salmonn`, or a list of them; all are run in the folder of the build. `<20000>` is a number
that the scale of the build multiplies; `<20000 at least 40>` never gets smaller than that, and `<200 at most 214>` not
larger. `<batch 96>` is shared by the processes of a step that is `parallel`. `makes` are the paths that a step leaves, and
that are removed before it is done anew: the folder of a run is one, or its checkpoints would be gone on from. `scratch` are
those that are removed once it is done, `minutes` what it takes of one core at scale 1. `reads` names files of this package
that a step depends on; the recipes of its commands are found without.

A chain may go by another one, a file beside it, and say only what differs: steps in place of those of that name, `null`
for those that are left out, and steps of its own, which say which one they stand `before`.

    extends: chain.yaml
    steps:
      model: null

The digest of a step changes with its commands, numbers as they are at its scale, with those files and recipes, and with
the digests of the steps that it needs, and with nothing else: how many processes share the work does not matter.
"""

import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import training_salmonn
from nano_salmonn.recipes import RECIPES
from training_salmonn.recipe_files import find_recipe, parse_yaml, read_recipe, suggest


PACKAGE = Path(__file__).parent
CHAIN = PACKAGE / "chain.yaml"
CHAINS = ("chain", "continue")  # of the project, by name
BEATS_RECIPES = PACKAGE / "beats_recipes"
EXTENDED_RECIPES = Path(training_salmonn.__file__).parent / "recipes"  # by those of this package
FIELDS = ("about", "needs", "run", "makes", "scratch", "reads", "parallel", "minutes")
PROGRAM = "salmonn"
NUMBER = re.compile(r"<(\d+)(?: at least (\d+))?(?: at most (\d+))?>")
BATCH = re.compile(r"<batch (\d+)>")
# Where a word of a command names a recipe of this package.
RECIPE_PREFIX, BEATS_COMMAND = "nano/", "train-beats"


@dataclass(frozen=True)
class Step:
    """A step of a chain, with the numbers of a scale."""

    name: str
    about: str
    needs: tuple[str, ...]
    run: tuple[str, ...]  # commands, with the batches of all processes
    makes: tuple[str, ...]
    scratch: tuple[str, ...]
    parallel: bool
    minutes: float
    digest: str

    def commands(self, processes: int = 1) -> list[list[str]]:
        """The words of each command after `salmonn`, for so many processes."""
        share = processes if self.parallel else 1
        return [
            shlex.split(BATCH.sub(lambda match: str(max(1, int(match[1]) // share)), command))[1:]
            for command in self.run
        ]


def find_chain(chain: str | Path) -> Path:
    """
    The file of a chain, of the project's by name, or itself. Raises `ValueError` if there is none.
    """
    if Path(chain).is_file():
        return Path(chain)
    if str(chain) in CHAINS:
        return PACKAGE / f"{chain}.yaml"
    raise ValueError(f"`chain` must be a file or one of {', '.join(CHAINS)}, got {str(chain)!r}.")


def read_chain(path: str | Path = CHAIN, scale: float = 1.0) -> dict[str, Step]:
    """
    The steps of a chain, in their order, with numbers multiplied by `scale`.

    Raises `ValueError` on a file that is no chain, on fields that do not exist, and on steps that need later ones.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"`scale` must be a finite number above 0, got {scale}.")
    path = Path(path)
    declared = _read_declared(path)
    steps: dict[str, Step] = {}
    for name, fields in declared.items():
        try:
            steps[name] = _read_step(str(name), fields, steps, scale)
        except (ValueError, OSError) as error:
            raise ValueError(f"chain {path}, step {name!r}: {error}") from error
    return steps


def _read_declared(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The steps of a chain as its file declares them, and the file that it extends."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"chain {path}: {error}") from error
    declared = content.get("steps") if isinstance(content, dict) else None
    if not isinstance(declared, dict) or not declared or set(content) - {"extends", "steps"}:
        raise ValueError(f"chain {path}: must hold `steps`, a mapping, and nothing else but `extends`.")
    if "extends" not in content:
        return declared
    base, seen = content["extends"], (*seen, path.resolve())
    if not isinstance(base, str):
        raise ValueError(f"chain {path}: `extends` must name a file beside it, got {base!r}.")
    if (path.parent / base).resolve() in seen:
        raise ValueError(f"chain {path}: extends itself.")
    steps = _read_declared(path.parent / base, seen)
    for name, fields in declared.items():
        place = fields.get("before") if isinstance(fields, dict) else None
        if place is None and name not in steps:
            raise ValueError(f"chain {path}: {base} has no step {name!r} to replace{suggest(str(name), steps)}")
        if place is not None and (name in steps or place not in steps):
            raise ValueError(
                f"chain {path}: `before` must place a new step before one of {base}, got {name!r} before {place!r}."
            )
        own = fields if place is None else {field: value for field, value in fields.items() if field != "before"}
        steps = steps | {name: own} if place is None else _insert(steps, place, {name: own})
    return {name: fields for name, fields in steps.items() if fields is not None}


def _insert(steps: dict[str, Any], place: str, new: dict[str, Any]) -> dict[str, Any]:
    """`steps` with the `new` ones before that of the name `place`."""
    number = list(steps).index(place)
    return dict([*list(steps.items())[:number], *new.items(), *list(steps.items())[number:]])


def find_dependents(steps: Mapping[str, Step], name: str) -> set[str]:
    """The step of that name and all that need it, directly or not. Raises `ValueError` if there is no such step."""
    check_name(steps, name)
    found = {name}
    for step in steps.values():  # a step stands behind those that it needs
        if found & set(step.needs):
            found.add(step.name)
    return found


def check_name(steps: Mapping[str, Step], name: str) -> None:
    if name not in steps:
        raise ValueError(f"there is no step {name!r}{suggest(name, steps)} Steps are {', '.join(steps)}.")


def _read_step(name: str, fields: Any, before: Mapping[str, Step], scale: float) -> Step:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError("its name must be of lower-case letters, digits and underscores.")
    if not isinstance(fields, dict):
        raise ValueError(f"must be a mapping of {', '.join(FIELDS)}, got {fields!r}.")
    for field in fields:
        if field not in FIELDS:
            raise ValueError(f"no field {field!r}{suggest(str(field), FIELDS)}")
    about, parallel, minutes = fields.get("about"), fields.get("parallel", False), fields.get("minutes", 1)
    if not isinstance(about, str) or not about:
        raise ValueError(f"`about` must say what the step does, got {about!r}.")
    if not isinstance(parallel, bool):
        raise ValueError(f"`parallel` must be true or false, got {parallel!r}.")
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 < minutes < math.inf:
        raise ValueError(f"`minutes` must be a finite number above 0, got {minutes!r}.")
    texts = {
        field: _read_texts(field, fields.get(field, [])) for field in ("needs", "run", "makes", "scratch", "reads")
    }
    for need in texts["needs"]:
        if need not in before:
            raise ValueError(f"`needs` must name steps above it, got {need!r}{suggest(need, before)}")
    for path in texts["makes"] + texts["scratch"]:
        if Path(path).is_absolute() or ".." in Path(path).parts or Path(path) == Path():
            raise ValueError(f"`makes` and `scratch` must be paths inside of the build, got {path!r}.")
    run = tuple(NUMBER.sub(lambda match: _scale(match, scale), command) for command in texts["run"])
    if not run:
        raise ValueError("`run` must hold at least one command, got none.")
    for command in run:
        words = shlex.split(BATCH.sub(r"\1", command))
        if words[:1] != [PROGRAM] or len(words) < 2:
            raise ValueError(f"`run` must hold commands of {PROGRAM}, got {command!r}.")
    contents = {
        "run": run,
        "needs": {need: before[need].digest for need in texts["needs"]},
        "reads": {file: _hash_file(PACKAGE / file) for file in texts["reads"]},
        "recipes": [recipe for command in run for recipe in _find_recipes(shlex.split(command))],
    }
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:16]
    named = {field: texts[field] for field in ("needs", "makes", "scratch")}
    return Step(name=name, about=about, run=run, parallel=parallel, minutes=minutes * scale, digest=digest, **named)


def _read_texts(field: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) and text for text in values):
        raise ValueError(f"`{field}` must be a text or a list of texts, got {value!r}.")
    return tuple(values)


def _scale(match: re.Match, scale: float) -> str:
    number = max(round(int(match[1]) * scale), int(match[2] or 1))
    return str(number if match[3] is None else min(number, int(match[3])))


def _find_recipes(words: list[str]) -> list[dict]:
    """The fields of the recipes of this package that a command names."""
    found = [
        read_recipe(find_recipe(word.removeprefix(RECIPE_PREFIX), RECIPES), EXTENDED_RECIPES)
        for word in words
        if word.startswith(RECIPE_PREFIX)
    ]
    if BEATS_COMMAND in words and "--recipe" not in words:
        found.append(read_recipe(find_recipe("nano", BEATS_RECIPES), BEATS_RECIPES))
    return found


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
