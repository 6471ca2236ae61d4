"""Merging by how whole pseudo-gradients lie to each other: who is among the others counts, or who
is far away counts less.

All of it follows from their inner products; what is found are weights for the ordinary mean. Every
client counts alike before, whatever it says of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from photon.core.aggregate import Mix, Mixing, Mixture
from photon.core.robust.gram import gram
from photon.core.tree import Readable


def krum(bad: int, kept: int) -> Mixing:
    """The mean of those updates that lie nearest to the others: multi-Krum.

    Args:
        bad: percent of the clients that may be false; no more are reckoned with than fewer than
            half of those that are here without two, where the rule holds.
        kept: percent of the clients that are averaged; at most as many as can be told to be sound.

    Source: Blanchard et al. 2017, arXiv:1703.02757; how many can be kept, El Mhamdi et al. 2018,
    arXiv:1802.07927.
    """

    def mixing(
        trees: Sequence[Readable], weights: Sequence[float], tables: Collection[str]
    ) -> Mixture:
        products, count = gram(trees), len(trees)
        false = max(0, min(count * bad // 100, (count - 3) // 2))
        sound = max(1, min(count * kept // 100, count - false - 2)) if count > 2 else count
        chosen = nearest(products, max(1, count - false - 2))[:sound]
        shares = [float(client in chosen) for client in range(count)]
        return Mixture(weights=shares, mean_norm=_mean_norm(products, weights))

    return mixing


def nearest(products: Tensor, neighbours: int) -> list[int]:
    """Trees by the sum of the squares of their distances to so many nearest others; of equals the
    first comes first.

    Args:
        products: [trees, trees], as `gram` gives them.
    """
    own = products.diag()
    distances = (own[:, None] + own - 2 * products).clamp(min=0.0).fill_diagonal_(math.inf)
    near = distances.sort(dim=1).values[:, : min(neighbours, len(own) - 1)]
    scores = near.sum(dim=1).tolist()
    return sorted(range(len(scores)), key=lambda tree: (scores[tree], tree))


def centred_clip(radius: int, iterations: int) -> Mixing:
    """Nobody pulls further than a radius around what all are merged into.

    Args:
        radius: percent of the median distance from there, in each iteration.
        iterations: of moving there; the first one starts from no movement at all.

    Source: Karimireddy et al. 2021, arXiv:2012.10333, algorithm 2; a radius that follows the
    distances needs no tuning.
    """

    def mixing(
        trees: Sequence[Readable], weights: Sequence[float], tables: Collection[str]
    ) -> Mixture:
        products = gram(trees)
        pulls = clipped(products, radius / 100, iterations).tolist()
        found = Mix(pulls, sum(pulls))
        return Mixture(dict.fromkeys(trees[0], found), _mean_norm(products, weights), weights=pulls)

    return mixing


def clipped(products: Tensor, radius: float, iterations: int) -> Tensor:
    """What all are merged into, as a sum of them: [trees], not negative, at most 1 together.

    Args:
        products: [trees, trees], as `gram` gives them.
        radius: as a part of the median distance.
    """
    count = len(products)
    found = torch.zeros(count, dtype=torch.float64)
    for _ in range(iterations):
        toward = products @ found
        distances = (products.diag() - 2 * toward + found @ toward).clamp(min=0.0).sqrt()
        within = radius * distances.median() / distances
        kept = torch.where(distances > 0, within.clamp(max=1.0), 1.0)
        found = found * (1 - kept.mean()) + kept / count
    return found


def _mean_norm(products: Tensor, weights: Sequence[float]) -> float:
    """Norm of the plain mean."""
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return math.sqrt(max(0.0, float(shares @ products @ shares)))
