"""The outer loop with its effects: open, deliver, close, validate, track, commit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from photon.config.schema import Config
from photon.core.diagnostics import data_parallel_bytes
from photon.core.messages import RoundReport, ServerState
from photon.core.outer import OuterOptimizer, outer_optimizer
from photon.core.round import close_round, open_round, skip_round
from photon.core.tree import Tree, num_elements
from photon.errors import PhotonWarning, RoundFailed
from photon.evaluation.loss import LossReport
from photon.runtime.checkpoint import (
    naming_last_good,
    prune_checkpoints,
    save_server_state,
)
from photon.runtime.engines.local import Engine
from photon.runtime.interrupt import StopRequest
from photon.runtime.trackers import Tracker

Validate = Callable[[Tree], LossReport]


def initial_state(params: Tree, outer: OuterOptimizer) -> ServerState:
    """State before the first round."""
    return ServerState(round=0, step=0, params=dict(params), outer=outer.init(params))


def serve(
    config: Config,
    state: ServerState,
    *,
    checkpoints: Path,
    engine: Engine,
    validate: Validate,
    track: Tracker,
    stop: StopRequest,
) -> ServerState:
    """Run the rounds that are left.

    Args:
        config: resolved.
        state: the last committed state; its checkpoint is on disk.
        stop: asked between steps and rounds.

    Returns:
        The state after the last round.

    Raises:
        Interrupted: a signal arrived; committed rounds and finished clients are kept.
        RoundFailed: a round closed below the quorum.
    """
    outer = outer_optimizer(config.fl.strategy_name, config.fl.outer_arguments)
    attempts = 0
    while state.round < config.fl.n_rounds:
        begun = time.monotonic()
        try:
            state, report = _run_round(config, state, outer, checkpoints, engine, stop)
            attempts = 0
        except RoundFailed as error:
            attempts += 1
            state, report = _after_failure(config, state, attempts, error)
            if report is None:
                continue
        seconds = time.monotonic() - begun
        state = replace(state, train_seconds=state.train_seconds + seconds)
        result = validate(state.params) if _is_due(config, state.round) else None
        track(_record(config, state, report, seconds, result, engine.faults))
        save_server_state(checkpoints, state)
        prune_checkpoints(checkpoints, config.llm_config.save_num_checkpoints_to_keep)
    return state


def _run_round(
    config: Config,
    state: ServerState,
    outer: OuterOptimizer,
    checkpoints: Path,
    engine: Engine,
    stop: StopRequest,
) -> tuple[ServerState, RoundReport]:
    """Open, deliver, close.

    Raises:
        Interrupted, RoundFailed.
    """
    fl = config.fl
    stop.raise_if_asked(f"stopped after round {state.round}")
    alive = engine.alive(stop)
    stop.raise_if_asked(f"stopped after round {state.round}")
    plan = open_round(
        state,
        run=config.run_uuid or "",
        seed=config.seed,
        alive=alive,
        cohort_size=fl.cohort_size + fl.oversample,
        local_steps=config.llm_config.local_steps,
    )
    base = checkpoints / f"round_{state.round:06d}.json"
    with naming_last_good(checkpoints):
        updates = list(engine.run_round(plan, state, base, stop))
    arrived = sum(len(update.clients) for update in updates)
    if arrived < len(plan.cohort):
        stop.raise_if_asked(
            f"stopped in round {plan.round}; {arrived} of {len(plan.cohort)} clients "
            "had finished and are kept"
        )
    try:
        return close_round(
            state,
            plan,
            updates,
            outer=outer,
            quorum=fl.quorum or fl.cohort_size,
            compression=fl.compression,
            max_norm_ratio=fl.max_norm_ratio,
        )
    except RoundFailed as error:
        missing = "".join(f"; client {c}: {why}" for c, why in sorted(engine.faults.items()))
        raise RoundFailed(f"{error}{missing}") from None


def _after_failure(
    config: Config, state: ServerState, attempts: int, error: RoundFailed
) -> tuple[ServerState, RoundReport | None]:
    """What `fl.failed_rounds` makes of a round without a quorum.

    Returns:
        The state and no report to try again; or the next round's with the same parameters.

    Raises:
        RoundFailed: the run stops.
    """
    policy, limit = config.fl.failed_rounds, config.fl.round_attempts
    if policy == "stop" or (policy == "retry" and attempts >= limit):
        raise error
    message = f"{error}; fl.failed_rounds={policy}"
    warnings.warn(message, PhotonWarning, stacklevel=2)
    if policy == "retry":
        return state, None
    return skip_round(state)


def _is_due(config: Config, round_number: int) -> bool:
    period = config.fl.eval_period
    return round_number == config.fl.n_rounds or bool(period and round_number % period == 0)


def _record(
    config: Config,
    state: ServerState,
    report: RoundReport,
    seconds: float,
    result: LossReport | None,
    faults: Mapping[int, str],
) -> Mapping[str, Any]:
    """One line of metrics.jsonl; the reference lists the keys."""
    size = num_elements(state.params)
    workers = len(report.accepted)
    record: dict[str, Any] = {
        "round": report.round,
        "rounds": config.fl.n_rounds,
        "step": state.step,
        "tokens": state.num_tokens,
        "train_loss": report.train_loss,
        "seconds": seconds,
        "tokens_per_second": report.num_tokens / seconds,
        "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down,
        "bytes_ddp": data_parallel_bytes(size, workers, report.num_steps),
        "gradient_norm": report.gradient_norm,
        "client_norms": {str(c): v for c, v in report.client_norms.items()},
        "client_cosines": {str(c): v for c, v in report.client_cosines.items()},
        "client_metrics": {str(c): dict(v) for c, v in report.client_metrics.items()},
        "accepted": list(report.accepted),
        "refused": {str(c): why for c, why in report.refused.items()},
        "missing": {str(c): why for c, why in sorted(faults.items())},
        "state_lost": list(report.state_lost),
    }
    return record | loss_record(result)


def loss_record(result: LossReport | None) -> dict[str, float]:
    """Validation keys of a record; none if it was not due."""
    if result is None:
        return {}
    return {
        "val_loss": result.loss,
        "val_perplexity": result.perplexity,
        "val_bits_per_byte": result.bits_per_byte,
        "val_accuracy": result.accuracy,
    }
