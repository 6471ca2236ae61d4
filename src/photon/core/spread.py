"""Which worker trains which client, so that a round's last one is done early.

Workers of a machine may differ: another GPU, or another program on it. An idle one that takes the
next client because it is idle may keep the whole round waiting for it.

    measured, rested    what is known of a worker's pace
    spread              who trains whom
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LONGEST_TRUST = 0.99
"""A worker that a round leaves out is held for that much faster in the next, at least."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a worker is.

    Attributes:
        seconds: of one local step, with what surrounds the steps of a client.
        turns: in which that was measured.
    """

    seconds: float
    turns: int = 1


@dataclass(frozen=True, slots=True)
class Worker:
    """What is known of a worker.

    Attributes:
        pace: None: unknown, taken for the median of the others.
        steps: of the client that it trains; 0: it is idle.
        elapsed: seconds since it was given that client.
    """

    pace: Pace | None = None
    steps: int = 0
    elapsed: float = 0.0


def measured(before: Pace | None, seconds: float) -> Pace:
    """The pace after one more turn that took so many seconds a step: half of it is the newest.

    The first turn of a process, in which it compiles and warms up, counts until there is a second.
    """
    if before is None or before.turns == 1:
        return Pace(seconds, 1 if before is None else 2)
    return Pace((before.seconds + seconds) / 2, before.turns + 1)


def rested(pace: Pace) -> Pace:
    """The pace of a worker that a round has left out: it may have become faster since.

    It is held for faster until it gets a client again, which measures it. The more often it was
    measured the longer that takes, so that a worker which stays slow is rarely tried.
    """
    return Pace(pace.seconds * min(LONGEST_TRUST, 1 - 0.5**pace.turns), pace.turns)


def spread(steps: Mapping[int, int], workers: Sequence[Worker]) -> list[list[int]]:
    """Place each client, the longest first, on the worker that would have finished it first.

    List scheduling, longest first (Graham 1969, SIAM J. Appl. Math. 17:416), on machines of
    different speed (Gonzalez, Ibarra and Sahni 1977, SIAM J. Comput. 6:155): with idle workers the
    last client is done at most 2 - 2 / (workers + 1) times as late as in the best order, and as
    early as can be where all take the same number of steps. An idle worker that is given none here
    would be the last one; of idle workers alone at least one is given a client.

    Args:
        steps: client that waits -> its local steps; of equals the first comes first.
        workers: at least one.

    Returns:
        For each worker its clients, in their order.
    """
    paces = _paces(workers)
    ends = [max(0.0, w.steps * pace - w.elapsed) for w, pace in zip(workers, paces, strict=True)]
    placed: list[list[int]] = [[] for _ in workers]
    for client in sorted(steps, key=steps.__getitem__, reverse=True):
        done = [end + steps[client] * pace for end, pace in zip(ends, paces, strict=True)]
        chosen = min(range(len(workers)), key=lambda i: (done[i], ends[i]))
        ends[chosen] = done[chosen]
        placed[chosen].append(client)
    return placed


def _paces(workers: Sequence[Worker]) -> list[float]:
    """Seconds of a step. Who is not done when he should have been is slower than was thought."""
    known = [worker.pace.seconds for worker in workers if worker.pace]
    usual = float(np.median(known)) if known else 1.0
    return [
        max(w.pace.seconds if w.pace else usual, w.elapsed / w.steps if w.steps else 0.0)
        for w in workers
    ]
