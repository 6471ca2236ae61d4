"""What is wrong with a value, in one line that begins with its key."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from photon.config.base import PATTERNS

_KINDS = ("int", "float", "bool")
"""Members of a union, which pydantic names beside the key."""


def first_fault(error: ValidationError, known: Collection[str]) -> str:
    """The first offending key, what was wrong and what was given.

    Args:
        known: the keys that there are, with their dots.
    """
    found = error.errors()
    first, key = found[0], _key(found[0])
    reason = _reason(first, key, [one["msg"] for one in found if _key(one) == key])
    given = first.get("input")
    is_unknown = first["type"] == "extra_forbidden"
    told = is_unknown or "got" in reason or (isinstance(given, str) and repr(given) in reason)
    shown = "" if told or isinstance(given, (Mapping, BaseModel)) else f", got {_plain(given)}"
    return f"{_prefix(key, reason, known)}{reason}{shown}"


def _key(fault: Any) -> str:
    parts = [str(part) for part in fault["loc"]]
    return ".".join(part for part in parts if part not in _KINDS and "[" not in part)


def _prefix(key: str, reason: str, known: Collection[str]) -> str:
    """A section's fault begins with a key of it where that can be read on: `fl.quorum=9 is ...`."""
    word = re.match(r"[\w.]+(?=[= ])", reason)
    if word is not None and f"{key}.{word[0]}" in known:
        return f"{key}."
    return f"{key}: " if key else ""


def _reason(fault: Any, key: str, all_reasons: list[str]) -> str:
    if fault["type"] == "model_type":
        return f"is a section, whose keys take values: `photon config {key}` lists them"
    if fault["type"] == "extra_forbidden":
        return "is no key of the configuration"
    if fault["type"] == "string_pattern_mismatch":
        return PATTERNS.get(fault["ctx"]["pattern"], str(fault["msg"]))
    first, *others = (one.removeprefix("Value error, ") for one in all_reasons)
    expected = dict.fromkeys(one.removeprefix("Input should be ") for one in others)
    return ", or ".join([first, *expected])


def _plain(given: Any) -> str:
    """As it is written in an override."""
    return json.dumps(given) if given is None or isinstance(given, bool) else repr(given)
