"""Numbers about a round that do not change it, and the report that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from photon.core.gate import Checked
from photon.core.messages import RoundPlan, RoundReport, Update
from photon.core.step import Step


def report_of(
    plan: RoundPlan,
    updates: Sequence[Update],
    checked: Checked,
    weights: Sequence[float],
    step: Step,
    share: float,
) -> RoundReport:
    """What happened in a round.

    Args:
        updates: all that came.
        weights: of the accepted.
        share: of the step, that was taken.
    """
    came = {update.client for update in updates if update.round == plan.round}
    spare = came.intersection(plan.cohort) - checked.norms.keys() - checked.refused.keys()
    return replace(
        _of_the_accepted(plan, checked.taken),
        refused=checked.refused,
        spare=tuple(sorted(spare)),
        **_agreement(step, weights, checked.norms),
        **_sizes(step),
        share=share,
    )


def _of_the_accepted(plan: RoundPlan, taken: Sequence[Update]) -> RoundReport:
    """What follows from these updates alone."""
    tokens = sum(update.num_tokens for update in taken)
    loss = sum(u.metrics["train_loss"] * u.num_tokens for u in taken) / tokens
    return RoundReport(
        round=plan.round,
        accepted=tuple(sorted(client for update in taken for client in update.clients)),
        num_tokens=tokens,
        num_steps=max(update.num_steps for update in taken),
        train_loss=loss,
        client_metrics={u.client: u.metrics for u in taken},
        state_lost=tuple(u.client for u in taken if u.state_lost),
        late={u.client: plan.round - u.round for u in taken if u.round != plan.round},
        taken=tuple(replace(update, gradient={}, moments={}) for update in taken),
    )


def _agreement(step: Step, weights: Sequence[float], norms: Mapping[int, float]) -> dict[str, Any]:
    """How the pseudo-gradients lie to each other: those fields of the report.

    Args:
        norms: of them, by client and in their order.
    """
    length = math.sqrt(sum(step.gradient.values()))
    mean = length if step.mean_norm is None else step.mean_norm
    return {
        "gradient_norm": length,
        "mean_norm": mean,
        "client_norms": norms,
        "client_cosines": {
            client: product / (own * length) if own * length > 0 else 0.0
            for (client, own), product in zip(norms.items(), step.products, strict=True)
        },
        "consensus_distance": consensus_distance(list(norms.values()), weights, mean),
        "cosine_to_last_step": step.cosine,
    }


def _sizes(step: Step) -> dict[str, Any]:
    """The norms in a report."""
    return {
        "parameter_norm": math.sqrt(sum(step.parameters.values())),
        "outer_norms": _lengths(step.moments),
        "gradient_layer_norms": _lengths(step.gradient),
        "parameter_layer_norms": _lengths(step.parameters),
    }


def _lengths(squares: Mapping[str, float]) -> dict[str, float]:
    return {name: math.sqrt(square) for name, square in squares.items()}


def data_parallel_bytes(num_parameters: int, num_workers: int, num_steps: int) -> int:
    """Bytes that all workers together send in data-parallel training with bf16 gradients.

    A ring all-reduce sends 2 (K - 1) / K of the gradient per worker and step (Patarasuk and Yuan
    2009), so 2 (K - 1) gradients of 2 bytes per parameter for all K workers.
    """
    return 2 * (num_workers - 1) * 2 * num_parameters * num_steps


def consensus_distance(norms: Sequence[float], weights: Sequence[float], mean_norm: float) -> float:
    """sqrt(sum_k w_k |x_k - x|^2 / sum_k w_k): how far the clients have drifted apart.

    Source: Kong et al. 2021, arXiv:2102.04828, eq. 4. Since x is the weighted mean, that is the
    weighted mean of |x_k|^2 minus |x|^2; pseudo-gradients do as well, since the base cancels.
    """
    square = sum(w * n**2 for w, n in zip(weights, norms, strict=True)) / sum(weights)
    return math.sqrt(max(0.0, square - mean_norm**2))


def noise_scale(
    before: Mapping[str, float], client_norms: Sequence[float], mean_norm: float, beta: float
) -> dict[str, float]:
    """Gradient noise scale in units of one client's round, from K clients and their mean.

    With G_s = mean_k |g_k|^2 and G_b = |mean g|^2, unbiased estimates are
    S = (G_s - G_b) / (1 - 1/K) of the noise's trace and |G|^2 = (K G_b - G_s) / (K - 1); their
    ratio is averaged over rounds as the ratio of two debiased moving averages (McCandlish et al.
    2018, arXiv:1812.06162, appendix A.1, with batches of 1 and K).

    Args:
        before: what the last round gave; empty at first.
        beta: decay of the averages.

    Returns:
        `rounds`, `trace`, `square` (biased averages), `raw`, `scale`; `before` for fewer than two
        clients. `raw` and `scale` are left out where an estimate of |G|^2 is not positive.
    """
    count = len(client_norms)
    if count < 2:
        return dict(before)
    small = sum(norm**2 for norm in client_norms) / count
    large = mean_norm**2
    trace = (small - large) / (1 - 1 / count)
    square = (count * large - small) / (count - 1)
    rounds = before.get("rounds", 0.0) + 1
    averages = {
        key: beta * before.get(key, 0.0) + (1 - beta) * value
        for key, value in (("trace", trace), ("square", square))
    }
    found = {"rounds": rounds, **averages}
    if square > 0:
        found["raw"] = trace / square
    if averages["square"] > 0:  # the debiasing factor 1 - beta^rounds cancels
        found["scale"] = averages["trace"] / averages["square"]
    return found
