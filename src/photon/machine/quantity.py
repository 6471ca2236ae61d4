"""Amounts of bytes, and of bytes a second, as people write them."""

from __future__ import annotations

import re

_PREFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(bit|b)(?:/s|ps)?\s*", re.IGNORECASE)


def parse_quantity(text: str) -> float:
    """`20 Mbit/s` or `80GB` as bytes; `bit` divides by 8, prefixes are powers of 1000.

    Raises:
        ValueError: it is no positive number with a unit, or `b`, as in Mbps, leaves the unit open.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: write a number and a unit")
    if match[3] == "b":
        prefix = match[2]
        raise ValueError(f"{text!r}: b may be bits or bytes: write {prefix}bit or {prefix}B")
    if not float(match[1]):
        raise ValueError(f"{text!r}: write more than zero")
    number = float(match[1]) * _PREFIX[match[2].lower()]
    return number / 8 if match[3].lower() == "bit" else number
