"""What may stand on a command line: keys, and the values of those that have few."""

from __future__ import annotations

import itertools
import re
import typing
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Literal

from photon.config.compose import GROUPS
from photon.config.reference import all_keys


def words() -> list[str]:
    """Every key and every group, with the `=` that follows."""
    return [f"{group}=" for group in GROUPS] + [f"{one.key}=" for one in all_keys()]


def choices_of(key: str) -> list[str]:
    """Options of a group, or the values of a key that has few, or some that it names."""
    if key in GROUPS:
        return list(presets(key))
    found = [one for one in all_keys() if one.key == key]
    return [value for one in found for value in (*one.examples, *_values(one.annotation))]


def presets(group: str) -> dict[str, str]:
    """Options of a group, and what the first line of each says of it."""
    folder = files("photon.config.groups").joinpath(*group.split("/"))
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name[:-5]: _comment(f.read_text(encoding="utf-8")) for f in found}


def _comment(text: str) -> str:
    """The first sentence of the comment with which a file begins."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    words = " ".join(line.lstrip("# ") for line in lines if "@package" not in line)
    return re.split(r"(?<=\.) ", words)[0]


def _values(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    elif annotation is type(None):
        yield "null"
    elif typing.get_origin(annotation) is Literal:
        yield from map(str, typing.get_args(annotation))
    else:
        for part in typing.get_args(annotation):
            yield from _values(part)
