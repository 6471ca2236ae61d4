"""What every section of the configuration builds on."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def parse_batches(value: Any) -> Any:
    """Turn a duration such as `40960ba` (batches) into an int; numbers pass through.

    Raises:
        ValueError: the unit is not `ba`.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9][0-9_]*)\s*([a-z]*)\s*", value)
    if match is None or match[2] not in ("", "ba"):
        raise ValueError(f"durations are counted in batches, for example 16ba; got {value!r}")
    return int(match[1].replace("_", ""))


def parse_bytes(value: Any) -> Any:
    """Turn a size such as `10gb` into a number of bytes; numbers pass through.

    Raises:
        ValueError: no such unit.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kmgt]?)b?\s*", value.lower())
    if match is None:
        raise ValueError(f"sizes are bytes, or kb, mb, gb, tb of 1024, as in 10gb; got {value!r}")
    return int(float(match[1].replace("_", "")) * 1024 ** " kmgt".index(match[2] or " "))


Batches = Annotated[int, BeforeValidator(parse_batches)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class Section(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
