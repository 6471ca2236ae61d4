"""Where a client begins a round: at the server's parameters, or at its own until those arrive.

A client that goes on does not wait while its update travels. It trains on from its own parameters
and what the server's momentum adds to them (delayed), or from the newest of the server's with its
own fresh pseudo-gradient in them as far as the server will take it (eager). When the base of the
round arrives, after a fixed number of steps, what it began with gives way to it and its steps are
kept: x <- x + (base - begun). Its pseudo-gradient, base - x, then has nothing but its own steps of
this round in it, so that the server need not know.

Sources: parameters that move on under a merge, Streaming DiLoCo (Douillard et al. 2025,
arXiv:2501.18512), which keeps alpha of the steps where we keep them all; one's own fresh
pseudo-gradient now, the others' a round late, Kale et al. 2025, arXiv:2502.12996; gradients where
momentum will have taken the parameters, Chen et al. 2018, arXiv:1809.02839, there in a pipeline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from photon.config.federation import Federation
from photon.config.llm import OptimizerConfig
from photon.core.messages import ClientState, Instruction, Moments
from photon.core.policy import factor
from photon.core.tree import Tree
from photon.training.schedule import outer_lr_factor

SGD = ("FEDAVG", "FEDAVGM", "FEDMOM", "NESTEROV")
"""Outer optimizers whose steps are sums of pseudo-gradients."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a client begins a round with.

    Attributes:
        params: all parameters.
        giving_way: those of them, by name, for which the base is still to arrive.
    """

    params: Tree
    giving_way: Tree = field(default_factory=dict)


def beginning(
    instruction: Instruction,
    base: Tree,
    before: ClientState,
    merged: Collection[str],
    alpha: float = 0.0,
) -> Beginning:
    """Where a client begins, and which of its parameters the base will replace later.

    Args:
        base: parameters that the client has been told of.
        before: the client's state; its `ahead` is what it goes on from.
        merged: names whose values in `base` the client has not seen yet.
        alpha: what it keeps of its own, if it took part in the round before.
    """
    own = {n: v for n, v in before.ahead.items() if n in base and n not in merged}
    if not before.ahead or before.round != instruction.round - 1:
        return Beginning({**base, **own})
    arriving = [name for name in before.ahead if name in base and name in merged]
    if instruction.ahead:
        giving_way = {name: before.ahead[name] for name in arriving}
        return Beginning({**base, **own, **giving_way}, giving_way)
    if alpha:
        mixed = {n: torch.lerp(base[n], before.ahead[n].to(base[n]), alpha) for n in arriving}
        return Beginning({**base, **own, **mixed})
    return Beginning({**base, **own})


def arrival(begun: Beginning, base: Tree, alpha: float = 0.0) -> dict[str, Tensor]:
    """What is added to the moving parameters when the base arrives: (1 - alpha)(base - begun)."""
    gap = {n: base[n] - value.to(base[n]) for n, value in begun.giving_way.items()}
    return gap if alpha == 0 else {name: value.mul_(1 - alpha) for name, value in gap.items()}


def moments_arriving(
    averaged: Moments, begun: Moments, optimizer: OptimizerConfig, steps: int
) -> Iterator[tuple[str, str, Tensor]]:
    """What is added to moving moments when averaged ones arrive: beta^steps (averaged - begun).

    A moment is an exponential average of gradients, linear in what it began with: with this it is
    as if the client had begun with the averaged one, and its own steps are kept.

    Args:
        averaged, begun: moment -> parameter -> value, in any float type; all of the first are in
            the second.
        steps: that the client has taken meanwhile.

    Yields:
        Moment, parameter, and the value for it, one after the other for the memory's sake.
    """
    first, second = optimizer.decay_rates
    decay = {"exp_avg": first, "exp_avg_sq": second, "momentum_buffer": optimizer.momentum}
    for moment, tree in averaged.items():
        for name, value in tree.items():
            gap = value.float() - begun[moment][name].to(value.device).float()
            yield moment, name, gap.mul_(decay[moment] ** steps)


def own_part(federation: Federation, round_number: int | None = None) -> float:
    """How much of its last pseudo-gradient a client that goes on adds to the base that it knows.

    All of it; or, if it is eager, as much as the server's next step will take at once: its part in
    the mean, times what the outer optimizer makes of that.

    Args:
        round_number: whose outer rate it is; None: the highest.
    """
    if federation.overlap != "eager" or not federation.most_ahead:
        return 1.0
    given, name = federation.outer_arguments, federation.outer_name
    direct = _rate(federation, round_number)
    if name in ("NESTEROV", "FEDMOM"):
        direct *= 1 + float(given["server_momentum"])
    return min(1.0, direct / federation.cohort_size)


def _rate(federation: Federation, round_number: int | None) -> float:
    """What a mean pseudo-gradient of a whole cohort is multiplied by."""
    lr = float(federation.outer_arguments.get("server_learning_rate", 1.0))
    lr *= factor(federation.scaling, federation.cohort_size)
    if round_number is None:
        return lr
    return lr * outer_lr_factor(federation, round_number)


def again(federation: Federation, round_number: int | None = None) -> float:
    """Share of the server's last step that a client supposes in the next one, beside its own part.

    With a steady pseudo-gradient g, outer SGD makes steps of g lr / (1 - momentum). A client's own
    stands for one g in that; the rest is 1 - (1 - momentum) / lr of a step. Nothing is supposed of
    an outer optimizer whose steps are no multiples of g; by eager clients, which count on nothing
    that is not sure; and by those that keep a part of their own (fragment_alpha).

    Args:
        round_number: whose outer rate it is; None: the highest.
    """
    supposes = federation.overlap == "delayed" and federation.outer_name in SGD
    if not supposes or not federation.most_ahead or federation.fragment_alpha:
        return 0.0
    rate = _rate(federation, round_number)
    momentum = federation.outer_arguments.get("server_momentum", 0.0)
    return max(0.0, 1 - (1 - momentum) / rate) if rate else 0.0


def trees_kept(federation: Federation) -> int:
    """How many trees of the size of the shared parameters a client keeps to go on: where it goes on
    from; and what it was told of, if it will suppose the server's step again.
    """
    return 1 + bool(again(federation)) if federation.goes_on else 0


def going_on_from(
    base: Tensor, end: Tensor, part: float, last: Tensor | None = None, again: float = 0.0
) -> Tensor:
    """Where a client goes on from: base - part x pseudo-gradient, which is base - end; and some of
    the server's last step on top.

    Args:
        base: that it was told of at the beginning of the round.
        end: its own value after it.
        last: what it was told of a round earlier; None: it was not there.
        again: share of base - last.
    """
    start = end if part == 1.0 else torch.lerp(base, end, part)
    return start if last is None else start + again * (base - last.to(base))
