"""The outer loop with its effects: open, deliver, close, validate, track, commit."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from photon.chain.ledger import Chain
from photon.chain.said import REDRAWN, Said, said_of
from photon.config.resolve import Run
from photon.core.diagnostics import noise_scale
from photon.core.messages import Failure, RoundPlan, RoundReport, ServerState, Update
from photon.core.outer import OuterOptimizer
from photon.core.policy import Rules, is_out_of_reach, oldest_taken
from photon.core.round import close_round, skip_round
from photon.core.traffic import Traffic
from photon.core.tree import Tree
from photon.errors import RoundFailed, warn
from photon.machine.device import return_freed_memory
from photon.machine.interrupt import StopRequest
from photon.run.base import Base
from photon.run.checkpoint import load_parameters, naming_last_good, round_path
from photon.run.outer import outer_of
from photon.run.trackers import Tracker
from photon.server.bytes_sent import Sites
from photon.server.commits import Commits
from photon.server.delivery import Delivery
from photon.server.engine import Engine
from photon.server.masked import likeness, sum_of, terms_of, united
from photon.server.pace import is_due, is_over, moved, round_of
from photon.server.privacy import Privacy, until_spent
from photon.server.records import Phases, round_record, time_record
from photon.server.redrawing import redrawn
from photon.server.rules import RunTerms
from photon.server.scoring import Scoring

Validate = Callable[[ServerState], dict[str, Any]]
"""Scores the parameters of a round; gives the validation keys of a record."""


def initial_state(params: Tree, outer: OuterOptimizer, *, is_seeded: bool = False) -> ServerState:
    """State before the first round.

    Args:
        is_seeded: whether the parameters are those of the run's seed.
    """
    moments = outer.init(params)
    return ServerState(round=0, step=0, params=dict(params), outer=moments, is_seeded=is_seeded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What rounds do to the world, beside training and their commits.

    Attributes:
        validate: scores the global parameters.
        track: takes a record of each round.
        written: gives the line of metrics.jsonl that was written last, which the commit holds too.
        committed: called after each commit, in another thread.
        tell: takes where the round is: its number, phase, cohort, and whose updates are here.
        is_spent: called where the budget of `fl.privacy` ends the run.
    """

    validate: Validate
    track: Tracker
    written: Callable[[], Mapping[str, Any] | None] = lambda: None
    committed: Callable[[], None] = lambda: None
    tell: Callable[[Mapping[str, Any]], None] = lambda facts: None
    is_spent: Callable[[], None] = lambda: None


