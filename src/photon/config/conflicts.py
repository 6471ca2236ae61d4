"""Options of `fl` that cannot be had together, in one table: what, with what, and why.

A row holds where both of its options are in use. Whoever adds an option that takes something away
from others adds it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from photon.config.federation import Federation

Use = Callable[["Federation"], bool]


class Option(NamedTuple):
    """An option, as the table names it.

    Attributes:
        shown: as it is given, without `fl.`; `{fl}` stands for the federation.
        is_used: whether it is in use.
    """

    shown: str
    is_used: Use


class Conflict(NamedTuple):
    """Two options of `OPTIONS` that exclude each other.

    Attributes:
        why: half a sentence.
    """

    one: str
    other: str
    why: str


OPTIONS: dict[str, Option] = {
    "fold_updates": Option("fold_updates=true", lambda fl: fl.fold_updates),
    "aggregation": Option(
        "aggregation={fl.aggregation}", lambda fl: fl.aggregation != "mean"
    ),
    "oversample": Option("oversample={fl.spares}", lambda fl: fl.spares > 0),
    "scaling_fn": Option("scaling_fn={fl.scaling}", lambda fl: fl.scaling != "none"),
    "secure_aggregation": Option("secure_aggregation=true", lambda fl: fl.secure_aggregation),
    "mode=async": Option("mode=async", lambda fl: fl.is_async),
    "staleness_exponent": Option(
        "staleness_exponent={fl.staleness_exponent}", lambda fl: fl.staleness_exponent is not None
    ),
    "use_noise_scale_metric": Option("use_noise_scale_metric=true", lambda fl: fl.measures_noise),
}  # fmt: skip

CONFLICTS: tuple[Conflict, ...] = (
    Conflict("fold_updates", "oversample", "from a node's mean no spare client can be left out"),
    Conflict("fold_updates", "aggregation",
             "the mean that a node sends no longer has its clients' directions and lengths"),
    Conflict("aggregation", "scaling_fn",
             "what a mean of many clients is too short is made up for once, or is no mean"),
    Conflict("secure_aggregation", "fold_updates",
             "a node's mean would be masked as one client's, and is seen by nobody anyway"),
    Conflict("secure_aggregation", "aggregation",
             "the server has the sum alone, and any other mean needs each update"),
    Conflict("secure_aggregation", "oversample",
             "who is averaged must be known before updates are masked, not whose comes first"),
    Conflict("secure_aggregation", "mode=async",
             "masks cancel in the sum of one cohort, and a merge takes whoever has come"),
    Conflict("secure_aggregation", "staleness_exponent",
             "a late update is masked against clients whose sum has been opened"),
    Conflict("secure_aggregation", "use_noise_scale_metric",
             "it needs the norm of each update, and the server has that of the mean"),
)  # fmt: skip


def check_conflicts(fl: Federation) -> None:
    """Raises:
    ValueError: the first two options in use that exclude each other.
    """
    for one, other, why in CONFLICTS:
        if OPTIONS[one].is_used(fl) and OPTIONS[other].is_used(fl):
            names = (OPTIONS[name].shown.format(fl=fl) for name in (one, other))
            raise ValueError(f"{' and '.join(names)} exclude each other: {why}")


def conflict_lines(option: str | None = None) -> Iterator[str]:
    """The table, a line each, or the rows of one option."""
    for one, other, why in CONFLICTS:
        if option in (None, one, other):
            yield f"    {one} and {other}: {why}"
