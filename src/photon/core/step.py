"""The mean of the pseudo-gradients and the outer step, in one pass over the memory.

Parameters and outer state are written where they lie, piece by piece, each while it is in the cache
of a core; what a record says of a round is taken from the pieces on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from photon.core.aggregate import Mixture, Piece, mean_by_piece
from photon.core.messages import ServerState
from photon.core.outer import OuterOptimizer, OuterState
from photon.core.tree import Readable, Tree, dot, dots, squares

Advance = Callable[[Piece], list[float]]
"""Does what a step does with a piece of the mean; gives the squares of what it wrote: of the
parameters, and of each tree of the outer state."""


@dataclass(frozen=True, slots=True)
class Step:
    """What came of an outer step.

    Attributes:
        params, outer: of the next state.
        products: of each pseudo-gradient with their mean.
        gradient: squares of the mean, by leaf.
        parameters: squares of all parameters afterwards, by leaf.
        moments: squares of each tree of the outer state afterwards.
        cosine: of the angle between the mean and the step before, 0 if one of them is zero; None
            if that step is not known.
        mean_norm: of the plain mean; None if that is what they were merged into.
    """

    params: Mapping[str, Tensor]
    outer: OuterState
    products: list[float]
    gradient: Mapping[str, float]
    parameters: Mapping[str, float]
    moments: Mapping[str, float]
    cosine: float | None
    mean_norm: float | None = None


def outer_step(
    state: ServerState,
    gradients: Sequence[Readable],
    weights: Sequence[float],
    outer: OuterOptimizer,
    by: float,
    last: Tree | None,
    mixture: Mixture,
) -> Step:
    """Take the step of `outer` with `by` times the weighted mean of the pseudo-gradients.

    An elementwise one writes over the parameters and the outer state of `state`, which become those
    of the next. Parameters that the pseudo-gradients lack stay as they are.

    Args:
        last: parameters before the last step of those that are due, if they are known.
        mixture: how they are merged, if not into that mean; then that is meant by it.
    """
    if outer.elementwise:
        sums = _pass(state, gradients, weights, last, mixture, _in_place(state, outer, by))
        params, moments = state.params, state.outer
        after = {name: found[4 + len(gradients) :] for name, found in sums.items()}
    else:
        mean = {name: torch.empty(row.shape) for name, row in gradients[0].items()}
        sums = _pass(state, gradients, weights, last, mixture, _collected(mean))
        params, moments = _of_whole_trees(state, mean, outer, by)
        after = {}
    total = sum(sums.values(), np.zeros(1))
    written, of_moments = _squares_after(params, moments, after)
    return Step(
        params=params,
        outer=moments,
        products=total[4 : 4 + len(gradients)].tolist(),
        gradient={name: float(found[0]) for name, found in sums.items()},
        parameters=written,
        moments=of_moments,
        cosine=None if last is None else _cosine(*total[:3].tolist()),
        mean_norm=math.sqrt(total[3]) if mixture.reduce is not None else mixture.mean_norm,
    )


def _pass(
    state: ServerState,
    gradients: Sequence[Readable],
    weights: Sequence[float],
    last: Tree | None,
    mixture: Mixture,
    advance: Advance,
) -> dict[str, np.ndarray]:
    """By leaf, sums over its elements: squares of the mean, its product with the step before, the
    squares of that, those of the plain mean, the products of each pseudo-gradient with the mean,
    and what `advance` gives.
    """
    noise = mixture.noise

    def take(piece: Piece) -> np.ndarray:
        if noise is not None:
            noise(piece)
        turned = (0.0, 0.0) if last is None else _turned(piece, last, state.params)
        own = dot(piece.mean, piece.mean)
        plain = own if piece.plain is None else dot(piece.plain, piece.plain)
        seen = [own, *turned, plain, *dots(piece.rows, piece.mean)]
        return np.array(seen + advance(piece))

    sums: dict[str, np.ndarray] = {}
    for name, found in mean_by_piece(gradients, weights, take, mixture):
        sums[name] = sums[name] + found if name in sums else found
    return sums


def _turned(piece: Piece, last: Tree, params: Tree) -> tuple[float, float]:
    """Product of the mean with the step before, and the squares of that."""
    step = _part(last[piece.name], piece) - _part(params[piece.name], piece)
    return dot(piece.mean, step), dot(step, step)


def _in_place(state: ServerState, outer: OuterOptimizer, by: float) -> Advance:
    def advance(piece: Piece) -> list[float]:
        name = piece.name
        params = {name: _part(state.params[name], piece)}
        moments = {key: {name: _part(tree[name], piece)} for key, tree in state.outer.items()}
        gradient = {name: piece.mean if by == 1.0 else piece.mean.mul_(by)}
        stepped, kept = outer.step(params, gradient, moments)
        pairs = [(params, stepped), *((tree, kept[key]) for key, tree in moments.items())]
        return [_written(old[name], new[name]) for old, new in pairs]

    return advance


def _written(old: Tensor, new: Tensor) -> float:
    """The squares of what is now in the place of the old."""
    if new is not old:
        old.copy_(new)
    return dot(old, old)


def _collected(mean: Tree) -> Advance:
    def advance(piece: Piece) -> list[float]:
        _part(mean[piece.name], piece).copy_(piece.mean)
        return []

    return advance


def _part(value: Tensor, piece: Piece) -> Tensor:
    return value.view(-1)[piece.at]


def _of_whole_trees(
    state: ServerState, gradient: Tree, outer: OuterOptimizer, by: float
) -> tuple[dict[str, Tensor], OuterState]:
    own = {name: state.params[name] for name in gradient}
    moments = {key: {n: tree[n] for n in gradient} for key, tree in state.outer.items()}
    scaled = gradient if by == 1.0 else {n: value * by for n, value in gradient.items()}
    stepped, moments = outer.step(own, scaled, moments)
    params = {name: stepped.get(name, value) for name, value in state.params.items()}
    kept = {
        key: {n: moments[key].get(n, value) for n, value in tree.items()}
        for key, tree in state.outer.items()
    }
    return params, kept


def _squares_after(
    params: Tree, moments: OuterState, after: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, float]]:
    """Of the parameters by leaf, and of each tree of the outer state; `after` has those of the
    leaves that a pass has written.
    """
    rest = squares({name: value for name, value in params.items() if name not in after})
    of_params = {name: float(after[name][0]) if name in after else rest[name] for name in params}
    of_moments = {
        key: sum(float(found[at]) for found in after.values())
        + sum(squares({n: v for n, v in tree.items() if n not in after}).values())
        for at, (key, tree) in enumerate(moments.items(), start=1)
    }
    return of_params, of_moments


def _cosine(gradient: float, product: float, step: float) -> float:
    scale = math.sqrt(gradient * step)
    return product / scale if scale > 0 else 0.0
