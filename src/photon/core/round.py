"""One federated round, on one page.

open_round    state -> cohort and one instruction for each of its clients
(clients train; their updates arrive in any order)
close_round   check -> weighted mean -> outer step -> new state and a report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from photon.core.aggregate import weighted_mean
from photon.core.codec import Compression, encode
from photon.core.cohort import choose_cohort
from photon.core.diagnostics import cosine
from photon.core.gate import NORMS_KEPT, norm_fault, refusal
from photon.core.messages import Instruction, RoundPlan, RoundReport, ServerState, Update
from photon.core.outer import OuterOptimizer
from photon.core.tree import digest, norm, num_bytes
from photon.errors import RoundFailed


def open_round(
    state: ServerState,
    *,
    run: str,
    seed: int,
    alive: Sequence[int],
    cohort_size: int,
    local_steps: int,
) -> RoundPlan:
    """Choose the cohort of the next round and say what each of its clients does."""
    number = state.round + 1
    base = digest(state.params)
    cohort = choose_cohort(seed, number, alive, cohort_size)
    instructions = {
        client: Instruction(
            run=run,
            round=number,
            client=client,
            first_step=state.step,
            local_steps=local_steps,
            base_digest=base,
            last_accepted=state.last_accepted.get(client, 0),
        )
        for client in cohort
    }
    return RoundPlan(round=number, cohort=cohort, instructions=instructions, base_digest=base)


def close_round(
    state: ServerState,
    plan: RoundPlan,
    updates: Sequence[Update],
    *,
    outer: OuterOptimizer,
    quorum: int,
    compression: Compression,
    max_norm_ratio: float | None = None,
) -> tuple[ServerState, RoundReport]:
    """Turn the updates of a round into the next state.

    Updates may arrive in any order: they are reduced in cohort order, so the bits are the same.

    Raises:
        RoundFailed: fewer than `quorum` updates were accepted; each refusal is named.
    """
    taken, refused = check(state, plan, updates, max_norm_ratio)
    count = sum(len(update.clients) for update in taken)
    if count < quorum:
        reasons = "; ".join(f"client {client}: {why}" for client, why in refused.items())
        raise RoundFailed(
            f"round {plan.round}: {count} of {quorum} updates needed were accepted"
            + (f" ({reasons})" if reasons else "")
        )
    weights = [float(update.num_tokens) for update in taken]
    gradient = weighted_mean([update.gradient for update in taken], weights)
    params, moments_outer = outer.step(state.params, gradient, state.outer)
    moments = {
        name: encode(weighted_mean([u.moments[name] for u in taken], weights), compression)
        for name in taken[0].moments
    }
    report = _report(state, plan, taken, refused, gradient)
    accepted = dict.fromkeys(report.accepted, plan.round)
    new_state = replace(
        state,
        round=plan.round,
        step=state.step + report.num_steps,
        params=params,
        outer=moments_outer,
        moments=moments,
        num_tokens=state.num_tokens + report.num_tokens,
        last_accepted={**state.last_accepted, **accepted},
        bytes_up=state.bytes_up + report.bytes_up,
        bytes_down=state.bytes_down + report.bytes_down,
        norms=(*state.norms, *report.client_norms.values())[-NORMS_KEPT:],
    )
    return new_state, report


def skip_round(state: ServerState) -> tuple[ServerState, RoundReport]:
    """A round without a quorum that is given up: its number passes, the parameters stay."""
    report = RoundReport(
        round=state.round + 1,
        accepted=(),
        refused={},
        num_tokens=0,
        num_steps=0,
        bytes_up=0,
        bytes_down=0,
        train_loss=0.0,
        gradient_norm=0.0,
        client_norms={},
        client_cosines={},
        client_metrics={},
    )
    return replace(state, round=report.round), report


def check(
    state: ServerState,
    plan: RoundPlan,
    updates: Sequence[Update],
    max_norm_ratio: float | None = None,
) -> tuple[list[Update], dict[int, str]]:
    """Split updates into the accepted, in cohort order, and the refused with their reasons."""
    taken: dict[int, Update] = {}
    refused: dict[int, str] = {}
    for update in updates:
        first = next(iter(taken.values()), update)
        here = {client for other in taken.values() for client in other.clients}
        reason = refusal(update, plan, state.params, state.moments or first.moments, here)
        if reason is None:
            taken[update.client] = update
        elif update.client not in here:
            refused[update.client] = reason
    norms = {client: norm(update.gradient) for client, update in taken.items()}
    seen = [*state.norms, *norms.values()]
    for client, value in norms.items():
        if reason := norm_fault(value, seen, max_norm_ratio):
            refused[client] = reason
            del taken[client]
    return [taken[client] for client in plan.cohort if client in taken], refused


def broadcast_bytes(state: ServerState) -> int:
    """Bytes that one client receives: parameters, and the averaged moments if there are any."""
    return num_bytes(state.params) + sum(num_bytes(tree) for tree in state.moments.values())


def _report(
    state: ServerState,
    plan: RoundPlan,
    taken: Sequence[Update],
    refused: Mapping[int, str],
    gradient: Mapping,
) -> RoundReport:
    tokens = sum(update.num_tokens for update in taken)
    loss = sum(u.metrics["train_loss"] * u.num_tokens for u in taken) / tokens
    return RoundReport(
        round=plan.round,
        accepted=tuple(sorted(client for update in taken for client in update.clients)),
        refused=refused,
        num_tokens=tokens,
        num_steps=max(update.num_steps for update in taken),
        bytes_up=sum(update.num_bytes for update in taken),
        bytes_down=broadcast_bytes(state) * len(plan.cohort),
        train_loss=loss,
        gradient_norm=norm(gradient),
        client_norms={u.client: norm(u.gradient) for u in taken},
        client_cosines={u.client: cosine(u.gradient, gradient) for u in taken},
        client_metrics={u.client: u.metrics for u in taken},
        state_lost=tuple(u.client for u in taken if u.state_lost),
    )
