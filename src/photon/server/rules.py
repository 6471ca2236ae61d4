"""What the rounds of a run go by: the numbers of its configuration, and who does what in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from photon.config.federation import Federation
from photon.config.resolve import Run
from photon.core.messages import RoundPlan, ServerState
from photon.core.policy import Merging, Rules
from photon.core.round import open_round
from photon.core.trust.quarantine import admitted
from photon.model.build import empty_model
from photon.model.flops import embedding_names
from photon.points import aggregation
from photon.run.participation import Participation
from photon.run.run_data import RunData
from photon.server.bounds import Honesty
from photon.server.pace import merging_of, room
from photon.training.fragments import Fragments
from photon.training.going_on import again, own_part
from photon.training.layers import LayerRoles, layers_of
from photon.training.outline import codecs_of, kept_codecs, update_codecs


def rules_of(fl: Federation, can_be_late: bool, merging: Merging | None = None) -> Rules:
    """The numbers of the configuration that `core.policy` goes by.

    Args:
        can_be_late: of the engine; one that waits for all clients gets what each has sent.
        merging: of an asynchronous run.
    """
    return Rules(
        quorum=fl.needed,
        up=update_codecs(fl) if can_be_late else kept_codecs(fl),
        down=codecs_of(fl),
        can_be_late=can_be_late,
        timeout=fl.round_timeout,
        timeout_min=fl.round_timeout_min,
        straggler_factor=fl.straggler_factor,
        # By the norms of others one client would decide on the updates of others.
        max_norm_ratio=None if fl.privacy.is_on else fl.max_norm_ratio,
        mixing=aggregation(fl.aggregation),
        scaling=fl.scaling,
        staleness_exponent=fl.late_exponent,
        max_staleness=fl.most_staleness(fl.cohort_size),
        merging=merging,
        ahead=fl.most_ahead,
        part=partial(own_part, fl),
        again=partial(again, fl),
        masked=fl.secure_aggregation,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTerms:
    """What all rounds of a run go by.

    Attributes:
        rules: by which a round is closed.
        layers, fragments: which parameters are sent, and when.
        participation: who takes part, with how many steps.
        honesty: what updates must keep to.
    """

    run: Run
    rules: Rules
    layers: LayerRoles
    fragments: Fragments
    participation: Participation
    honesty: Honesty

    @classmethod
    def of(cls, run: Run, state: ServerState, can_be_late: bool) -> RunTerms:
        """
        Args:
            state: any one of the run.
            can_be_late: of the engine.
        """
        fl, inner = run.federation, run.inner
        layers = layers_of(fl, list(state.params))
        fragments = Fragments.of(fl, layers, state.params)
        tables = frozenset(embedding_names(empty_model(inner)))
        return cls(
            run=run,
            rules=replace(rules_of(fl, can_be_late, merging_of(run)), tables=tables),
            layers=layers,
            fragments=fragments,
            participation=Participation.of(fl, inner, RunData.of(*run.reading)),
            honesty=Honesty(fl, inner, layers, fragments),
        )

    def choose(
        self, state: ServerState, alive: Sequence[int], busy: int
    ) -> tuple[dict[int, int], tuple[int, ...]]:
        """Whom the next round may ask: client -> optimizer steps; and who of them is a spare.

        Args:
            busy: clients that train, or whose update is not merged yet.
        """
        out, rules = state.reputation.quarantined, self.rules
        here = admitted(alive, out, state.round + 1, rules.quorum)
        may_ask = room(self.run, state, busy, waits=not rules.can_be_late)
        return self.participation.choose(state, here, may_ask)

    def sent(self, state: ServerState, steps: Mapping[int, int]) -> tuple[str, ...] | None:
        """Parameters that the clients of a round receive; None: all."""
        newcomers = any(client not in state.last_accepted for client in steps)
        names = self.layers.received(newcomers or bool(self.rules.down.parameters))
        return names if len(names) < len(state.params) else None

    def plan(
        self,
        state: ServerState,
        steps: Mapping[int, int],
        spares: tuple[int, ...],
        sent: tuple[str, ...] | None,
        base_digest: str,
    ) -> RoundPlan:
        """The next round, opened; the arguments are what `choose` and `sent` have given."""
        fragment, trained = self.fragments.turn(state.round + 1)
        most = max(steps.values(), default=self.run.inner.local_steps)
        plan = open_round(
            state,
            run=self.run.name,
            steps=steps,
            rules=self.rules,
            base_digest=base_digest,
            trained=trained if len(trained) < len(state.params) else None,
            sent=sent,
            bounds=self.honesty.bounds(state, most),
        )
        asked = plan.instructions
        if self._scores_clients(state):
            asked = {client: replace(one, evaluate=True) for client, one in asked.items()}
        return replace(plan, instructions=asked, spares=spares, fragment=fragment)

    def _scores_clients(self, state: ServerState) -> bool:
        fl = self.run.federation
        period = fl.validation_period
        return fl.validates_clients and period is not None and state.round % period == 0
