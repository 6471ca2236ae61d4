"""What runs over links come to: seconds to a loss, beside what was predicted. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from links_arms import DDP, TRAINED_AS

Record = Mapping[str, Any]
Point = Mapping[str, float]
"""Of a curve: `step` and `val_loss`."""


def of_part(records: Sequence[Record], part: str) -> list[Record]:
    """Lines of a part of the benchmark: `curve`, `machine`, `link` or `kills`."""
    return [one for one in records if one["part"] == part]


def target(curves: Sequence[Sequence[Point]]) -> float:
    """The lowest loss that all of them come to."""
    return max(min(point["val_loss"] for point in curve) for curve in curves)


def steps_to(loss: float, curve: Sequence[Point]) -> float | None:
    """Steps after which a curve is as low, between two validations on a straight line; None: it
    never is.
    """
    if curve[0]["val_loss"] <= loss:
        return curve[0]["step"]
    for a, b in pairwise(curve):
        if b["val_loss"] <= loss:
            share = (a["val_loss"] - loss) / (a["val_loss"] - b["val_loss"])
            return a["step"] + share * (b["step"] - a["step"])
    return None


def curves_of(records: Sequence[Record]) -> dict[str, list[Point]]:
    """By arm, the newest."""
    return {one["arm"]: one["curve"] for one in of_part(records, "curve")}


def aim(records: Sequence[Record], loss: float | None = None) -> float | None:
    """The loss that seconds are counted to: the given one, or the lowest that all arms come to;
    None until all have a curve.
    """
    curves = curves_of(records)
    return loss if loss or set(curves) != set(TRAINED_AS) else target(list(curves.values()))


def steps_needed(records: Sequence[Record], loss: float | None) -> dict[str, float | None]:
    """By arm, steps to that loss."""
    found = curves_of(records)
    return {arm: None if loss is None else steps_to(loss, own) for arm, own in found.items()}


def off(record: Record, name: str) -> float | None:
    """How far a prediction is above the real seconds, a share; None: there is none."""
    return record[name] / record["step_seconds"] - 1 if name in record else None


def times_faster(records: Sequence[Record], loss: float | None = None) -> dict[str, list[float]]:
    """By arm, how many times sooner than DDP over each link it comes to the loss."""
    needed = steps_needed(records, aim(records, loss))
    taken = {(one["arm"], *_link(one)): one for one in of_part(records, "link")}
    found: dict[str, list[float]] = {}
    for (arm, *link), one in taken.items():
        other = taken.get((DDP, *link))
        own, theirs = needed.get(arm), needed.get(DDP)
        if arm != DDP and other is not None and own and theirs:
            ratio = theirs * other["step_seconds"] / (own * one["step_seconds"])
            found.setdefault(arm, []).append(ratio)
    return found


def _link(record: Record) -> tuple[float, float]:
    return record["mbit"], record["milliseconds"]


def table(records: Sequence[Record], loss: float | None = None) -> str:
    """Markdown: links, then kills."""
    aimed = aim(records, loss)
    needed = steps_needed(records, aimed)
    links = sorted(of_part(records, "link"), key=lambda one: (*_link(one), _place(one)))
    to = "s to the loss" if aimed is None else f"s to a loss of {aimed:.3f}"
    head = ["link", "arm", "steps to it", to, "planned", "simulated", "s a step", "planned",
            "simulated", "MB to it", "utilization"]  # fmt: skip
    rows = [[_named(one), one["arm"], *_row(one, needed.get(one["arm"]))] for one in links]
    kills = of_part(records, "kills")
    return "\n\n".join(filter(None, (_markdown(head, rows) if rows else "", _of_kills(kills))))


def _place(record: Record) -> int:
    return list(TRAINED_AS).index(record["arm"])


def _named(record: Record) -> str:
    return f"{record['mbit']:g} Mbit/s, {record['milliseconds']:g} ms"


def _row(record: Record, steps: float | None) -> list[str]:
    kinds = ("step_seconds", "planned", "simulated")
    seconds = [record.get(kind) for kind in kinds]
    whole = [_shown(one and steps and one * steps, ".0f") for one in seconds]
    each = [f"{record['step_seconds']:.3f}", *(_percent(off(record, k)) for k in kinds[1:])]
    megabytes = _shown(steps and steps * record["step_bytes"] / 1e6, ".1f")
    return [_shown(steps, ".0f"), *whole, *each, megabytes, f"{record['utilization']:.2f}"]


def _of_kills(records: Sequence[Record]) -> str:
    head = ["link", "arm", "a kill every", "kills", "goodput", "utilization", "s a round"]
    rows = [
        [_named(one), one["arm"], f"{one['kill_every']:g} s", str(one["kills"]),
         f"{one['goodput']:.3f}", f"{one['utilization']:.3f}", f"{one['round_seconds']:.1f}"]
        for one in records
    ]  # fmt: skip
    return _markdown(head, rows) if rows else ""


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
