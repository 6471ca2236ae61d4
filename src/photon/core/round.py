"""One federated round, on one page.

open_round    state and cohort -> one instruction for each of its clients
(clients train; their updates arrive in any order)
close_round   check -> weighted mean -> outer step -> new state and a report
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

from torch import Tensor

from photon.core.aggregate import Mixture, encoded_mean
from photon.core.codec import Codec, Codecs, decode, encode, form_fault
from photon.core.diagnostics import consensus_distance
from photon.core.gate import GRADIENT, NORMS_KEPT, Verdict, examined, opened, outliers
from photon.core.messages import (
    Bounds,
    Broadcast,
    Difference,
    Instruction,
    Moments,
    RoundPlan,
    RoundReport,
    ServerState,
    Update,
)
from photon.core.outer import OuterOptimizer
from photon.core.policy import Rules, averaged, oldest_taken, scale, share, weight
from photon.core.step import Step, outer_step
from photon.core.text import cleaned
from photon.core.tree import Readable, Tree, norm, squares
from photon.errors import PayloadError, RoundFailed

ROUNDING = 1e-9
"""Shares of a whole that add up to less than it by so much, add up to it."""


def open_round(
    state: ServerState,
    *,
    run: str,
    steps: Mapping[int, int],
    rules: Rules,
    base_digest: str,
    trained: tuple[str, ...] | None = None,
    sent: tuple[str, ...] | None = None,
    bounds: Bounds | None = None,
) -> RoundPlan:
    """Say what each client of a cohort does in the next round; none is a spare.

    Args:
        steps: client of the cohort -> optimizer steps to take.
        base_digest: of what is sent.
        trained: parameters that updates carry; None: all.
        sent: parameters that clients receive; None: all.
        bounds: what updates must keep to; None: without moments, and of any size.
    """
    number = state.round + 1
    cohort = tuple(sorted(steps))
    instructions = {
        client: Instruction(
            run=run,
            round=number,
            client=client,
            first_step=state.step,
            local_steps=steps[client],
            base_digest=base_digest,
            last_accepted=state.last_accepted.get(client, 0),
            ahead=min(rules.ahead, steps[client]) if has_just_merged(state, client) else 0,
            part=rules.part,
        )
        for client in cohort
    }
    oldest = oldest_taken(number, rules)
    return RoundPlan(
        round=number,
        cohort=cohort,
        instructions=instructions,
        base_digest=base_digest,
        trained=trained,
        sent=sent,
        bases={r: d for r, d in state.bases.items() if r >= oldest},
        bounds=bounds or Bounds(),
        up=rules.up,
        down=rules.down,
        run=run,
    )


def has_just_merged(state: ServerState, client: int) -> bool:
    """Whether the last round took this client's update, so that it may have gone on from it."""
    return 0 < state.round == state.last_accepted.get(client, 0)


