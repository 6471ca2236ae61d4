"""The mean of a round's updates, at once or in parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from photon.core.codec import Codec, leaves
from photon.core.device_time import OF_CLIENTS
from photon.core.messages import Update
from photon.core.tree import Readable, Tree, chunks


def weighted_mean(trees: Sequence[Readable], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted mean, leaf by leaf and chunk by chunk: sum_k w_k x_k / sum_k w_k.

    The sum runs in float64 in the order of `trees`, so the caller fixes the bits by fixing the
    order; the extra memory is one chunk, whatever the number of trees. Leaves may be encoded, lazy
    or memory-mapped, and of any float type.

    Returns:
        float32 leaves of the same names and shapes.

    Raises:
        ValueError: no trees, or weights that do not sum to a positive number.
    """
    total = float(sum(weights))
    if not trees or not total > 0:
        raise ValueError(f"a mean needs a positive total weight, got {list(weights)}")
    mean: dict[str, Tensor] = {}
    for name, first in trees[0].items():
        mean[name] = torch.empty(first.shape, dtype=torch.float32)
        rows = [chunks(tree[name]) for tree in trees]
        for result, *parts in zip(chunks(mean[name]), *rows, strict=True):
            result.copy_(_mean_of_chunk(parts, weights, total))
    return mean


def _mean_of_chunk(parts: Sequence[Tensor], weights: Sequence[float], total: float) -> Tensor:
    accumulator = torch.zeros(parts[0].numel(), dtype=torch.float64)
    for part, weight in zip(parts, weights, strict=True):
        accumulator.add_(part.to(torch.float64), alpha=weight)
    return accumulator.div_(total)


def fold(updates: Sequence[Update], like: Tree, codec: Codec) -> Update:
    """The updates of one node as one: their weighted mean in fp32, with the summed weight.

    The mean of such means is the mean of all, to the rounding of fp32.

    Args:
        like: tensors with the shapes of the parameters.
        codec: of the updates.

    Raises:
        ValueError: no updates.
    """
    ordered = sorted(updates, key=lambda update: update.client)
    weights = [float(update.num_tokens) for update in ordered]

    def mean(trees: Iterable[Tree]) -> dict[str, Tensor]:
        return weighted_mean([leaves(tree, like, codec) for tree in trees], weights)

    gradient = mean(update.gradient for update in ordered)
    moments = {name: mean(u.moments[name] for u in ordered) for name in ordered[0].moments}
    shared = set.intersection(*(set(update.metrics) for update in ordered))
    return replace(
        ordered[0],
        gradient=gradient,
        moments=moments,
        num_tokens=sum(update.num_tokens for update in ordered),
        num_steps=max(update.num_steps for update in ordered),
        metrics={key: _folded(key, ordered, weights) for key in sorted(shared)},
        state_lost=any(update.state_lost for update in ordered),
        covers=tuple(update.client for update in ordered),
    )


def _folded(key: str, updates: Sequence[Update], weights: Sequence[float]) -> float:
    """The mean of a metric; the seconds of a device that clients share add up."""
    if key in OF_CLIENTS.values():
        return sum(update.metrics[key] for update in updates)
    weighted = zip(updates, weights, strict=True)
    return sum(update.metrics[key] * weight for update, weight in weighted) / sum(weights)
