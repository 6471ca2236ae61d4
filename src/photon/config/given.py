"""What a caller from Python gives as overrides, as the strings that the command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

from photon.errors import ConfigError

Overrides = str | Sequence[str] | Mapping[str, Any]
"""One override, several, or values by key: sections may be nested."""

_BARE = re.compile(r"[A-Za-z_./][\w./-]*")
_WORDS_WITH_MEANING = ("true", "false", "null", "nan", "inf", "none", "yes", "no", "on", "off")


def override_strings(given: Overrides, sections: Collection[str]) -> list[str]:
    """Override strings, whatever form they were given in.

    Args:
        sections: keys whose value, if it is a mapping, holds keys and is no value itself.

    Raises:
        ConfigError: something else, or one string with several overrides.
    """
    if isinstance(given, str):
        return [_single(given)]
    if isinstance(given, Mapping):
        return [f"{key}={_literal(value)}" for key, value in _flat(given, "", sections)]
    texts = cast(list[str], list(given) if isinstance(given, Iterable) else [given])
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ConfigError(f"{wrong[0]!r} is no override; give 'key=value' strings, or a dict")
    return texts


def _single(text: str) -> str:
    if re.search(r"=.*\s[\w./@~+]+=", text):
        raise ConfigError(f"{text!r}: several overrides are a list: {shlex.split(text)}")
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


def _literal(value: Any) -> str:
    """A value as Hydra reads it back."""
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
