"""Which rates an arm of `quality.py` is run with: the best of its grid, at a seed of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quality_arms import Arm, Rates, arm_of
from quality_setting import SMOKE, Setting, setting_of

SEED = 4
"""Of tuning, which none of the reported runs has."""
Record = Mapping[str, Any]
"""A finished run, as a line of the log has it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Rates, and where they are from."""

    rates: Rates
    how: str


def best(records: Iterable[Record], name: str, setting: Setting) -> Choice | None:
    """The best of a grid; None until its cross was run, or where all of it diverged."""
    arm, losses = arm_of(name), tried(records, name, setting)
    if not set(cross(arm, losses)) <= set(losses):
        return None
    rates = min((one for one in arm.grid if one in losses), key=losses.__getitem__)
    if not math.isfinite(losses[rates]):
        return None
    is_at_edge = _at_edge(rates.inner, arm.inner) or _at_edge(rates.outer, arm.outer)
    return Choice(rates, "own grid, at its edge" if is_at_edge else "own grid")


def tried(records: Iterable[Record], name: str, setting: Setting) -> dict[Rates, float]:
    """Losses of an arm at the seed of tuning, in a setting."""
    return {rates_of(r): loss_of(r) for r in records if r["seed"] == SEED and _is(r, name, setting)}


def cross(arm: Arm, losses: Mapping[Rates, float]) -> list[Rates]:
    """Of an arm's grid, what is run unless the whole is asked for: all inner rates with one outer
    rate; then all outer rates with the best inner one, as soon as that is known.
    """
    across = [Rates(inner, arm.first[1]) for inner in arm.inner]
    if not set(across) <= set(losses):
        return across
    inner = min(across, key=losses.__getitem__).inner
    return list(dict.fromkeys([*across, *(Rates(inner, outer) for outer in arm.outer)]))


def _is(record: Record, name: str, setting: Setting) -> bool:
    return record["arm"] == name and setting_of(record) == setting


def _at_edge(value: float | None, grid: Sequence[float]) -> bool:
    return len(grid) > 1 and value in (grid[0], grid[-1])


def rates_of(record: Record) -> Rates:
    return Rates(record["inner_rate"], record["outer_rate"])


def loss_of(record: Record) -> float:
    """Infinite where it diverged."""
    return math.inf if record["val_loss"] is None else record["val_loss"]


def choose(records: Sequence[Record], name: str, setting: Setting) -> Choice:
    """The rates of a run: tuned in its setting, in the quickstart's of its model, or in the
    quickstart itself; else those of the arm that it is a change of; else what is known from before.
    """
    arm = arm_of(name)
    for owner in filter(None, (name, arm.tuned_as)):
        for place in places(setting):
            found = best(records, owner, arm_of(owner).placed(place))
            if found is None:
                continue
            whose = found.how if owner == name else found.how.replace("own", f"{owner}'s")
            where = "" if place == setting else f" ({place.title})"
            return Choice(found.rates, whose + where)
    return Choice(Rates(*arm.first), "not tuned")


def places(setting: Setting) -> list[Setting]:
    """Where rates may be tuned, the nearest first."""
    return list(dict.fromkeys([setting, Setting(setting.model), Setting()]))


def key(record: Record) -> tuple[Any, ...]:
    """What makes two runs the same."""
    return record["arm"], setting_of(record), record["seed"], rates_of(record)


KIND_SECONDS = {"federated": 75.0, "centralised": 68.0, "alone": 18.0}
"""Of the quickstart's steps on 2 cores, of which a federation's rounds take more."""
ROUND_SECONDS = 0.4
TIMES = {"four times": 4.2, SMOKE: 0.01}


def expected(records: Iterable[Record], name: str, setting: Setting) -> float:
    """Seconds of a run on 2 cores: as long as it took before, else a guess."""
    took = [r["wall_seconds"] for r in records if _is(r, name, setting)]
    if took:
        return statistics.median(took)
    arm = arm_of(name)
    steps = KIND_SECONDS[arm.trains] * setting.steps / 384 * TIMES.get(setting.model, 1.0)
    length = setting.local_steps / (arm.fragments * arm.often)
    more = max(0.0, setting.steps / length - 24) if arm.trains == "federated" else 0.0
    simulated = 1.0 if arm.slow is None else 2.0
    return steps * simulated + more * ROUND_SECONDS * setting.clients / 8
