"""Overrides, as Hydra reads them: text quoted where it must be, values of Python written out."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

from pydantic import BaseModel

from photon.config.base import keys_of, section_type
from photon.config.schema import Config
from photon.errors import ConfigError

Overrides = str | Sequence[str] | Mapping[str, Any]
"""One override, several, or values by key: sections may be nested."""
_BARE = re.compile(r"[A-Za-z_./][\w./-]*")
_WORDS_WITH_MEANING = ("true", "false", "null", "nan", "inf", "none", "yes", "no", "on", "off")


def quoted(text: str) -> str:
    """Quote what Hydra's grammar would read as something else.

    A value of a key that is text is the text that was given: `run_uuid=1e5` is no number, and
    `[STOP]` no list; only `null` says that there is none, and `${key}` stands for the value of that
    key, as in any other. Of other keys, a value with letters beyond ASCII.
    """
    key, equals, value = text.partition("=")
    if not equals or re.fullmatch(r"null|([\"'])(\\.|(?!\1).)*\1|", value, re.I | re.S):
        return text
    if key.lstrip("+") in _text_keys():
        return f"{key}={_quote(value)}"
    if value.isascii() or re.search(r"[\"'\[\]{}]", value):
        return text
    return f'{key}="{value}"'


def _quote(value: str) -> str:
    """In quotation marks, as Hydra unescapes: backslashes count only before a mark."""
    escaped = re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ("\\" if m[2] else "") + m[2], value)
    return f'"{escaped}"'


@functools.cache
def _text_keys(section: type[BaseModel] = Config, prefix: str = "") -> frozenset[str]:
    """Dotted keys whose value is a text, or a text or null."""
    found: set[str] = set()
    for name, field in keys_of(section).items():
        if (below := section_type(field.annotation)) is not None:
            found |= _text_keys(below, f"{prefix}{name}.")
        elif field.annotation in (str, str | None):
            found.add(prefix + name)
    return frozenset(found)


def parse_override(text: str) -> Any:
    """Hydra's `Override` of a text.

    Raises:
        ConfigError: it is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(quoted(text))
    except HydraException as error:
        raise ConfigError(f"{text!r} is no override; write key=value") from error


def keys_given(overrides: Sequence[str]) -> list[str]:
    """Keys and groups of overrides, however they are written: `++key=value`, `~key`.

    Raises:
        ConfigError: one is none.
    """
    return [parse_override(text).key_or_group for text in overrides]


def override_strings(
    given: Overrides, sections: Collection[str], known: Collection[str]
) -> list[str]:
    """Override strings, whatever form they were given in.

    Args:
        sections: keys whose value, if it is a mapping, holds keys and is no value itself.
        known: all keys and groups.

    Raises:
        ConfigError: something else, or one string with several overrides.
    """
    if isinstance(given, str):
        return [_single(given, known)]
    if isinstance(given, Mapping):
        return [f"{key}={text}" for key, text in _each_once(_flat(given, "", sections)).items()]
    texts = cast(list[str], list(given) if isinstance(given, Iterable) else [given])
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ConfigError(f"{wrong[0]!r} is no override; give 'key=value' strings, or a dict")
    return texts


def _single(text: str, known: Collection[str]) -> str:
    """A text may have blanks and equals signs; only a word with a key of ours begins another."""
    try:
        words = shlex.split(text)
    except ValueError:  # a single quotation mark
        words = text.split()
    if any(re.split("[=@]", word.lstrip("+~"))[0] in known for word in words[1:] if "=" in word):
        raise ConfigError(f"{text!r}: several overrides are a list: {words}")
    return text


def _flat(
    values: Mapping[str, Any], prefix: str, sections: Collection[str]
) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key in sections:
            yield from _flat(value, f"{key}.", sections)
        else:
            yield key, value


def _each_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Raises:
    ConfigError: a key has two values, of which one would be lost without a word.
    """
    found: dict[str, str] = {}
    for key, value in pairs:
        text = _literal(value)
        if found.setdefault(key, text) != text:
            raise ConfigError(f"{key}: is there twice, as {found[key]} and as {text}; give one")
    return found


def _literal(value: Any) -> str:
    """A value as Hydra reads it back."""
    if callable(plain := getattr(value, "tolist", None)):  # of NumPy and PyTorch
        return _literal(plain())
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PurePath):
        return _text(str(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(str(k))}:{_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_literal, value)) + "]"
    raise ConfigError(f"{value!r} is no value of a key; give a number, text, bool, list or dict")


def _text(value: str) -> str:
    if _BARE.fullmatch(value) and value.lower() not in _WORDS_WITH_MEANING:
        return value
    return '"' + re.sub(r'(\\*)(?="|$)', r"\1\1", value).replace('"', '\\"') + '"'
