"""What a run over shaped links comes to, from the steps that its nodes took and its records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(slots=True)
class Stretch:
    """Steps that a node took of one round without a break.

    Attributes:
        process: that took them.
        ends: monotonic time at which each step ended.
    """

    round: int
    process: int
    ends: list[float] = field(default_factory=list)


def stretches(lines: Iterable[Mapping[str, Any]]) -> list[Stretch]:
    """Those in the log of a node, see `shaped_node`."""
    found: list[Stretch] = []
    for line in lines:
        if "round" in line:
            found.append(Stretch(line["round"], line["process"]))
        else:
            found[-1].ends.append(line["at"])
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a run; the first round, in which nodes come, counts for goodput alone.

    Attributes:
        round_seconds: median wall time from one record to the next.
        utilization: seconds of steps over seconds of nodes.
        goodput: tokens that were merged over tokens trained, those of killed clients and refused
            updates included. What a node was still at when the last round closed, or on its way
            with, is in neither.
        of_nodes: utilization of each node.
        kills: of nodes.
    """

    rounds: int
    seconds: float
    round_seconds: float
    utilization: float
    goodput: float
    tokens: int
    bytes_up: int
    bytes_down: int
    of_nodes: list[float]
    kills: int
    val_loss: float | None


def figures(
    records: Sequence[Mapping[str, Any]],
    times: Sequence[float],
    taken: Sequence[Sequence[Stretch]],
    step_seconds: Sequence[float],
    tokens_per_step: int,
    kills: int,
) -> Figures:
    """
    Args:
        records: lines of metrics.jsonl.
        times: monotonic, at which each record was there.
        taken: of each node, whose number is that of its client.
        step_seconds: of a step, by node.
    """
    begun, ended = times[0], times[-1]
    busy = [
        seconds * sum(begun < end <= ended for one in own for end in one.ends)
        for own, seconds in zip(taken, step_seconds, strict=True)
    ]
    steps = sum(closed_steps(own, merged_rounds(records, n), ended) for n, own in enumerate(taken))
    measured = records[1:]
    return Figures(
        rounds=len(measured),
        seconds=ended - begun,
        round_seconds=statistics.median(b - a for a, b in pairwise(times)),
        utilization=sum(busy) / (len(taken) * (ended - begun)),
        goodput=records[-1]["tokens"] / (steps * tokens_per_step),
        tokens=records[-1]["tokens"],
        bytes_up=sum(record["bytes_up"] for record in measured),
        bytes_down=sum(record["bytes_down"] for record in measured),
        of_nodes=[seconds / (ended - begun) for seconds in busy],
        kills=kills,
        val_loss=records[-1].get("val_loss"),
    )


def merged_rounds(records: Iterable[Mapping[str, Any]], client: int) -> set[int]:
    """Rounds that a client trained in whose update counted, at once or late."""
    return {
        record["round"] - record["late"].get(str(client), 0)
        for record in records
        if client in record["accepted"]
    }


def closed_steps(own: Sequence[Stretch], merged: set[int], ended: float) -> int:
    """Steps of a node up to a time, without those of a round that it is still at then."""
    begun = [one for one in own if one.ends and one.ends[0] <= ended]
    if begun and (last := begun[-1]).round not in merged:
        open_now = (last.round, last.process)
        begun = [one for one in begun if (one.round, one.process) != open_now]
    return sum(end <= ended for one in begun for end in one.ends)
