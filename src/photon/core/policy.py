"""When a round stops waiting, who counts in it, which node trains whom: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from photon.core.messages import RoundPlan


def counted(plan: RoundPlan, sound: Collection[int]) -> list[int]:
    """Clients of a round that are averaged: the members of its cohort, and in the place of those
    that are missing the spares, in their order. No more than the cohort has members.

    Args:
        sound: clients whose updates are here, and not refused.
    """
    order = (*plan.members, *plan.spares)
    return [client for client in order if client in sound][: len(plan.members)]


def is_full(plan: RoundPlan, sound: Collection[int]) -> bool:
    """Whether a round that has spares needs no more updates than those that are here."""
    return bool(plan.spares) and len(counted(plan, sound)) == len(plan.members)


def stand_in(plan: RoundPlan, lost: Collection[int]) -> tuple[int, ...]:
    """Who is asked in the place of the last one that was lost, where nobody is asked before that.

    Args:
        lost: clients that have been asked and have no sound update, this one too.
    """
    return plan.spares[len(lost) - 1 : len(lost)]


def round_deadline(
    durations: Sequence[float], *, factor: float, shortest: float, longest: float
) -> float:
    """Seconds that a round waits for an update: median + factor x MAD of those measured.

    The median absolute deviation is scaled by 1.4826, so that it is the standard deviation of
    normal durations, and is at least a tenth of the median: equal durations are no promise.

    Args:
        durations: of updates of earlier rounds; with fewer than three, `longest` holds.
        factor: how many deviations late a straggler is.
        shortest, longest: bounds of the result.
    """
    if len(durations) < 3:
        return longest
    median = float(np.median(durations))
    deviation = 1.4826 * float(np.median(np.abs(np.asarray(durations) - median)))
    return min(longest, max(shortest, median + factor * max(deviation, median / 10)))


def assign(
    clients: Collection[int],
    hosts: Mapping[str, Collection[int]],
    busy: Collection[str],
    tried: Mapping[int, Collection[str]],
) -> dict[str, list[int]]:
    """Spread clients over the idle nodes that have their data, evenly.

    Args:
        clients: to be placed; those with the fewest hosts choose first.
        hosts: node -> clients whose data it has.
        busy: nodes that can take nobody now.
        tried: client -> nodes where it has failed; tried again only where there is no other, so a
            client rather waits for a busy node that it has not tried.

    Returns:
        node -> its new clients in ascending order; who cannot be placed now is left out.
    """
    able = {c: [n for n in sorted(hosts) if c in hosts[n]] for c in clients}
    placed: dict[str, list[int]] = {}
    for client in sorted(able, key=lambda c: (len(able[c]), c)):
        fresh = [n for n in able[client] if n not in tried.get(client, ())]
        if choices := [n for n in fresh or able[client] if n not in busy]:
            node = min(choices, key=lambda n: len(placed.get(n, ())))
            placed.setdefault(node, []).append(client)
    return {node: sorted(own) for node, own in placed.items()}


def steps_by_speed(
    steps: int, cohort: Collection[int], speeds: Mapping[int, float]
) -> dict[int, int]:
    """Steps of each client such that none takes longer than the median one.

    Who is slower than the median takes fewer steps in proportion, at least one. Weights are the
    tokens trained on, so such a client also counts for less. Of two in the middle the slower one is
    the median: so it lies between honest speeds whatever a single client says of its own.

    Args:
        steps: of a client of median speed, or of one not measured yet.
        speeds: client -> tokens per second.
    """
    known = [speeds[client] for client in cohort if client in speeds]
    if not known:
        return dict.fromkeys(cohort, steps)
    median = sorted(known)[(len(known) - 1) // 2]
    return {
        client: max(1, round(steps * min(1.0, speeds.get(client, median) / median)))
        for client in cohort
    }
