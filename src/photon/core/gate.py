"""Why an update is refused. A refused update leaves no trace but its reason in the report."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from photon.core.messages import Moments, RoundPlan, ServerState, Update
from photon.core.tree import Tree, all_finite, mismatch

NORMS_KEPT = 32
"""Norms of accepted updates that an outlier is judged by."""
NORMS_NEEDED = 3


def refusal(
    update: Update, plan: RoundPlan, state: ServerState, moments: Moments, taken: Collection[int]
) -> str | None:
    """The reason to refuse an update, or None to accept it.

    Args:
        update: as it arrived.
        plan: the open round.
        state: before the round; names and shapes are those of its parameters.
        moments: moments of the shape that is expected; those of an update already accepted, or the
            update's own if it is the first.
        taken: clients whose update this round already has.
    """
    if not set(update.clients).isdisjoint(taken):
        return "duplicate"
    if fault := _origin_fault(update, plan, state):
        return fault
    if update.num_tokens <= 0:
        return f"trained on {update.num_tokens} tokens"
    params = state.params if plan.trained is None else {n: state.params[n] for n in plan.trained}
    return _tensor_fault("pseudo-gradient", update.gradient, params) or _moment_fault(
        update.moments, moments, params
    )


def _origin_fault(update: Update, plan: RoundPlan, state: ServerState) -> str | None:
    """What is wrong with the round, the run or the base that an update names."""
    base = plan.bases.get(update.round)
    run = next(iter(plan.instructions.values())).run
    if update.round != plan.round and base is not None and update.run == run:
        applied = [c for c in update.clients if state.last_accepted.get(c, 0) >= update.round]
        if applied:
            return f"late, and round {update.round} of client {applied[0]} has been applied"
    elif not set(update.clients) <= set(plan.cohort):
        return f"not in the cohort of round {plan.round}"
    elif update.round != plan.round or update.run != run:
        return f"stale: of {update.run} round {update.round}, open is round {plan.round}"
    else:
        base = plan.base_digest
    if update.base_digest != base:
        return f"trained from other parameters ({update.base_digest[:8]})"
    return None


def _moment_fault(moments: Moments, like: Moments, params: Tree) -> str | None:
    if list(moments) != list(like):
        return f"moments {', '.join(moments) or 'none'}, expected {', '.join(like) or 'none'}"
    for name, tree in moments.items():
        shapes = {n: params[n] for n in like[name] if n in params}
        if fault := _tensor_fault(name, tree, shapes):
            return fault
    return None


def _tensor_fault(what: str, tree: Tree, like: Tree) -> str | None:
    if reason := mismatch(tree, like):
        return f"{what}: {reason}"
    return None if all_finite(tree) else f"{what} is not finite"


def norm_fault(norm: float, norms: Sequence[float], max_ratio: float | None) -> str | None:
    """Why an update is too large, or None.

    Args:
        norm: of its pseudo-gradient.
        norms: of those accepted lately and of all of this round, whatever their order; fewer than
            `NORMS_NEEDED` say nothing.
        max_ratio: to their median; None: any.
    """
    if max_ratio is None or len(norms) < NORMS_NEEDED:
        return None
    median = float(np.median(norms))
    if norm <= max_ratio * median:
        return None
    return f"norm {norm:.3g} is more than {max_ratio:g} times the median {median:.3g}"
