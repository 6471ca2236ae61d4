"""What of a long run a page shows: no more than a screen does."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_POINTS = 2000
"""Of a curve; some megabytes of 30,000 rounds would show no more."""
MOST_BARS = 500
"""Of a plot with a bar or a column for each round."""
MOST_CELLS = 48_000
"""Of all clients of a plot together; a plot of more clients shows fewer rounds."""


def thinned(values: Sequence[float], most: int = MOST_POINTS) -> list[int]:
    """Indices of at most so many values: the first, the last, and between them the smallest and
    the largest finite one of each of some stretches, which are equally long.
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    stretches = max(1, most // 2 - 1)
    kept = {0, count - 1}
    for number in range(stretches):
        begin, end = (1 + n * (count - 2) // stretches for n in (number, number + 1))
        finite = [i for i in range(begin, end) if math.isfinite(values[i])] or [begin]
        kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
    return sorted(kept)


def most_for_each(clients: int, most: int) -> int:
    """Points that each of so many clients may have, of a plot that has so many for one."""
    return max(16, min(most, MOST_CELLS // max(1, clients)))


def left_out(count: int, most: int = MOST_POINTS) -> str:
    """What a plot says that is given so many points of a curve; nothing where it shows them all."""
    return f"Of more than {most:,} points those that stand out are drawn." if count > most else ""