def close_round(
    state: ServerState,
    plan: RoundPlan,
    updates: Sequence[Update],
    *,
    outer: OuterOptimizer,
    rules: Rules,
    verdicts: Sequence[Verdict] | None = None,
    last: Tree | None = None,
) -> tuple[ServerState, RoundReport]:
    """Turn the updates of a round into the next state, in the memory of the one before.

    Updates may arrive in any order: they are reduced in the order of their clients, so the bits are
    the same. Of more than the cohort has members, `core.policy.counted` says whose count.

    Args:
        state: before the round; its tensors are written over as soon as nothing can be refused any
            more, unless `outer` is not elementwise.
        verdicts: what `core.gate.examined` says of each update; None: it is asked here.
        last: parameters before the round before, for the cosine to its step.

    Raises:
        RoundFailed: fewer than the quorum of updates were accepted; each refusal is named. The
            state is as it was.
    """
    verdicts = verdicts or [examined(update, plan, state) for update in updates]
    taken, refused, norms = check(state, plan, updates, verdicts, rules.max_norm_ratio)
    count = sum(len(update.clients) for update in taken)
    if count < rules.quorum:
        reasons = "; ".join(f"client {client}: {why}" for client, why in refused.items())
        raise RoundFailed(
            f"round {plan.round}: {count} of {rules.quorum} updates needed were accepted"
            + (f" ({reasons})" if reasons else "")
        )
    weights = [weight(update, plan, rules) for update in taken]
    trees = [opened(update, plan, state) for update in taken]
    gradients = [tree[GRADIENT] for tree in trees]
    before = _held_before(state, gradients[0], rules.down.parameters)
    part = share(weights, rules)
    outer, gathered = _due(outer, state.gathered, part)
    if rules.private is None:
        mixture = rules.mixing(gradients, weights, rules.tables)
    else:
        mixture = rules.private(taken, gradients, list(norms.values()))
    by = scale(count, rules) * part
    step = outer_step(state, gradients, weights, outer, by, last, mixture)
    moments = _mean_moments(trees, weights, mixture, state, rules.down)
    whole = {name: {**state.moments.get(name, {}), **tree} for name, tree in moments.items()}
    held, difference = _told(before, step.params, rules.down.parameters)
    came = {update.client for update in updates if update.round == plan.round}
    report = replace(
        _report(plan, taken),
        refused=refused,
        spare=tuple(sorted(came.intersection(plan.cohort) - norms.keys() - refused.keys())),
        **_agreement(step, weights, norms),
        **_sizes(step),
        share=part,
    )
    takes_late = rules.staleness_exponent is not None
    new_state = replace(
        state,
        params=step.params,
        outer=step.outer,
        is_seeded=False,
        held={**state.held, **held},
        difference=difference,
        difference_from=plan.base_digest if difference else "",
        moments={**state.moments, **whole},
        averaged={**state.averaged, **dict.fromkeys(moments, plan.round)},
        round=plan.round,
        step=state.step + _steps_done(state, report, rules),
        num_tokens=state.num_tokens + report.num_tokens,
        last_accepted={**state.last_accepted, **{c: u.round for u in taken for c in u.clients}},
        **_remembered(state, taken, norms, plan),
        bases={**plan.bases, plan.round: plan.base_digest} if takes_late else {},
        speeds={**state.speeds, **_speeds(taken)},
        gathered=gathered,
    )
    return new_state, report


def _due(outer: OuterOptimizer, before: float, part: float) -> tuple[OuterOptimizer, float]:
    """What steps with one more part of a round, and what is left of the parts afterwards.

    Momentum moves with the part that brings their sum nearest to a whole round: with each merge of
    three quarters, not with every second.

    Args:
        before: what has been merged since momentum moved last.
    """
    gathered = before + part
    if gathered + part / 2 >= 1.0 - ROUNDING:
        return outer, max(0.0, gathered - 1.0)
    return (outer if outer.between is None else outer._replace(step=outer.between)), gathered


def _steps_done(state: ServerState, report: RoundReport, rules: Rules) -> int:
    """Steps of the run that a round has done: its clients' most; of a merge, so many as its tokens
    are a whole cohort's.
    """
    if rules.merging is None:
        return report.num_steps
    each, before = rules.merging.step_tokens, state.num_tokens
    return (before + report.num_tokens) // each - before // each


def _mean_moments(
    trees: Sequence[Mapping[str, Readable]],
    weights: Sequence[float],
    mixture: Mixture,
    state: ServerState,
    codecs: Codecs,
) -> Moments:
    """The means of the moments of these updates, as they are sent."""
    moments: dict[str, Tree] = {}
    for name in [name for name in trees[0] if name != GRADIENT]:
        rows, own = [tree[name] for tree in trees], state.moments.get(name, {})
        codec = codecs.of_moment(name)
        moments[name] = encoded_mean(rows, weights, codec, own, mixture.of_moments)
    return moments


def _held_before(
    state: ServerState, trained: Iterable[str], codec: Codec | None
) -> dict[str, Tensor]:
    """Parameters as clients hold them, of those that come as differences: at first all they are."""
    if codec is None:
        return {}
    held = state.held
    return {n: held[n] if n in held else state.params[n].clone() for n in trained}


