"""Outer optimizers that `quality.py` tries and Photon does not have; given as one's own."""

from __future__ import annotations

from torch import Tensor

from photon.core.outer import OuterOptimizer, OuterState, nesterov
from photon.core.tree import Tree, zeros_like


def quasi_hyperbolic(*, lr: float, server_momentum: float, share: float) -> OuterOptimizer:
    """v <- mu v + g;  x <- x - lr ((1 - share) g + share v): a long memory that weighs little.

    Source: Ma and Yarats 2018, arXiv:1810.06801, with the sum in place of the mean.
    """

    def init(params: Tree) -> OuterState:
        return {"momentum": zeros_like(params)}

    def step(params: Tree, gradient: Tree, state: OuterState):
        for name, value in params.items():
            v = state["momentum"][name].mul_(server_momentum).add_(gradient[name])
            value.add_(gradient[name], alpha=-lr * (1 - share)).add_(v, alpha=-lr * share)
        return params, state

    return OuterOptimizer(init, step, elementwise=True)


def rising(*, lr: float, server_momentum: float) -> OuterOptimizer:
    """Nesterov whose momentum in round t is at most 1 - 1 / t, so that it begins without any."""

    def init(params: Tree) -> OuterState:
        return {"momentum": zeros_like(params), "rounds": zeros_like(params)}

    def step(params: Tree, gradient: Tree, state: OuterState):
        for name, value in params.items():
            t = state["rounds"][name].add_(1)
            now = (1 - 1 / t).clamp_(max=server_momentum)
            v = state["momentum"][name].mul_(now).add_(gradient[name])
            value.sub_((gradient[name] + now * v).mul_(lr))
        return params, state

    return OuterOptimizer(init, step, elementwise=True)


def by_layer(*, lr: float, server_momentum: float, embedding: float) -> OuterOptimizer:
    """Nesterov in which the token embedding has so many times the rate of the others."""
    others = nesterov(lr=lr, server_momentum=server_momentum)
    first = nesterov(lr=lr * embedding, server_momentum=server_momentum)

    def step(params: dict[str, Tensor], gradient: Tree, state: OuterState):
        for name, value in params.items():
            own = {key: {name: tree[name]} for key, tree in state.items()}
            one = first if "embedding" in name else others
            one.step({name: value}, {name: gradient[name]}, own)
        return params, state

    return OuterOptimizer(others.init, step, elementwise=True)
