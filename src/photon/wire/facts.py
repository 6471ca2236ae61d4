"""What a server says of a client's task, and a client of its update: parsed, whoever says it.

Here are the bounds that hold for every update; what this round asked for, `core.gate` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from photon.config.base import Closed
from photon.core.messages import Update
from photon.core.parts import from_parts
from photon.core.tree import Tree
from photon.errors import PayloadError

LARGEST_COUNT = 2**53
"""Beyond it a float, which a weight becomes, cannot hold every whole number."""
MOST_METRICS = 64

Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST_COUNT)]
Positive = Annotated[int, Field(strict=True, ge=1, le=LARGEST_COUNT)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e18, le=1e18)]
MetricName = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9_./-]{1,64}$")]
Name = Annotated[str, Field(strict=True, max_length=1000)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class InstructionFacts(Closed):
    """What one client is asked for; see `core.messages.Instruction`."""

    run: Name
    round: Positive
    client: Count
    first_step: Count
    local_steps: Positive
    base_digest: Name
    last_accepted: Count
    descent: Annotated[str, Field(strict=True, max_length=64)] = ""
    evaluate: Annotated[bool, Field(strict=True)] = False
    ahead: Count = 0
    part: Share = 1.0
    again: Share = 0.0


class UpdateFacts(Closed):
    """All of an update but its tensors; see `core.messages.Update`."""

    run: Name
    round: Count
    client: Count
    num_tokens: Count
    num_steps: Count
    base_digest: Name
    metrics: dict[MetricName, Number] = Field(max_length=MOST_METRICS)
    state_lost: Annotated[bool, Field(strict=True)] = False
    covers: tuple[Count, ...] = ()


def update_of(tensors: Tree, facts: Mapping[str, Any]) -> Update:
    """The update that came in a container.

    Raises:
        PayloadError: something is missing, of another type, out of bounds, or one too many.
    """
    try:
        said = UpdateFacts.model_validate(dict(facts))
    except ValidationError as error:
        raise PayloadError(f"not an update: {first_fault(error)}") from None
    return from_parts(Update, tensors, said.model_dump())


def first_fault(error: ValidationError) -> str:
    """Where a value does not fit, and why not."""
    fault = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
