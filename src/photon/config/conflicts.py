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
    "mode": Option("mode={fl.mode}", lambda fl: fl.is_async),
    "scoring": Option("scoring.enabled=true", lambda fl: fl.judging.enabled),
    "scaling_fn": Option("scaling_fn={fl.scaling}", lambda fl: fl.scaling != "none"),
}  # fmt: skip

CONFLICTS: tuple[Conflict, ...] = (
    Conflict("fold_updates", "oversample", "from a node's mean no spare client can be left out"),
    Conflict("fold_updates", "aggregation",
             "the mean that a node sends no longer has its clients' directions and lengths"),
    Conflict("scoring", "fold_updates", "a node's mean does not say whose update is bad"),
    Conflict("scoring", "mode", "a merge of few updates has none to compare them with"),
    Conflict("aggregation", "scaling_fn",
             "what a mean of many clients is too short is made up for once, or is no mean"),
)  # fmt: skip


def check_conflicts(fl: Federation) -> None:
    """Raises:
    ValueError: the first two options in use that exclude each other.
    """
    for one, other, why in CONFLICTS:
        if OPTIONS[one].is_used(fl) and OPTIONS[other].is_used(fl):
            names = (OPTIONS[name].shown.format(fl=fl) for name in (one, other))
            raise ValueError(f"{' and '.join(names)} exclude each other: {why}")


def conflict_lines(option: str) -> Iterator[str]:
    """The rows of an option, a line each."""
    for one, other, why in CONFLICTS:
        if option in (one, other):
            yield f"    fl.{other if option == one else one}: {why}"
