"""The mean that a secure one is equal to, without masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from photon.secure.fixed_point import Trees, quantised, restored, ring, scale


def plain_mean(
    updates: Sequence[Trees],
    tokens: Sequence[int],
    most_tokens: int,
    reaches: Mapping[str, float],
    clients: int,
) -> dict[str, dict[str, np.ndarray]]:
    """The mean of updates that are rounded to the same numbers, and masked by nobody: what a secure
    one is equal to, bit for bit.

    Args:
        tokens, most_tokens: 1 each where all clients count alike.
        reaches: of each tree.
        clients: that the scale has room for, those that dropped out too.

    Returns:
        Flat float32 leaves by tree.
    """
    mean: dict[str, dict[str, np.ndarray]] = {}
    for name, tree in updates[0].items():
        its, kind = scale(name, reaches[name], clients), ring(name)
        for leaf in tree:
            rows = [
                quantised(update[name][leaf].view(-1).numpy(), own / most_tokens, its, kind)
                for update, own in zip(updates, tokens, strict=True)
            ]
            total = _sum(rows)
            mean.setdefault(name, {})[leaf] = restored(total, most_tokens / sum(tokens), its)
    return mean


def _sum(rows: Iterable[np.ndarray]) -> np.ndarray:
    first, *others = rows
    for row in others:
        first = first + row
    return first
