"""When a round stops waiting, and which node trains whom: pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np


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
    load: Mapping[str, int],
    avoid: Mapping[int, Collection[str]],
) -> dict[str, list[int]]:
    """Spread clients over the nodes that have their data, the least loaded first.

    Args:
        clients: to be placed; those with the fewest hosts choose first.
        hosts: node -> clients whose data it has.
        load: node -> clients that it trains already.
        avoid: client -> nodes where it has failed; taken again only if there is no other.

    Returns:
        node -> its new clients in ascending order; a client without a host is left out.
    """
    counts = {node: load.get(node, 0) for node in hosts}
    able = {c: [n for n in sorted(hosts) if c in hosts[n]] for c in clients}
    placed: dict[str, list[int]] = {}
    for client in sorted(able, key=lambda c: (len(able[c]), c)):
        fresh = [n for n in able[client] if n not in avoid.get(client, ())]
        if choices := fresh or able[client]:
            node = min(choices, key=lambda n: counts[n])
            counts[node] += 1
            placed.setdefault(node, []).append(client)
    return {node: sorted(own) for node, own in placed.items()}
