"""Rates and sizes as people write them (1Gbit, 20MB, 80GB)."""

from __future__ import annotations

import re
from typing import Any

import click

_PREFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(bit|b)(?:/s|ps)?\s*", re.IGNORECASE)


class Quantity(click.ParamType):
    """A number of bytes, or of bytes a second; `bit` divides by 8, prefixes are powers of 1000."""

    name = "quantity"

    def __init__(self, example: str) -> None:
        self.example = example

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return self.example

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        match = _QUANTITY.fullmatch(str(value))
        if match is None or not float(match[1]):
            self.fail(f"{value!r}: write a number and a unit, as in {self.example}", param, ctx)
        number = float(match[1]) * _PREFIX[match[2].lower()]
        return number / 8 if match[3].lower() == "bit" else number
