"""Who takes part in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from photon.core.seeds import derive_seed


def choose_cohort(seed: int, round_number: int, alive: Sequence[int], size: int) -> tuple[int, ...]:
    """Clients of one round: a uniform sample without replacement, in ascending order.

    A pure function of its arguments, so a resumed run draws the same cohorts without a replay.

    Args:
        seed: the run's seed.
        round_number: the round that opens, counted from 1.
        alive: clients that can take part.
        size: clients wanted; fewer come back if fewer are alive.
    """
    pool = sorted(alive)
    if size >= len(pool):
        return tuple(pool)
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "cohort", round_number)))
    return tuple(sorted(int(c) for c in generator.choice(pool, size=size, replace=False)))
