"""Outer optimizers: what the server does with the mean pseudo-gradient.

An `OuterOptimizer` is two functions. `init(params)` gives the state; `step(params, gradient,
state)` gives new parameters and new state. The pseudo-gradient is global - local and is used
exactly like a gradient, so a positive entry lowers its parameter.

A step owns its arguments: it may write into them and give them back. Those here do, since what
they are given is all there is of it in memory.

A function that gives one is named in `photon.points`, or by a configuration as its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from photon.core.tree import Tree, zeros_like

OuterState = dict[str, dict[str, Tensor]]
"""Moments by name (`momentum`, `second`), each a tree like the parameters; may be empty."""
GATHERED = "gathered"
"""Of these the parts of a round since momentum moved last."""
EMA = "ema"
"""Of these the average of the parameters, where one is kept."""


Take = Callable[[Tree, Tree, OuterState], tuple[Mapping[str, Tensor], OuterState]]


class OuterOptimizer(NamedTuple):
    """Two functions; a step owns its arguments, and may write its results into them.

    Attributes:
        elementwise: whether what a step makes of an element depends on no other one; it is then
            called for a few elements of one parameter at a time. Else it gets whole trees.
        between: what stands in the place of `step` until as much as a whole round has come.
    """

    init: Callable[[Tree], OuterState]
    step: Take
    elementwise: bool = False
    between: Take | None = None


def sgd(
    *, lr: float, momentum: float = 0.0, nesterov: bool = False, gathers: bool = False
) -> OuterOptimizer:
    """FedAvg (lr 1, momentum 0), FedAvgM, and DiLoCo's Nesterov; equal to `torch.optim.SGD`.

    v <- mu v + g;  x <- x - lr (g + mu v) with Nesterov, x - lr v without.
    Source: Sutskever et al. 2013; as an outer optimizer, Douillard et al. 2023, arXiv:2311.08105.
    FedMom (Huo et al. 2020, arXiv:2002.02090), started at the initial parameters, gives the same
    iterates as the Nesterov form.

    Args:
        gathers: take parts of rounds too, see `_gathering`.
    """
    if gathers and momentum:
        return _gathering(lr, momentum, nesterov)

    def init(params: Tree) -> OuterState:
        return {"momentum": zeros_like(params)} if momentum else {}

    def step(params: Tree, gradient: Tree, state: OuterState):
        for name, value in params.items():
            g = gradient[name]
            if momentum:
                v = state["momentum"][name].mul_(momentum).add_(g)
                g = g.add_(v, alpha=momentum) if nesterov else v
            value.add_(g, alpha=-lr)
        return params, state

    return OuterOptimizer(init, step, elementwise=True)


def _gathering(lr: float, momentum: float, nesterov: bool) -> OuterOptimizer:
    """Momentum that moves once a round, however many parts a round's pseudo-gradient comes in.

    s <- s + g;  between: x <- x - lr g;  at the end: v <- mu v + s, s <- 0, and
    x <- x - lr (g + mu v), with Nesterov of the new v, without of the old one. Whole rounds are
    steps of `sgd`, bit for bit. Source: Liu et al. 2024, arXiv:2401.09135, algorithm 3 with c = 0.
    """

    def init(params: Tree) -> OuterState:
        return {"momentum": zeros_like(params), GATHERED: zeros_like(params)}

    def between(params: Tree, gradient: Tree, state: OuterState):
        for name, value in params.items():
            state[GATHERED][name].add_(gradient[name])
            value.add_(gradient[name], alpha=-lr)
        return params, state

    def step(params: Tree, gradient: Tree, state: OuterState):
        for name, value in params.items():
            g, s = gradient[name], state[GATHERED][name]
            s.add_(g)
            v = state["momentum"][name].mul_(momentum)
            g = g if nesterov else g.add_(v)
            v.add_(s)
            value.add_(g.add_(v, alpha=momentum) if nesterov else g, alpha=-lr)
            s.zero_()
        return params, state

    return OuterOptimizer(init, step, elementwise=True, between=between)


def adaptive(
    rule: Literal["adagrad", "adam", "yogi"],
    *,
    eta: float,
    beta_1: float,
    beta_2: float = 0.99,
    tau: float,
) -> OuterOptimizer:
    """FedAdagrad, FedAdam and FedYogi: Reddi et al. 2020, arXiv:2003.00295, algorithm 2.

    m <- b1 m + (1 - b1) g;  v by the rule;  x <- x - eta m / (sqrt(v) + tau). As in the paper there
    is no bias correction and v starts at tau^2.

    Args:
        beta_2: decay of v; AdaGrad has none.
    """

    def init(params: Tree) -> OuterState:
        second = {name: torch.full_like(value, tau**2) for name, value in params.items()}
        return {"momentum": zeros_like(params), "second": second}

    def step(params: Tree, gradient: Tree, state: OuterState):
        for name, value in params.items():
            g = gradient[name]
            m = state["momentum"][name].mul_(beta_1).add_(g, alpha=1 - beta_1)
            v = _second_moment(rule, state["second"][name], g.mul_(g), beta_2)
            value.addcdiv_(m, v.sqrt().add_(tau), value=-eta)
        return params, state

    return OuterOptimizer(init, step, elementwise=True)


def _second_moment(rule: str, v: Tensor, square: Tensor, beta_2: float) -> Tensor:
    """The new v, in place of the old one."""
    if rule == "adagrad":
        return v.add_(square)
    if rule == "adam":
        return v.mul_(beta_2).add_(square, alpha=1 - beta_2)
    return v.sub_(torch.sign(v - square).mul_(square), alpha=1 - beta_2)


def averaging(outer: OuterOptimizer, decay: float) -> OuterOptimizer:
    """The same steps, with an exponential moving average of the parameters beside them.

    a <- decay a + (1 - decay) x after each step, of rounds that come in parts once a round. It is
    the state's `ema`, begins at the initial parameters, and nobody trains from it. Sources: Polyak
    and Juditsky 1992; of models, Izmailov et al. 2018, arXiv:1803.05407.
    """

    def init(params: Tree) -> OuterState:
        ema = {name: value.clone() for name, value in params.items()}
        return {**outer.init(params), EMA: ema}

    def step(params: Tree, gradient: Tree, state: OuterState):
        params, moments = outer.step(params, gradient, without_ema(state))
        for name, value in params.items():
            state[EMA][name].lerp_(value, 1.0 - decay)
        return params, {**moments, EMA: state[EMA]}

    def between(params: Tree, gradient: Tree, state: OuterState):
        params, moments = (outer.between or outer.step)(params, gradient, without_ema(state))
        return params, {**moments, EMA: state[EMA]}

    return OuterOptimizer(init, step, outer.elementwise, between)


def without_ema(state: OuterState) -> OuterState:
    """The moments alone."""
    return {key: tree for key, tree in state.items() if key != EMA}


def ema_decay(decay: float, round_number: int) -> float:
    """What a round keeps of the average: until it is as old as `decay` remembers, all rounds count
    alike, and the initial parameters not at all.

    Args:
        round_number: counted from 1.
    """
    return min(decay, 1.0 - 1.0 / round_number)


def fedavgm(*, lr: float, server_momentum: float, gathers: bool = False) -> OuterOptimizer:
    return sgd(lr=lr, momentum=server_momentum, gathers=gathers)


def nesterov(*, lr: float, server_momentum: float, gathers: bool = False) -> OuterOptimizer:
    return sgd(lr=lr, momentum=server_momentum, nesterov=True, gathers=gathers)


fedadagrad = partial(adaptive, "adagrad")
fedadam = partial(adaptive, "adam")
fedyogi = partial(adaptive, "yogi")


def outer_factor(name: str, round_number: int, t_max: int, t_warmup: int, alpha_f: float) -> float:
    """Factor of the outer learning rate in a round: warm-up, then constant, linear or cosine.

    Args:
        name: `constant`, `linear` or `cosine`.
        round_number: counted from 1.
        t_max: the last round of the fall, which would reach `alpha_f` in the next one; that and all
            later ones stay at its factor, so that no round is trained for one of zero.
        t_warmup: rounds in which the factor rises to 1.
    """
    if round_number <= t_warmup:
        return round_number / t_warmup
    if name == "constant" or t_max <= t_warmup:
        return 1.0
    done = (min(round_number, t_max) - t_warmup) / (t_max + 1 - t_warmup)
    fall = done if name == "linear" else (1.0 - math.cos(math.pi * done)) / 2.0
    return 1.0 - (1.0 - alpha_f) * fall
