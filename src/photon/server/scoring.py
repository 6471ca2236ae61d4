"""Updates are scored before they are merged: on public text, and beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan

from photon.core.gate import GRADIENT, Verdict, check, opened
from photon.core.messages import RoundPlan, RoundReport, ServerState, Update
from photon.core.policy import Rules, weight
from photon.core.robust.gram import gram
from photon.core.tree import Readable, Tree
from photon.core.trust.quarantine import after_round
from photon.core.trust.scores import (
    Score,
    ScoreRules,
    common_part,
    cosines_to_others,
    remembered,
    score_faults,
)

PublicLoss = Callable[[Tree, Readable, float], float]
"""Nats per token of the public text, of parameters less a part of a pseudo-gradient, which may lack
some of them.
"""


@dataclass
class Scoring:
    """Scores the updates of each round of a run.

    Attributes:
        public_loss: None: none is measured.
    """

    rules: ScoreRules
    public_loss: PublicLoss | None
    _gains: dict[int, float] = field(default_factory=dict)
    _part: float | None = None

    def judged(
        self,
        state: ServerState,
        plan: RoundPlan,
        updates: Sequence[Update],
        verdicts: Sequence[Verdict],
        rules: Rules,
    ) -> tuple[list[Verdict], dict[int, Score]]:
        """What is to be said of each update now that all are here, and the scores of those that
        are not refused, by client.

        One that stands in for another which is refused is scored as well.
        """
        self._gains, self._part = {}, None
        found, scores = list(verdicts), dict[int, Score]()
        while True:
            taken, *_ = check(state, plan, updates, found, rules.max_norm_ratio)
            if not taken:
                return found, {}
            faults, scores = self._faults(state, plan, taken, rules)
            if not faults:
                return found, scores
            scored = {id(update) for update in taken}
            for index, update in enumerate(updates):
                if id(update) in scored and update.client in faults:
                    found[index] = Verdict(faults[update.client], found[index].sizes)

    def _faults(
        self, state: ServerState, plan: RoundPlan, taken: Sequence[Update], rules: Rules
    ) -> tuple[dict[int, str], dict[int, Score]]:
        trees: list[Readable] = [opened(update, plan, state)[GRADIENT] for update in taken]
        products = gram(trees).numpy()
        weights = [weight(update, plan, rules) for update in taken]
        cosines = cosines_to_others(products, weights)
        if self._part is None:  # that of all, so that gains of a round can be compared
            self._part = common_part(products, weights)
        clients = [update.client for update in taken]
        gains = self._measured(state, clients, trees)
        scores = [Score(gain, cosine) for gain, cosine in zip(gains, cosines, strict=True)]
        faults = score_faults(clients, scores, products, state.reputation, self.rules)
        return faults, dict(zip(clients, scores, strict=True))

    def _measured(
        self, state: ServerState, clients: Sequence[int], trees: Sequence[Readable]
    ) -> list[float | None]:
        """Nats by which each update lowers the public loss: `_part` of it, the round's
        `common_part`, is taken from what clients held.
        """
        if self.public_loss is None or self._part is None:
            return [None] * len(clients)
        held = {**state.params, **state.held}
        new = [(c, tree) for c, tree in zip(clients, trees, strict=True) if c not in self._gains]
        before = self.public_loss(held, {}, 0.0) if new else nan
        self._gains |= {
            client: before - self.public_loss(held, tree, self._part) for client, tree in new
        }
        return [self._gains[client] for client in clients]

    def noted(
        self, state: ServerState, report: RoundReport, scores: Mapping[int, Score]
    ) -> tuple[ServerState, RoundReport]:
        """State and report of a closed round with its scores, and who is left out from now on."""
        accepted = {client: scores[client] for client in report.accepted if client in scores}
        scored = remembered(state.reputation, accepted)
        after = after_round(scored, report.round, report.accepted, report.refused, self.rules)
        report = replace(report, scores=accepted, quarantined=after.quarantined)
        return replace(state, reputation=after), report
