# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Reading recipes: fields of dataclasses from a YAML file, checked against their types, and from the command line.

A recipe holds fields of several dataclasses, all in one flat mapping. It may extend another one:

    extends: pretrain        # a recipe of the project, or a file, from where this one is
    learning_rate: 1e-5
"""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator
from transformers import HfArgumentParser

from data_salmonn.json_text import parse_json


SUFFIXES = (".yaml", ".yml", ".json")
UNSET = object()


class RecipeLoader(yaml.SafeLoader):
    """
    YAML, of whose older version two surprises are left out: `1e-4` is a number, and `no`, as in `eval_strategy: no`, is a
    word. A field that stands twice in a mapping is an error.
    """

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice in line {node.start_mark.line + 1} or below.")
        return super().construct_mapping(node, deep)


_REPLACED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
RecipeLoader.add_implicit_resolver(_REPLACED[0], re.compile(r"^(true|True|false|False)$"), list("tTfF"))
RecipeLoader.add_implicit_resolver(
    _REPLACED[1], re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """What a YAML document says. Raises `ValueError` if it is none."""
    try:
        return yaml.load(text, RecipeLoader)  # a `SafeLoader`
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {error}") from error


def find_recipe(recipe: str | Path, folder: Path, known: str = "") -> Path:
    """
    The file of a recipe that is given as a path or, for one in `folder`, by its name.

    Raises `ValueError` if there is none; it names those of `folder`, and `known` ones besides.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    for suffix in SUFFIXES:
        if (folder / f"{recipe}{suffix}").is_file():
            return folder / f"{recipe}{suffix}"
    names = ", ".join([*list_recipes(folder), *([known] if known else [])])
    raise ValueError(f"`recipe` must be a file or one of {names}, got {str(recipe)!r}.")


def list_recipes(folder: Path) -> list[str]:
    """Names of the recipes in a folder."""
    return sorted(path.stem for path in folder.iterdir() if path.suffix in SUFFIXES)


def read_recipe(path: Path, folder: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """
    The fields in the file of a recipe, those of the recipe that it extends included, which is a file, from where this one
    is, or the name of one in `folder`.

    Raises `ValueError` on a file that is no recipe, and on recipes that extend themselves.
    """
    if path.resolve() in seen:
        raise ValueError(f"recipe {path}: extends itself.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"recipe {path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path}: must be a mapping of fields, got {type(values).__name__}.")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"recipe {path}: `extends` must name a recipe, got {base!r}.")
    beside = path.parent / base
    try:
        file = beside if beside.is_file() else find_recipe(base, folder)
    except ValueError as error:
        raise ValueError(f"recipe {path}: `extends` names no file beside it: {error}") from error
    return read_recipe(file, folder, (*seen, path.resolve())) | values


def check_fields(values: dict[str, Any], sections: Sequence[type], recipe: str | Path) -> dict[str, Any]:
    """
    `values` with whole numbers as floats where a field of the dataclasses `sections` is one.

    Raises `ValueError` on a field that does not exist, naming the nearest, and on a value of another type.
    """
    items = {item.name: item for section in sections for item in fields(section) if item.init}
    hints = {name: hint for section in sections for name, hint in get_type_hints(section).items()}
    checked = {}
    for name, value in values.items():
        if name not in items:
            raise ValueError(f"recipe {recipe}: no field {name!r}{suggest(name, items)}")
        if type(value) is int and float in (hints[name], *get_args(hints[name])):
            value = float(value)
        try:
            # `fsdp` is a text that may also be true: what stands for the option alone, as on the command line
            if value is not items[name].metadata.get("const", MISSING):
                type_validator(name, value, hints[name])
        except TypeError as error:
            raise ValueError(
                f"recipe {recipe}: `{name}` must be {describe_type(hints[name])}, got {value!r}."
            ) from error
        checked[name] = value
    return checked


def fill_sections(sections: Sequence[type], values: dict[str, Any]) -> list:
    """The dataclasses `sections` with those of `values` that are fields of theirs."""
    names = [{item.name for item in fields(section) if item.init} for section in sections]
    return [
        section(**{name: value for name, value in values.items() if name in own})
        for section, own in zip(sections, names)
    ]


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {near[0]!r}?" if near else "."


def describe_type(hint: Any) -> str:
    """A type as one reads it in a message: `int`, `list[str] | None`."""
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return re.sub(r"\b(\w+\.)+(?=\w)", "", name)


# ----------------------------------------------------------------------------------------------------------------------
# The command line


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of examples, and says defaults."""


class RecipeParser(HfArgumentParser):
    """
    Options for all fields of the dataclasses `sections`, beside the arguments of `command`, the parser of a command.

    What it returns has `fields`, a dictionary of those that were given. They are not checked beyond their types.

    Args:
        command: Its name, description, examples and arguments are taken over.
        sections: Dataclasses with the fields of a recipe.
        usage: Of the command, whose own would list a hundred options.
    """

    def __init__(self, command: argparse.ArgumentParser, sections: Sequence[type], usage: str):
        super().__init__(
            prog=command.prog,
            usage=usage,
            description=command.description,
            epilog=command.epilog,
            formatter_class=HelpFormatter,
            parents=[command],
            add_help=False,  # that of `command` does
            allow_abbrev=False,  # a field that is misspelt is no abbreviation
        )
        # how to read what is no plain word or number
        self.register("type", dict, read_mapping)
        self.register("type", str | dict, read_source)
        for section in sections:
            self._add_dataclass_arguments(section)
        self.names = [item.name for section in sections for item in fields(section) if item.init]

    def parse_known_args(self, args=None, namespace=None):
        unset = argparse.Namespace(**dict.fromkeys(self.names, UNSET))
        found, unknown = super().parse_known_args(args, unset)
        option = next((word for word in unknown if word.startswith("--")), None)
        if option is not None:
            option = option.partition("=")[0]
            self.error(f"no option {option}{suggest(option.strip('-').replace('-', '_'), self.names)}")
        given = {name: vars(found).pop(name) for name in self.names}
        found.fields = {name: value for name, value in given.items() if value is not UNSET}
        return found, unknown


def read_mapping(text: str) -> dict:
    """For argparse: a mapping in YAML or JSON."""
    value = parse_yaml(text)
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, got {text!r}")
    return value


def read_source(text: str) -> str | dict:
    """For argparse: a path or Hub id, or `{source: PATH, weight: 0.5}`."""
    return read_mapping(text) if text.lstrip().startswith("{") else text
