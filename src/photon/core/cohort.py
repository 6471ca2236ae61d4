"""Who takes part in a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from photon.core.seeds import generator


def choose_cohort(
    seed: int,
    round_number: int,
    alive: Sequence[int],
    size: int,
    sizes: Mapping[int, float] | None = None,
) -> tuple[int, ...]:
    """Clients of one round: a sample without replacement, in ascending order.

    A pure function of its arguments, so a resumed run draws the same cohorts without a replay.

    Args:
        alive: clients that can take part.
        size: clients wanted; fewer come back if fewer are alive.
        sizes: client -> how much data it has: each draw falls on a client with a probability in
            proportion; None: all alike.
    """
    if size >= len(alive):
        return tuple(sorted(alive))
    return tuple(sorted(_drawn(generator(seed, "cohort", round_number), alive, size, sizes)))


def choose_spares(
    seed: int,
    round_number: int,
    others: Sequence[int],
    size: int,
    sizes: Mapping[int, float] | None = None,
) -> tuple[int, ...]:
    """Clients that may stand in for one of the cohort, in the order in which they do.

    They have an address of their own, so that whoever is in the cohort does not depend on them.

    Args:
        others: clients that can take part and are not in the cohort.
        size, sizes: as of `choose_cohort`.
    """
    drawing = generator(seed, "spares", round_number)
    return tuple(_drawn(drawing, others, min(size, len(others)), sizes))


def _drawn(
    drawing: np.random.Generator,
    clients: Sequence[int],
    size: int,
    sizes: Mapping[int, float] | None,
) -> list[int]:
    pool = sorted(clients)
    if not pool or not size:
        return []
    weights = None if sizes is None else np.array([sizes[c] for c in pool], dtype=np.float64)
    chances = None if weights is None else weights / weights.sum()
    return [int(c) for c in drawing.choice(pool, size, replace=False, p=chances)]


def available(
    seed: int, round_number: int, clients: Sequence[int], probability: float
) -> list[int]:
    """Clients that are there in a round if each is with a probability, by itself.

    At least one of them is: the one whose draw comes nearest.
    """
    if probability >= 1.0 or not clients:
        return list(clients)
    draws = {c: generator(seed, f"available:{c}", round_number).random() for c in clients}
    here = [client for client, draw in draws.items() if draw < probability]
    return here or [min(draws, key=lambda client: (draws[client], client))]
