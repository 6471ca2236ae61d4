"""What a run is refused for before anything of it is made or changed, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from photon.chain.ledger import merged_in
from photon.config.evaluation import Scoring
from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.resolve import Run, RunMachine
from photon.core.robust.probe import withstands_one
from photon.data.read.shards import RowSource
from photon.errors import CheckpointError
from photon.hub.warm_start import WarmStart, warm_start
from photon.model.build import empty_model, parameters_of
from photon.points import AGGREGATIONS, aggregation, aggregation_parts
from photon.privacy.terms import check_budget, noise_warning
from photon.run import artifact
from photon.run.checkpoint import list_checkpoints, number_of
from photon.run.outer import outer_of
from photon.run.own_layers import require_no_tasks
from photon.run.releases import FOLDER, NAME, require_rounds
from photon.run.restore import checkpoint_of_round
from photon.run.run_data import VALIDATION, RunData
from photon.training.fragments import turn_of
from photon.training.layers import layers_of
from photon.training.outline import check_sent, outline_of
from photon.training.reach import reach


def checked_start(fl: Federation, inner: Inner, starts: tuple[str | None, str | None]) -> WarmStart:
    """What a new run starts from.

    Raises:
        ConfigError: weights, layers or the outer optimizer do not fit.
    """
    start = warm_start(inner, starts, fl)
    start.check()
    layers_of(fl, list(parameters_of(empty_model(inner))))
    outer_of(fl, 1)
    return start


def check_federation(fl: Federation, inner: Inner, scoring: Scoring) -> None:
    """ConfigError: what is sent, the privacy budget or the tasks to score cannot be."""
    fl.require_every_fragment()
    check_sent(fl, inner)
    check_budget(fl)
    require_no_tasks(fl, scoring)


def require_ledger(fl: Federation, run: Path, wanted: int | None) -> None:
    """CorruptCheckpoint: a run that goes on privately has released more than its ledger has.

    Args:
        wanted: the round that it goes back to, if one is named.
    """
    if not fl.privacy.is_on:
        return
    kept, since, asked = run / "checkpoints", 0, 0
    if paths := list_checkpoints(kept):
        since = number_of(checkpoint_of_round(kept, -1 if wanted is None else wanted))
        with suppress(CheckpointError):  # a damaged one may be what the run goes back for
            newest = artifact.read(paths[-1]).facts["state"]
            asked = newest.get("asked", 0) if newest["round"] > since else 0
    require_rounds(run / FOLDER / NAME, merged_in(run), since, asked)


def federation_warnings(run: Run, data: RunData, elsewhere: bool) -> list[str | None]:
    """What is allowed, and may not be expected.

    Args:
        elsewhere: whether other machines train, which have workers of their own.
    """
    fl, inner = run.federation, run.inner
    noise = noise_warning(fl, outline_of(inner, fl).num_sent) if fl.privacy.is_on else None
    origin = origin_warning(fl, run.trained_before)
    bounded = reach_warning(fl, inner)
    others = [absence_warning(fl), merging_warning(fl), period_warning(fl), bounded]
    ahead = None if elsewhere else overlap_warning(fl, run.machine)
    return [noise, origin, *others, ahead, *scoring_warnings(fl, lambda: data.rows(VALIDATION))]


def absence_warning(fl: Federation) -> str | None:
    """What becomes of a round that needs all clients, of which some may be kept away. (A single
    client never is.)
    """
    needs_all = 1 < fl.needed == fl.population and fl.on_failure != "skip"
    if fl.availability == 1.0 or not needs_all:
        return None
    return (
        f"fl.availability={fl.availability:g}: a round needs the updates of all {fl.population} "
        "clients, so the first in which one cannot take part stops the run; a lower fl.quorum "
        "closes rounds with those who can, fl.failed_rounds=skip passes them by"
    )


def overlap_warning(fl: Federation, machine: RunMachine) -> str | None:
    """What becomes of steps ahead on this machine, where nobody takes them while updates travel."""
    if not fl.most_ahead or (machine.workers and machine.devices_per_client == 1):
        return None
    key = "photon.devices_per_client" if machine.workers else "photon.workers"
    value = machine.devices_per_client if machine.workers else machine.workers
    return (
        f"fl.overlap={fl.overlap} with {key}={value}: clients begin rounds with parameters of "
        "their own and yet wait for the server's, since only workers of one device each train on "
        "meanwhile; take fl.overlap=none"
    )


def merging_warning(fl: Federation) -> str | None:
    """What a rule that withstands liars does not withstand."""
    rule = AGGREGATIONS[aggregation_parts(fl.aggregation)[0]]
    if rule.withstands == "none":
        return None
    if fl.is_async:
        return (
            f"fl.aggregation={fl.aggregation} with fl.mode=async: a merge may be of one update or "
            "two, of which nothing tells the false one"
        )
    if withstands_one(aggregation(fl.aggregation), fl.needed):
        return None
    return (
        f"fl.aggregation={fl.aggregation}: a round may be of {fl.needed} updates (fl.quorum), and "
        "of so few it does not withstand a single false one"
    )


def period_warning(fl: Federation) -> str | None:
    """Moments that are to be averaged for the first time when the run is over."""
    turns = turn_of(fl.rounds, fl.fragments)
    periods = {"first": fl.first_moment_period, "second": fl.second_moment_period}
    for name, period in periods.items():
        if fl.averages_moments and (period or 0) > turns:
            return (
                f"fl.{name}_moment_period={period}: with fl.n_rounds={fl.rounds} a parameter is "
                f"sent {turns} times, so {name} moments are never averaged; give a shorter period, "
                "or null if that is meant"
            )
    return None


def reach_warning(fl: Federation, inner: Inner) -> str | None:
    """A bound that was given, where the steps of the inner optimizer have none."""
    given = fl.max_reach not in (None, Federation().max_reach)
    if not given or math.isfinite(reach(inner, 1.0, 1, 1, 1.0)):
        return None
    name = inner.optimizer.name
    why = "without gradient_clipping" if name == "sgd" else "with its betas (b1^2 >= b2)"
    return (
        f"fl.max_reach={fl.max_reach:g}: no update is held to it, for a step of {name} {why} may "
        "be of any length; fl.max_norm_ratio alone judges updates"
    )


def origin_warning(fl: Federation, trained_before: Sequence[str]) -> str | None:
    """What epsilon does not count: what parameters that were trained before tell of the text."""
    if not fl.privacy.is_on or not trained_before:
        return None
    return (
        "epsilon counts this run's releases, with those of a run that photon.restore_run_uuid "
        f"copies: what else {trained_before[0]} tells of the clients' text is not in it"
    )


def scoring_warnings(fl: Federation, public: Callable[[], RowSource]) -> list[str]:
    """What somebody who has asked for scores of updates may not expect.

    Args:
        public: opens the rows that the model is scored on.
    """
    if not fl.judging.enabled:
        return []
    found = []
    if fl.needed == fl.cohort_size and fl.failed_rounds == "stop" and not fl.skips_failed_rounds:
        found.append(
            f"fl.scoring.enabled=true: a round needs the updates of all {fl.cohort_size} clients, "
            "so the first that is refused stops the run; fl.accept_failures_cnt=1 does without one"
        )
    rows = public()
    if len(rows) < fl.judging.rows:
        found.append(
            f"fl.scoring.rows={fl.judging.rows}: the validation set has {len(rows)} rows, all of "
            "which are scored"
        )
    return found
