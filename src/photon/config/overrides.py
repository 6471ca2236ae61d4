"""One override, `key=value`, as Hydra reads it."""

from __future__ import annotations

import functools
import re
from typing import Any

from pydantic import BaseModel

from photon.config.base import section_type
from photon.config.schema import Config
from photon.errors import ConfigError


def quoted(text: str) -> str:
    """Quote what Hydra's grammar would read as something else.

    A value of a key that is text is the text that was given: `run_uuid=1e5` is no number, and
    `[STOP]` no list; only `null` says that there is none. Of other keys, a value with letters
    beyond ASCII.
    """
    key, equals, value = text.partition("=")
    if not equals or re.fullmatch(r"null|([\"']).*\1|", value, re.I | re.S):
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
    for name, field in section.model_fields.items():
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