def _told(
    held: dict[str, Tensor], params: Tree, codec: Codec | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What clients hold when they have been told of new parameters, and what they are told.

    They are told the difference to what they hold, so that whatever the codec has lost of one is in
    the next: error feedback, whose residual is `params - held`.

    Args:
        held: before; written over.
    """
    sent: dict[str, Tensor] = {}
    if codec is None:
        return held, sent
    for name, value in held.items():
        parts = encode({name: params[name] - value}, codec)[0]
        sent |= parts
        advance(held, parts, codec)
    return held, sent


def advanced(base: Broadcast, difference: Difference, codec: Codec) -> Broadcast:
    """What a difference makes of a base, whose parameters are written over.

    Raises:
        PayloadError: it is of other parameters, or malformed.
    """
    names = {key.partition("/")[0] for key in difference.params}
    like = {name: value for name, value in base.params.items() if name in names}
    if reason := form_fault(difference.params, like, codec):
        raise PayloadError(f"difference {difference.after[:12]}: {reason}")
    advance(base.params, difference.params, codec)
    return Broadcast(
        params=base.params,
        moments={
            **base.moments,
            **{m: {**base.moments.get(m, {}), **its} for m, its in difference.moments.items()},
        },
        averaged={**base.averaged, **difference.averaged},
    )


def advance(held: Mapping[str, Tensor], difference: Tree, codec: Codec) -> None:
    """Add an encoded difference to what is held, in place; the same bits wherever that is done."""
    for name, value in decode(difference, held, codec).items():
        held[name].add_(value)


def _remembered(
    state: ServerState, taken: Sequence[Update], norms: Mapping[int, float], plan: RoundPlan
) -> dict[str, Any]:
    """The fields of a state with the norms that later ones are judged by."""
    rate = plan.bounds.rate
    if not rate:  # steps at a rate of zero say nothing of later ones
        return {}
    steps = (*state.norm_steps, *(update.num_steps for update in taken))
    known = (*state.norms, *(norms[update.client] / rate for update in taken))
    rates = (*state.norm_rates, *(rate for _ in taken))
    fragments = (*state.norm_fragments, *(plan.fragment for _ in taken))
    return {
        "norms": known[-NORMS_KEPT:],
        "norm_steps": steps[-NORMS_KEPT:],
        "norm_rates": rates[-NORMS_KEPT:],
        "norm_fragments": fragments[-NORMS_KEPT:],
    }


def _speeds(taken: Sequence[Update]) -> dict[int, float]:
    measured = {c: u.metrics.get("tokens_per_second", 0.0) for u in taken for c in u.clients}
    return {client: speed for client, speed in measured.items() if speed > 0}


def skip_round(state: ServerState) -> tuple[ServerState, RoundReport]:
    """A round without a quorum that is given up: its number passes, the parameters stay."""
    found = squares(state.params)
    report = RoundReport(
        round=state.round + 1,
        parameter_norm=sqrt(sum(found.values())),
        parameter_layer_norms={name: sqrt(square) for name, square in found.items()},
        outer_norms={key: norm(tree) for key, tree in state.outer.items()},
    )
    return replace(state, round=report.round, difference={}, difference_from=""), report


def check(
    state: ServerState,
    plan: RoundPlan,
    updates: Sequence[Update],
    verdicts: Sequence[Verdict],
    max_norm_ratio: float | None,
) -> tuple[list[Update], dict[int, str], dict[int, float]]:
    """Split updates into the accepted, by client, and the refused with their reasons.

    Returns:
        The accepted, the reasons, and the norm of each accepted pseudo-gradient, by client.
    """
    taken: dict[int, Update] = {}
    refused: dict[int, str] = {}
    sizes: dict[int, Mapping[str, float]] = {}
    for update, (reason, own) in zip(updates, verdicts, strict=True):
        here = {client for other in taken.values() for client in other.clients}
        if not here.isdisjoint(update.clients):
            reason = "duplicate"
        if reason is None:
            taken[update.client], sizes[update.client] = update, own
        elif update.client not in here:
            refused[update.client] = cleaned(reason)
    kept = averaged(plan, taken)
    # Without an outlier a spare may come in its place, and the median is another one.
    while large := outliers(kept, sizes, plan, state, max_norm_ratio):
        refused |= large
        taken = {client: update for client, update in taken.items() if client not in large}
        before, kept = kept, averaged(plan, taken)
        if kept.keys() <= before.keys():
            break
    return [kept[c] for c in sorted(kept)], refused, {c: sizes[c][GRADIENT] for c in sorted(kept)}


def _report(plan: RoundPlan, taken: Sequence[Update]) -> RoundReport:
    """What follows from the accepted updates alone."""
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
    length = sqrt(sum(step.gradient.values()))
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
        "parameter_norm": sqrt(sum(step.parameters.values())),
        "outer_norms": {key: sqrt(square) for key, square in step.moments.items()},
        "gradient_layer_norms": {name: sqrt(square) for name, square in step.gradient.items()},
        "parameter_layer_norms": {name: sqrt(square) for name, square in step.parameters.items()},
    }
