"""Why an update is refused. A refused update leaves no trace but its reason in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from photon.core.codec import Codec, Leaf, form_fault, leaves
from photon.core.messages import Bounds, Moments, RoundPlan, ServerState, Update
from photon.core.policy import averaged
from photon.core.text import cleaned
from photon.core.tree import Readable, Tree, is_negative, norm

NORMS_KEPT = 32
"""Norms of accepted updates that a state keeps, and an outlier is judged by."""
NORMS_NEEDED = 3
"""Fewer have no median that says anything."""
GRADIENT = "pseudo-gradient"
MOST_LOSS = 1e6
"""Nats per token; a training that diverges has a few thousands before its loss is no number."""


Trees = dict[str, dict[str, Leaf]]
"""The pseudo-gradient and each moment of an update, to be read."""


class Verdict(NamedTuple):
    """What is to be said of an update whatever the others are like.

    Attributes:
        reason: to refuse it, or None.
        sizes: Euclidean norm of its pseudo-gradient and of each moment, by name.
    """

    reason: str | None
    sizes: Mapping[str, float]


class Checked(NamedTuple):
    """The updates of a round, judged beside each other.

    Attributes:
        taken: the accepted, in the order of their clients.
        refused: client -> reason.
        norms: of each accepted pseudo-gradient, by client and in their order.
    """

    taken: list[Update]
    refused: dict[int, str]
    norms: dict[int, float]


def refusal(
    update: Update, plan: RoundPlan, state: ServerState, trees: Trees | None = None
) -> str | None:
    """The reason to refuse an update for what it says or is made of, or None.

    Args:
        state: before the round; names and shapes are those of its parameters.
        trees: gets what `opened` gives of one that is not refused.
    """
    trees = {} if trees is None else trees
    params = state.params if plan.trained is None else {n: state.params[n] for n in plan.trained}
    return (
        _origin_fault(update, plan, state)
        or _count_fault(update, plan)
        or _form_fault(GRADIENT, update.gradient, params, plan.up.gradient, trees)
        or _moment_fault(update.moments, plan, params, trees)
    )


def _origin_fault(update: Update, plan: RoundPlan, state: ServerState) -> str | None:
    """What is wrong with the clients, the round, the run or the base that an update names."""
    base = plan.bases.get(update.round)
    if len(set(update.clients)) < len(update.clients) or update.client not in update.clients:
        return f"says that it is of clients {update.clients}"
    if update.round != plan.round and base is not None and update.run == plan.run:
        applied = [c for c in update.clients if state.last_accepted.get(c, 0) >= update.round]
        if applied:
            return f"late, and round {update.round} of client {applied[0]} has been applied"
    elif update.round != plan.round or update.run != plan.run:
        return f"stale: of {update.run} round {update.round}, open is round {plan.round}"
    elif not set(update.clients) <= set(plan.cohort):
        return f"not in the cohort of round {plan.round}"
    else:
        base = plan.base_digest
    if update.base_digest != base:
        return f"trained from other parameters ({update.base_digest[:8]})"
    return None


def _count_fault(update: Update, plan: RoundPlan) -> str | None:
    """What is wrong with the numbers of an update, given what its clients were asked for."""
    asked = _steps_asked(update, plan)
    if update.num_tokens <= 0:
        return f"trained on {update.num_tokens} tokens"
    if not 1 <= update.num_steps <= max(asked):
        return f"took {update.num_steps} steps, {max(asked):g} were asked for"
    if fault := _token_fault(update, asked, plan.bounds.tokens_per_step):
        return fault
    loss = update.metrics.get("train_loss", math.nan)
    if not -1.0 <= loss <= MOST_LOSS:
        return f"its train_loss is {loss:.3g}, no loss of a model"
    return None


def _token_fault(update: Update, asked: Sequence[float], per_step: int | None) -> str | None:
    """Tokens are those of the steps that a client took and did not skip; of a mean of several
    clients, whose skipped steps are not told apart, whole steps and no more.
    """
    if per_step is None:
        return None
    skipped = update.metrics.get("skipped_steps", 0.0)
    if not 0 <= skipped <= update.num_steps:
        return f"skipped {skipped:g} of its {update.num_steps} steps"
    most = sum(min(update.num_steps, steps) for steps in asked) * per_step
    if len(asked) == 1:
        most -= round(skipped) * per_step
        fits = update.num_tokens == most
    else:
        fits = update.num_tokens <= most and update.num_tokens % per_step == 0
    return None if fits else f"trained on {update.num_tokens} tokens, its steps have {most:g}"


def _steps_asked(update: Update, plan: RoundPlan) -> list[float]:
    """Steps that each of its clients was asked for; of a late update, the most of any."""
    if update.round == plan.round:
        return [plan.instructions[client].local_steps for client in update.clients]
    return [plan.bounds.late_steps or math.inf] * len(update.clients)


def _moment_fault(moments: Moments, plan: RoundPlan, params: Tree, trees: Trees) -> str | None:
    bounds = plan.bounds.moments
    if list(moments) != list(bounds):
        expected = ", ".join(bounds)
        return f"moments {', '.join(moments) or 'none'}, expected {expected or 'none'}"
    for name, bound in bounds.items():
        like = {n: params[n] for n in bound.names}
        if fault := _form_fault(name, moments[name], like, plan.up.of_moment(name), trees):
            return fault
    return None


def _form_fault(what: str, sent: Tree, like: Tree, codec: Codec, trees: Trees) -> str | None:
    reason = form_fault(sent, like, codec, trees.setdefault(what, {}))
    return f"{what}: {reason}" if reason else None


def opened(update: Update, plan: RoundPlan, state: ServerState) -> Trees:
    """The pseudo-gradient and each moment, to be read, of an update that is not refused."""
    found = {GRADIENT: leaves(update.gradient, state.params, plan.up.gradient)}
    for name, tree in update.moments.items():
        found[name] = leaves(tree, state.params, plan.up.of_moment(name))
    return found


def examined(update: Update, plan: RoundPlan, state: ServerState) -> Verdict:
    """Judge an update for itself; the arguments are those of `refusal`."""
    trees: Trees = {}
    if reason := refusal(update, plan, state, trees):
        return Verdict(reason, {})
    # `norm` goes over to float64 where float32 does not hold the squares, and that holds those of
    # every number that travels: only a NaN or an infinity gives one.
    sizes = {name: norm(tree) for name, tree in trees.items()}
    return Verdict(_size_fault(trees, sizes, plan.bounds), sizes)


def promised(update: Update, plan: RoundPlan, state: ServerState) -> Verdict:
    """Judge what a client says of an update that nobody will see but in a sum: its tokens are in
    that too, and are counted here as those of the steps which it has not skipped.
    """
    taken = update.num_steps - round(update.metrics.get("skipped_steps", 0.0))
    counted = replace(update, num_tokens=taken * (plan.bounds.tokens_per_step or 1))
    return Verdict(_origin_fault(counted, plan, state) or _count_fault(counted, plan), {})


def _size_fault(
    trees: Mapping[str, Readable], sizes: Mapping[str, float], bounds: Bounds
) -> str | None:
    """What no honest client has, in the sizes of an update and the signs of its moments."""
    most = {GRADIENT: bounds.norm, **{name: b.norm for name, b in bounds.moments.items()}}
    for name, size in sizes.items():
        if not math.isfinite(size):
            return f"{name} is not finite"
        if size > most[name]:
            return f"{name}: norm {size:.3g} is more than its steps can make, {most[name]:.3g}"
    for name, bound in bounds.moments.items():
        if bound.is_square and is_negative(trees[name]):
            return f"{name} is negative, a mean of squares"
    return None


def check(
    state: ServerState,
    plan: RoundPlan,
    updates: Sequence[Update],
    verdicts: Sequence[Verdict],
    max_norm_ratio: float | None,
) -> Checked:
    """Split updates into the accepted and the refused.

    Args:
        verdicts: what `examined` says of each.
    """
    taken: dict[int, Update] = {}
    refused: dict[int, str] = {}
    sizes: dict[int, Mapping[str, float]] = {}
    here: set[int] = set()
    for update, (reason, own) in zip(updates, verdicts, strict=True):
        if not here.isdisjoint(update.clients):
            reason = "duplicate"
        if reason is None:
            taken[update.client], sizes[update.client] = update, own
            here.update(update.clients)
        else:
            refused[update.client] = cleaned(reason)
    refused = {client: reason for client, reason in refused.items() if client not in here}
    kept = averaged(plan, taken)
    # Without an outlier a spare may come in its place, and the median is another one.
    while large := outliers(kept, sizes, plan, state, max_norm_ratio):
        refused |= large
        taken = {client: update for client, update in taken.items() if client not in large}
        before, kept = kept, averaged(plan, taken)
        if kept.keys() <= before.keys():
            break
    clients = sorted(kept)
    return Checked([kept[c] for c in clients], refused, {c: sizes[c][GRADIENT] for c in clients})


def outliers(
    taken: Mapping[int, Update],
    sizes: Mapping[int, Mapping[str, float]],
    plan: RoundPlan,
    state: ServerState,
    max_ratio: float | None,
) -> dict[int, str]:
    """Clients whose update is too large beside the others', with the reason.

    Pseudo-gradients of earlier rounds are compared at this round's learning rate, or at their own
    if it was higher and the codec feeds back: what it lost then may be sent now. Another client
    with fewer steps counts as if it had gone on straight ahead; one with more as it is.

    Args:
        taken: updates of this round, by client.
        sizes: norms of each, as `examined` gives them; others may be among them.
        max_ratio: as for `norm_fault`; for a moment that averages squares, its square.
    """
    found: dict[int, str] = {}
    if max_ratio is None or not taken:
        return found
    earlier = [one for one in state.norms if one.fragment == plan.fragment]
    steps = np.array([one.steps for one in earlier] + [one.num_steps for one in taken.values()])
    now, feeds_back = plan.bounds.rate, plan.up.gradient.gain > 1
    before = [one.size * (max(now, one.rate) if feeds_back else now) for one in earlier]
    norms = np.array(before + [sizes[client][GRADIENT] for client in taken])
    usual = max_ratio * np.median(norms)  # more steps only make the others' norms larger
    for client in [c for c in taken if sizes[c][GRADIENT] > usual]:
        comparable = norms * np.maximum(1.0, taken[client].num_steps / steps)
        if reason := norm_fault(sizes[client][GRADIENT], comparable, max_ratio):
            found[client] = reason
    for name, bound in plan.bounds.moments.items():
        seen = [sizes[client][name] for client in taken]
        seen += [] if bound.before is None else [bound.before]
        ratio = max_ratio**2 if bound.is_square else max_ratio
        usual = ratio * np.median(seen)
        for client in [c for c in taken if sizes[c][name] > usual]:
            if reason := norm_fault(sizes[client][name], seen, ratio):
                found.setdefault(client, f"{name}: {reason}")
    return found


def norm_fault(
    size: float, norms: Sequence[float] | np.ndarray, max_ratio: float | None
) -> str | None:
    """Why an update is too large, or None.

    Args:
        size: norm of its pseudo-gradient, or of a moment.
        norms: of those accepted lately and of all of this round.
        max_ratio: most that `size` may be of their median; None: any.
    """
    if max_ratio is None or len(norms) < NORMS_NEEDED:
        return None
    median = float(np.median(norms))
    if size <= max_ratio * median:
        return None
    return f"norm {size:.3g} is more than {max_ratio:g} times the median {median:.3g}"
