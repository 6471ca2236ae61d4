"""One federated round, on one page.

open_round    state and cohort -> one instruction for each of its clients
(clients train; their updates arrive in any order)
close_round   check -> weighted mean -> outer step -> new state and a report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt

from torch import Tensor

from photon.core.aggregate import Mixture, encoded_mean
from photon.core.codec import Codec, Codecs
from photon.core.diagnostics import report_of
from photon.core.gate import GRADIENT, NORMS_KEPT, Checked, Verdict, check, examined, opened
from photon.core.held import descent, held_before, in_order, noted, told
from photon.core.messages import (
    Bounds,
    Instruction,
    Moments,
    Norm,
    RoundPlan,
    RoundReport,
    ServerState,
    Update,
)
from photon.core.outer import OuterOptimizer
from photon.core.policy import Rules, oldest_taken, scale, share, weight
from photon.core.step import outer_step
from photon.core.tree import Readable, Tree, norm, squares
from photon.errors import RoundFailed

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
            descent=state.descents.get(client, ""),
            ahead=min(rules.ahead, steps[client]) if has_just_merged(state, client) else 0,
            part=rules.part(number),
            again=rules.again(number),
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
        last: parameters before the last step of those that are due, for the cosine to it.

    Raises:
        RoundFailed: fewer than the quorum of updates were accepted; each refusal is named. The
            state is as it was.
    """
    verdicts = verdicts or [examined(update, plan, state) for update in updates]
    checked = check(state, plan, updates, verdicts, rules.max_norm_ratio)
    count = _enough(checked, plan, rules.quorum)
    weights = [weight(update, plan, rules) for update in checked.taken]
    trees = [opened(update, plan, state) for update in checked.taken]
    gradients = [tree[GRADIENT] for tree in trees]
    mixture = _mixture(checked, gradients, weights, rules)
    part = share(weights, rules)
    moves, gathered = _due(state.gathered, part)
    if outer.between is not None and not moves:
        outer = outer._replace(step=outer.between)
    before = held_before(state, gradients[0], rules.down.parameters)
    by = scale(count, rules) * part
    step = outer_step(state, gradients, weights, outer, by, last, mixture)
    moments = _mean_moments(trees, weights, mixture, state, rules.down)
    report = report_of(plan, updates, checked, weights, step, part)
    stepped = replace(
        _counted(state, plan, checked, report, rules),
        params=step.params,
        outer=step.outer,
        is_seeded=False,
        gathered=gathered,
        moved=tuple(n + (moves and at == plan.fragment) for at, n in enumerate(state.moved)),
    )
    return _telling(stepped, plan, before, moments, rules.down.parameters), report


def _enough(checked: Checked, plan: RoundPlan, quorum: int) -> int:
    """How many clients the accepted updates are of.

    Raises:
        RoundFailed: fewer than the quorum.
    """
    count = sum(len(update.clients) for update in checked.taken)
    if count < quorum:
        reasons = "; ".join(f"client {client}: {why}" for client, why in checked.refused.items())
        raise RoundFailed(
            f"round {plan.round}: {count} of {quorum} updates needed were accepted"
            + (f" ({reasons})" if reasons else "")
        )
    return count


def _mixture(
    checked: Checked, gradients: Sequence[Readable], weights: Sequence[float], rules: Rules
) -> Mixture:
    """How the accepted updates are merged."""
    if rules.private is None:
        return rules.mixing(gradients, weights, rules.tables)
    return rules.private(checked.taken, gradients, list(checked.norms.values()))


def _counted(
    state: ServerState, plan: RoundPlan, checked: Checked, report: RoundReport, rules: Rules
) -> ServerState:
    """The state with all that is counted, and that later updates are judged by."""
    taken = checked.taken
    return replace(
        state,
        round=plan.round,
        step=state.step + _steps_done(state, report, rules),
        num_tokens=state.num_tokens + report.num_tokens,
        last_accepted={**state.last_accepted, **{c: u.round for u in taken for c in u.clients}},
        descents=_descents(state, taken),
        norms=_norms(state, checked, plan),
        bases=_bases(plan, rules),
        speeds={**state.speeds, **_speeds(taken)},
    )


