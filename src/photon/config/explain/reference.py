"""What keys there are and what may stand for them, from the models themselves: the reference as
Markdown, and words for completion.
"""

from __future__ import annotations

import itertools
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel

from photon.config.base import Batches, Bytes, keys_of, section_type
from photon.config.compose import GROUPS, known_keys
from photon.config.faults import nearest
from photon.config.schema import Config
from photon.config.standing import AUTOMATIC
from photon.errors import ConfigError

INTRODUCTION = """# Configuration

Made by `photon config --reference`; `photon config` shows the keys as YAML, `photon config --keys`
on one line each.

A key is set by `key=value` on the command line, whole groups by `llm_config=mpt-125m`,
`dataset=fed-c4`, `recipe=quickstart`. Durations are batches (`16ba`, or just 16), epochs (`2ep`) or
tokens (`1_000_000tok`). `null` mostly means: derive it.

The defaults below hold where no group sets a key. `photon train` by itself takes the groups
`llm_config=llama-tiny` and `dataset=embedded`, which do set some (Muon, its learning rate, ...);
`photon config` says which, and `photon config KEY` what one key means.
"""

STANDING = """
## Keys of the original Photon that need no setting

Each is accepted with a note that says what happens in its place. Where values are named, others are
refused.

| key | in its place | values |
|---|---|---|
"""


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, model, prefix in _sections(Config, ""):
        rows = list(_rows(model, prefix))
        if rows:
            parts.append(f"\n## {title}\n\n{_meaning_of(model)}")
            parts.append("| key | type | default | meaning |\n|---|---|---|---|\n" + "".join(rows))
    parts.append(STANDING)
    parts += [
        f"| `{key}` | {one.note} | {', '.join(f'`{shown(v)}`' for v in one.only)} |\n"
        for key, one in sorted(AUTOMATIC.items())
    ]
    return "".join(parts)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel], str]]:
    yield f"`{prefix.rstrip('.')}`" if prefix else "Top level", model, prefix
    for name, field in keys_of(model).items():
        section = section_type(field.annotation)
        if section is not None:
            yield from _sections(section, f"{prefix}{name}.")


def _meaning_of(model: type[BaseModel]) -> str:
    own = model.__dict__.get("__doc__")
    return f"{own.strip().splitlines()[0]}\n\n" if own else ""


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for one in _leaves(model, prefix):
        kind, meaning = (text.replace("|", "\\|") for text in (one.type, one.meaning))
        yield f"| `{one.key}` | {kind} | `{one.default}` | {meaning} |\n"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key: its type, in words too, default, meaning, and some of its values."""

    key: str
    annotation: Any
    type: str
    default: str
    meaning: str
    examples: tuple[str, ...] = ()


def all_keys() -> list[Key]:
    return [key for _, model, prefix in _sections(Config, "") for key in _leaves(model, prefix)]


def find_keys(wanted: str) -> list[Key]:
    """A key, or all keys of a section.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    found = [one for one in all_keys() if f"{one.key}.".startswith(f"{wanted}.")]
    if not found:
        raise ConfigError(f"unknown key {wanted!r}; {nearest(wanted, {*known_keys(), *GROUPS})}")
    return found


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in keys_of(model).items():
        if section_type(field.annotation) is None:
            kind = _type(field.annotation, field.metadata)
            default = "required" if field.is_required() else shown(field.default)
            key = f"{prefix}{name}"
            examples = tuple(map(str, field.examples or ()))
            yield Key(key, field.annotation, kind, default, field.description or "", examples)


def _type(annotation: Any, metadata: Any = ()) -> str:
    """A type in words: `int or "auto"`."""
    if annotation in (Batches, Bytes) or any("Validator" in type(m).__name__ for m in metadata):
        return "size" if annotation == Bytes else "duration" if annotation is not float else "float"
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _type(typing.get_args(annotation)[0], annotation.__metadata__)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in typing.get_args(annotation))
    if annotation is type(None):
        return "null"
    if origin is list:
        return f"list of {_type(typing.get_args(annotation)[0])}"
    if origin is tuple:
        return ", ".join(_type(part) for part in typing.get_args(annotation))
    return getattr(annotation, "__name__", str(annotation))


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


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
