"""What `photon evaluate` has found, as it lies in a run: read back, and of a form that is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from photon.errors import CheckpointError, warn
from photon.wire.facts import first_fault

RESULTS = "results.json"
Number = Annotated[float, Field(strict=True)]


class _Loss(BaseModel):
    loss: Number | None


class _Score(BaseModel):
    accuracy: Number | None
    stderr: Number | None
    chance: Number | None
    majority: Number | None
    n: int


class _Task(BaseModel):
    score: _Score


class _Composite(BaseModel):
    name: str
    score: Number | None


class _Results(BaseModel):
    """What is shown of an evaluation; it says more."""

    losses: dict[str, _Loss]
    composites: list[_Composite]
    tasks: dict[str, _Task]


def read_results(folder: Path) -> dict[str, Any] | None:
    """`results.json` of an evaluation; None if there is none.

    Raises:
        CheckpointError: it is unreadable.
    """
    path = folder / RESULTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _Results.model_validate(found)
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(f"{path}: cannot be read ({reason}); evaluate again") from error


def all_results(run: Path) -> dict[Path, dict[str, Any]]:
    """Those of a run, by their folders below `evaluation`, of a client's own model one deeper; what
    cannot be read is left out with a warning.
    """
    root, found = run / "evaluation", {}
    for path in sorted(root.rglob(RESULTS)):
        try:
            if (results := read_results(path.parent)) is not None:
                found[path.parent.relative_to(root)] = results
        except CheckpointError as error:
            warn(f"left out: {error}")
    return found
