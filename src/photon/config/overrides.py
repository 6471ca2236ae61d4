"""One override, `key=value`, as Hydra reads it."""

from __future__ import annotations

import re
from typing import Any

from photon.errors import ConfigError


def quoted(text: str) -> str:
    """Quote what Hydra's grammar cannot read bare: a value with letters beyond ASCII."""
    key, equals, value = text.partition("=")
    if not equals or value.isascii() or re.search(r"[\"'\[\]{}]", value):
        return text
    return f'{key}="{value}"'


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