@dataclass
class Server:
    """Runs the rounds of one run.

    Attributes:
        checkpoints: folder; the checkpoint of the state that is served is there.
        engine: trains the clients.
        stop: asked between steps and rounds.
        scoring: judges the updates of a round beside each other, where that is asked for.
        chain: gets a link of each commit.
        _terms, _privacy, _commits: as `serve` makes them.
        _phases, _traffic, _attempts: of the round so far: times, bytes, and attempts that failed.
        _delivery: of the attempt that goes on, once its round is open.
        _sites: what clients hold, for counting bytes.
    """

    run: Run
    checkpoints: Path
    engine: Engine
    stop: StopRequest
    effects: Effects
    scoring: Scoring | None = None
    chain: Chain | None = None
    _terms: RunTerms = field(init=False)
    _privacy: Privacy = field(init=False)
    _commits: Commits = field(init=False)
    _phases: Phases = field(init=False)
    _traffic: Traffic = field(default_factory=Traffic)
    _attempts: int = 0
    _delivery: Delivery | None = None
    _sites: Sites = field(default_factory=Sites)

    def serve(self, state: ServerState) -> ServerState:
        """Run the rounds that are left after a committed state; gives the state after the last.

        Raises:
            Interrupted: a signal arrived; committed rounds and finished clients are kept.
            RoundFailed: a round closed below the quorum.
        """
        run = self.run
        self._begin(state)
        state = replace(state, moved=moved(run, state))
        with closing(self._commits):
            with until_spent(self.effects.is_spent):
                while not is_over(run, state):
                    self._privacy.before(state)
                    self._phases = self._phases.of_next_attempt()
                    done = self._attempt(state)
                    if done is not None:
                        due = is_due(run, state, done[0])
                        state = done[0]
                        self._commit(*done, due)
            self._commits.settle()
        return state

    def _begin(self, state: ServerState) -> None:
        """Make what the rounds after a committed state go by."""
        run, kept = self.run, self.run.checkpoints_kept
        terms = RunTerms.of(run, state, self.engine.can_be_late)
        self._privacy = Privacy(run.federation, self.checkpoints.parent, state)
        participation = self._privacy.choosing(terms.participation)
        self._terms = replace(terms, participation=participation)
        committed = self.effects.committed
        self._commits = Commits(self.checkpoints, state.round, kept, committed, self.chain)
        self._phases = Phases.beginning(self.engine.clock)

    def _attempt(self, state: ServerState) -> tuple[ServerState, dict[str, Any], Said] | None:
        """Run a round; None to try again.

        Returns:
            The next state, the record, and what the round's link says: what else came of it needs
            no memory any more.

        Raises:
            Interrupted, RoundFailed.
        """
        self._delivery = None
        try:
            after, report = self._run_round(self._with_fresh_layers(state))
        except RoundFailed as error:
            self._attempts += 1
            if self._terms.rules.merging is not None:  # those in training would answer another
                self.engine.cancel(sys.maxsize)
            skipped = self._after_failure(state, error)
            if skipped is None:
                return None
            after, report = skipped
        else:
            self._attempts = 0
        return self._counted(state, after, report)

    def _counted(
        self, state: ServerState, after: ServerState, report: RoundReport
    ) -> tuple[ServerState, dict[str, Any], Said]:
        """The state after a round with all that was counted in it, and what is written of it."""
        delivery, self._delivery = self._delivery, None
        traffic, self._traffic = self._traffic, Traffic()
        plan, missing = (delivery.plan, delivery.missing) if delivery else (None, {})
        said = REDRAWN if self.chain is None else said_of(plan, report, self._privacy.blind)
        seconds = self._phases.total()
        after = replace(
            after,
            train_seconds=state.train_seconds + seconds,
            bytes_up=state.bytes_up + traffic.bytes_up,
            bytes_down=state.bytes_down + traffic.bytes_down,
            releases=self._privacy.told(),
            asked=self._privacy.asked,
        )
        record = round_record(self.run, state, after, report, missing, traffic, seconds)
        return after, record | self._privacy.record(after), said

    def _run_round(self, state: ServerState) -> tuple[ServerState, RoundReport]:
        """Open, deliver, close."""
        self._end_if_asked(f"stopped after round {state.round}")
        with self._phase("wait", state.round + 1):
            alive = self.engine.alive(self._must_stop)
        self._end_if_asked(f"stopped after round {state.round}")
        plan, base = self._open(state, alive)
        rules = self._privacy.rules(self._terms.rules, plan, alive)
        with self._phases.timing("train"), naming_last_good(self.checkpoints):
            delivery = self._deliver(plan, base, state)
        try:
            if rules.masked:
                self._unmask(delivery)
        finally:
            self._count(delivery, base)
        with self._phase("commit", plan.round):
            self._commits.settle()
        with self._phase("aggregate", plan.round):
            return self._close(delivery, rules)

    def _open(self, state: ServerState, alive: Sequence[int]) -> tuple[RoundPlan, Base]:
        terms = self._terms
        steps, spares = terms.choose(state, alive, self.engine.busy)
        sent = terms.sent(state, steps)
        base = self._commits.base(state, sent)
        return terms.plan(state, steps, spares, sent, base.ref.digest), base

    def _deliver(self, plan: RoundPlan, base: Base, state: ServerState) -> Delivery:
        """Have clients trained until nobody is missing, or `core.policy` closes the round."""
        asking = self._privacy.asking(plan.round)
        rules = self._terms.rules
        delivery = self._delivery = Delivery(plan, state, rules, self.engine.clock, asking)
        self._tell_training(delivery)
        self._commits.go()
        arrivals = self.engine.run_round(plan, base, delivery.waiting, self._must_stop)
        try:
            for arrival in arrivals:
                if arrival is not None:
                    self._take(delivery, arrival)
                elif delivery.is_over(self.engine.durations):
                    break
        finally:
            arrivals.close()
        self.engine.cancel(oldest_taken(plan.round + 1, rules))
        if self._commits.has_failed:
            self._commits.settle()
        if not delivery.is_complete:
            self._end_if_asked(
                f"stopped in round {plan.round}; {len(delivery.came)} of {len(plan.members)} "
                "clients had finished and are kept"
            )
        return delivery

    def _unmask(self, delivery: Delivery) -> None:
        """Have the updates of those that have trained summed, each masked.

        Raises:
            RoundFailed: too few are left.
            Interrupted: a signal arrived.
        """
        plan, said = delivery.plan, delivery.ready
        like = likeness(plan, delivery.state)
        parties = self.engine.parties(plan, delivery.unmasked, like, self._must_stop)
        try:
            with self._phase("unmask", plan.round):
                terms = terms_of(plan, list(said), self.run.federation)
                total = sum_of(terms, parties, like, self._terms.rules.quorum)
        finally:
            self._end_if_asked(f"stopped in round {plan.round}; what clients had done is kept")
            delivery.lose(parties.lost)
        delivery.take_sum(united(total, said))

    def _count(self, delivery: Delivery, base: Base) -> None:
        """Add what a round, or an attempt at one, has sent."""
        plan, state, counted = delivery.plan, delivery.state, self.engine.take_traffic()
        if counted is None:
            counted = self._sites.traffic(plan, base, state, delivery.asked, delivery.updates)
        self._traffic.add(counted)

    def _end_if_asked(self, where: str) -> None:
        """End the run where a signal asked for it, and the round before is kept, as that says.

        Raises:
            Interrupted, StorageError.
        """
        if self._must_stop():
            self._commits.settle()
        self.stop.raise_if_asked(where)

    def _must_stop(self) -> bool:
        """Asked between steps: there is no use in going on from a round that cannot be kept."""
        return self.stop() or self._commits.has_failed

    def _take(self, delivery: Delivery, arrival: Update | Failure) -> None:
        """Note an arrival.

        Raises:
            Exception: that of a client which the round cannot do without, where the run is to stop
                then (`fl.failed_rounds`).
        """
        delivery.take(arrival)
        self._tell_training(delivery)
        if isinstance(arrival, Failure) and arrival.error is not None:
            is_lost = is_out_of_reach(delivery.plan, delivery.failed, self._terms.rules)
            if is_lost and self.run.federation.on_failure == "stop":
                raise arrival.error
            message = f"client {arrival.client} has failed: {arrival.reason}"
            warn(message)

    def _tell_training(self, delivery: Delivery) -> None:
        plan, arrived = delivery.plan, sorted(delivery.came)
        # Of a merge others may come as well.
        members = plan.members if self._terms.rules.merging is None else ()
        self.effects.tell({"round": plan.round, "phase": "train", "since": delivery.begun,
                           "cohort": list(members), "arrived": arrived})  # fmt: skip

    def _phase(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Time a part of a round; what the part before has freed is given back to the system."""
        self.effects.tell({"round": round_number, "phase": name, "since": time.time()})
        return_freed_memory()
        return self._phases.timing(name)

    def _close(self, delivery: Delivery, rules: Rules) -> tuple[ServerState, RoundReport]:
        fl, plan, state = self.run.federation, delivery.plan, delivery.state
        verdicts, scores = delivery.verdicts, {}
        if self.scoring is not None:
            verdicts, scores = self.scoring.judged(
                state, plan, delivery.updates, verdicts, self._terms.rules
            )
        outer = outer_of(fl, round_of(self.run, state), state.moved[plan.fragment])
        after, report = close_round(
            state, plan, delivery.updates, outer=outer, rules=rules, verdicts=verdicts,
            last=_parameters_after(self.checkpoints, state.round - fl.fragments),
        )  # fmt: skip
        if self.scoring is not None:
            after, report = self.scoring.noted(after, report, scores)
        if fl.measures_noise:
            norms = list(report.client_norms.values())
            noise = noise_scale(state.noise, norms, report.mean_norm, fl.noise_scale_beta)
            after = replace(after, noise=noise)
        return after, report

    def _commit(self, state: ServerState, record: dict[str, Any], said: Said, due: bool) -> None:
        """Validate if that is due, track, and begin to save: that goes on while the next round
        trains, and has ended before that one closes.
        """
        result: dict[str, Any] = {}
        with self._phase("validate", state.round):
            if due:
                result = self.effects.validate(state)
        went = time_record(self._phases, record, self.engine.devices)
        self.effects.track({**record, **went, **result})
        self._phases = self._phases.of_next_round()
        with self._phases.timing("commit"):
            self._commits.add(state, self.effects.written(), said)

    def _after_failure(
        self, state: ServerState, error: RoundFailed
    ) -> tuple[ServerState, RoundReport] | None:
        """What `fl.failed_rounds` makes of a round without a quorum.

        Returns:
            None to try again; or the next round's state with the same parameters.

        Raises:
            RoundFailed: the run stops.
        """
        policy, limit = self.run.federation.on_failure, self.run.federation.round_attempts
        delivery = self._delivery
        error = _naming(error, delivery.missing if delivery else {})
        if policy == "stop" or (policy == "retry" and self._attempts >= limit):
            raise error
        warn(f"{error}; fl.failed_rounds={policy}")
        if policy == "retry":
            return None
        return skip_round(state, delivery.plan if delivery else None, self._terms.rules)

    def _with_fresh_layers(self, state: ServerState) -> ServerState:
        """The state with `fl.random_layers` drawn anew, where that is due; on disk too."""
        fresh = redrawn(self.run, state, self._terms.layers)
        if fresh is not state:
            with self._phases.timing("commit"):
                self._commits.add(fresh, self.effects.written())
        return fresh


def _naming(error: RoundFailed, missing: Mapping[int, str]) -> RoundFailed:
    return RoundFailed(f"{error}{''.join(f'; client {c}: {why}' for c, why in missing.items())}")


def _parameters_after(checkpoints: Path, number: int) -> Tree | None:
    """Parameters after a round, if they are still there: mapped, and not verified, since only a
    metric depends on them.
    """
    path = round_path(checkpoints, number)
    return load_parameters(path, verify=False) if path.exists() else None
