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


Batches = Annotated[int, BeforeValidator(parse_batches)]


class Section(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