def _descents(state: ServerState, taken: Sequence[Update]) -> dict[int, str]:
    """Those of the clients' states afterwards; an update of several of which some have lost theirs
    does not say which.
    """
    before = state.descents
    new = {c: descent(before.get(c, ""), u, lost=u.state_lost) for u in taken for c in u.clients}
    unknown = {c for u in taken if u.state_lost for c in u.covers}
    known = {**before, **new}
    return {client: one for client, one in known.items() if client not in unknown}


def _bases(plan: RoundPlan, rules: Rules) -> dict[int, str]:
    """The rounds whose late updates are still taken, this one among them."""
    takes_late = rules.staleness_exponent is not None
    return {**plan.bases, plan.round: plan.base_digest} if takes_late else {}


def _due(before: float, part: float) -> tuple[bool, float]:
    """Whether momentum moves with one more part of a round, and what is left of the parts
    afterwards.

    It moves with the part that brings their sum nearest to a whole round: with each merge of three
    quarters, not with every second.

    Args:
        before: what has been merged since momentum moved last.
    """
    gathered = before + part
    if gathered + part / 2 >= 1.0 - ROUNDING:
        return True, max(0.0, gathered - 1.0)
    return False, gathered


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
    """The averaged moments with the means of those of these updates, as they are sent."""
    moments: dict[str, Tree] = {}
    for name in [name for name in trees[0] if name != GRADIENT]:
        rows, own = [tree[name] for tree in trees], state.moments.get(name, {})
        codec = codecs.of_moment(name)
        mean = encoded_mean(rows, weights, codec, own, mixture.of_moments)
        moments[name] = {**own, **mean}
    return moments


def _telling(
    state: ServerState,
    plan: RoundPlan,
    before: dict[str, Tensor],
    moments: Moments,
    codec: Codec | None,
) -> ServerState:
    """The state after its step with what clients are told of that.

    Args:
        before: parameters as they hold them, of those that come as differences.
        moments: that the round has averaged, as they are sent.
        codec: of differences.
    """
    held, difference = told(before, state.params, codec)
    averaged = {**state.averaged, **noted(moments, plan.trained, plan.round)}
    return replace(
        state,
        held={**state.held, **held},
        difference=difference,
        difference_from=plan.base_digest if difference else "",
        moments=in_order({**state.moments, **moments}, state.params),
        averaged=dict(sorted(averaged.items())),
    )


def _norms(state: ServerState, checked: Checked, plan: RoundPlan) -> tuple[Norm, ...]:
    """The norms that later ones are judged by."""
    rate = plan.bounds.rate
    if not rate:  # steps at a rate of zero say nothing of later ones
        return state.norms
    sizes = zip(checked.taken, checked.norms.values(), strict=True)
    new = [Norm(size / rate, update.num_steps, rate, plan.fragment) for update, size in sizes]
    return (*state.norms, *new)[-NORMS_KEPT:]


def _speeds(taken: Sequence[Update]) -> dict[int, float]:
    measured = {c: u.metrics.get("tokens_per_second", 0.0) for u in taken for c in u.clients}
    return {client: speed for client, speed in measured.items() if speed > 0}


def skip_round(
    state: ServerState, plan: RoundPlan | None, rules: Rules
) -> tuple[ServerState, RoundReport]:
    """A round without a quorum that is given up: its number passes, the parameters stay. Who was
    late for it may come in a later one.

    Args:
        plan: None: it has not been opened.
    """
    found = squares(state.params)
    report = RoundReport(
        round=state.round + 1,
        parameter_norm=sqrt(sum(found.values())),
        parameter_layer_norms={name: sqrt(square) for name, square in found.items()},
        outer_norms={key: norm(tree) for key, tree in state.outer.items()},
    )
    bases = state.bases if plan is None else _bases(plan, rules)
    return replace(
        state, round=report.round, bases=bases, difference={}, difference_from=""
    ), report
