"""How far an honest client can get: bounds that follow from the inner optimizer's own rule.

A server holds updates to them from the first round on, when there is nothing else to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from photon.config.llm import Inner, OptimizerConfig
from photon.core.messages import MomentBound, Moments
from photon.core.tree import Tree

ROUNDING = 1.01
"""What number formats add: bf16 rounds each element by 0.4 % at the most."""
_MUON_STEP = 0.25
"""Root mean square of an element of Muon's step: 0.2 of singular values up to 1.2."""


def reach(
    inner: Inner, rates: float, last_step: int, num_parameters: int, parameter_norm: float
) -> float:
    """Largest norm of the pseudo-gradient of honest steps; infinite where no rule bounds it.

    A step moves parameters by lr x (what the optimizer makes of the gradient), and by lr x decay
    of what they are; decay never makes them larger.

    Args:
        inner: resolved.
        rates: sum of the steps' learning rates.
        last_step: steps of the run when they are done.
        num_parameters, parameter_norm: of the parameters that are sent, before the steps.
    """
    optimizer = inner.optimizer
    moved = rates * _largest_step(inner, last_step, num_parameters)
    peak = optimizer.lr if optimizer.name == "decoupled_adamw" else 1.0
    decayed = rates * optimizer.weight_decay / peak * (parameter_norm + moved)
    return ROUNDING * (moved + decayed)


def reach_of_element(inner: Inner, rates: float, last_step: int, params: Tree) -> float:
    """Largest number of the pseudo-gradient of honest steps; infinite where no rule bounds it.

    A step is bounded element by element, as that of a model of one number; Muon's by the largest
    singular value, 1.2 of 0.2 x sqrt(the longer side), as the norm of so many numbers is.

    Args:
        params: that are sent, before the steps.
    """
    longest = max(max(value.shape, default=1) for value in params.values())
    side = longest if inner.optimizer.name == "muon" else 1
    farthest = max(float(value.abs().max()) for value in params.values() if value.numel())
    return reach(inner, rates, last_step, side, farthest)


def _largest_step(inner: Inner, last_step: int, num_parameters: int) -> float:
    """Largest norm of a step at a learning rate of 1, without decay."""
    name, root = inner.optimizer.name, math.sqrt(num_parameters)
    if name == "sgd":
        return inner.clip_norm or math.inf
    if name == "adopt":
        return root * max(1, last_step) ** 0.25
    return root * max(_largest_ratio(inner.optimizer), _MUON_STEP)


def _largest_ratio(optimizer: OptimizerConfig) -> float:
    """Most of |m| / sqrt(v) of Adam's averages, by the inequality of Cauchy and Schwarz.

    |sum_i (1 - b1) b1^i g_i| <= sqrt(sum_i (1 - b1)^2 (b1^2 / b2)^i / (1 - b2)) sqrt(v). It holds
    for means of clients too, since the square of a mean is at most the mean of squares.
    """
    first, second = optimizer.decay_rates
    if first**2 >= second:
        return math.inf
    return max(1.0, (1 - first) / math.sqrt((1 - second) * (1 - first**2 / second)))


def matched(moments: Moments, optimizer: OptimizerConfig, step: int) -> Moments:
    """Moments that were averaged or coded apart, the first cut to what the second allows.

    Where a client has never seen a token its own second moment is zero, and a mean of first moments
    need not be: a step without bound. And a code of a few bits has the same error for all numbers
    of a block, so that a first moment of nearly zero is read as many times the root of its second.
    The bound is |m| <= sqrt(v) after the correction of their bias: it holds for any gradient that
    stays the same, and keeps later steps within `reach`. ADOPT's first moment needs none.

    Args:
        step: that they have seen.
    """
    if optimizer.name == "adopt" or step == 0 or not {"exp_avg", "exp_avg_sq"} <= moments.keys():
        return moments
    first, second = dict(moments["exp_avg"]), moments["exp_avg_sq"]
    b1, b2 = optimizer.decay_rates
    for name in first.keys() & second.keys():
        most = (second[name].float() / (1 - b2**step)).sqrt_().mul_(1 - b1**step)
        own = first[name].to(most.device, most.dtype)
        first[name] = own.clamp(min=-most, max=most)
    return {**moments, "exp_avg": first}


def moment_bounds(
    inner: Inner,
    names: Mapping[str, list[str]],
    sizes: Mapping[str, int],
    before: Mapping[str, float],
    last_step: int,
    gain: float,
) -> dict[str, MomentBound]:
    """What each moment of an honest client keeps to: a mean of what it was and of new gradients.

    Args:
        names: moment -> parameters that have it.
        sizes: of the parameters, in elements.
        before: moment -> norm of what clients start from.
        last_step: steps of the run after the round.
        gain: most by which their codec can make them longer.
    """
    largest = inner.clip_norm or math.inf
    found = {}
    for moment, own in names.items():
        is_square = moment == "exp_avg_sq"
        norm = largest**2 if is_square else largest
        if inner.optimizer.name == "adopt" and not is_square:  # of normalised gradients
            norm = math.sqrt(sum(sizes[n] for n in own)) * max(1, last_step) ** 0.25
        norm = ROUNDING * gain * max(norm, before.get(moment, 0.0))
        found[moment] = MomentBound(
            names=tuple(own), norm=norm, before=before.get(moment), is_square=is_square
        )
    return found
