"""Whether a rule bears a false update, found by giving it one."""

from __future__ import annotations

import torch

from photon.core.aggregate import Mixing, weighted_mean

SPREAD, FAR, NEAR = 0.01, 1e6, 10.0
"""Distance of sound updates from each other, of a false one, and of a merge that it hardly moves;
sound ones are about as long as 1."""


def withstands_one(mixing: Mixing, count: int) -> bool:
    """Whether the merge of so many updates stays with the others when one lies far away; of two
    nothing tells the false one.
    """
    return count > 2 and all(_stays(mixing, count, liar) for liar in {0, count - 1})


def _stays(mixing: Mixing, count: int, liar: int) -> bool:
    draw = torch.Generator().manual_seed(0)
    trees = [{"w": 1.0 + SPREAD * torch.randn(8, generator=draw)} for _ in range(count)]
    trees[liar]["w"] += FAR
    weights = [1.0] * count
    merged = weighted_mean(trees, weights, mixing(trees, weights, ()))["w"]
    return bool((merged - 1.0).abs().max() < NEAR)
