"""What may stand on a command line: keys, and the values of those that have few."""

from __future__ import annotations

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
    """Options of a group, or the values of a key that is a choice or a switch."""
    if key in GROUPS:
        folder = files("photon.config.groups").joinpath(*key.split("/"))
        return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [value for one in all_keys() if one.key == key for value in _values(one.annotation)]


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
