"""The privacy of a run's rounds: its key, the noise on its sums, what that costs, its budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from photon.config.federation import Federation
from photon.core.aggregate import Mixture
from photon.core.messages import RoundPlan, ServerState, Update
from photon.core.policy import Rules
from photon.core.tree import Readable
from photon.errors import warn
from photon.machine.private_files import own_key
from photon.privacy.accounting import Release, Told
from photon.privacy.merge import identity, noise_on_mean, private_mixture, shortened
from photon.privacy.noise import KEY_BYTES, name_of, secret_seed
from photon.privacy.terms import (
    price_of,
    price_of_updates,
    release_of,
    shows_noisy_updates,
)
from photon.run.participation import Participation
from photon.run.releases import FOLDER, Ledger

KEY = "server.key"
"""Of a run's privacy, beside its ledger."""


class BudgetSpent(Exception):
    """Another round would cost more than `fl.privacy.max_epsilon`."""


class Privacy:
    """Does nothing where `fl.privacy` is off.

    Args:
        folder: of the run.
        state: that it goes on from.
    """

    def __init__(self, federation: Federation, folder: Path, state: ServerState) -> None:
        self.federation, self.settings = federation, federation.privacy
        if self.settings.is_on:
            self._key = own_key(folder / FOLDER / KEY, KEY_BYTES)
            name = name_of(self._key)
            before = state.releases, state.round, name, state.asked
            self._ledger = Ledger(folder / FOLDER, *before)
            price_of(federation, self._ledger.count())  # fails now where dp-accounting is missing

    def choosing(self, participation: Participation) -> Participation:
        """The rules by which cohorts are drawn, from a seed that nobody else knows."""
        if not self.settings.is_on:
            return participation
        return replace(participation, seed=secret_seed(self._key, "cohorts"))

    @property
    def blind(self) -> str:
        """Salt for the digest of a plan: nodes get that, and could find its cohort by trying."""
        return f"{secret_seed(self._key, 'plans'):x}" if self.settings.is_on else ""

    def before(self, state: ServerState) -> None:
        """Called before each round.

        Raises:
            BudgetSpent: it would exceed the budget, if all clients come. A round that was released
                already, and lost before its commit, costs nothing again.
        """
        if self.settings.is_on and not self._ledger.has(state.round + 1):
            fl = self.federation
            self._require_budget(release_of(fl, fl.cohort_size, fl.population))

    def rules(self, rules: Rules, plan: RoundPlan, alive: Sequence[int]) -> Rules:
        """The rules of a round.

        Args:
            alive: clients that its cohort was drawn from.
        """
        if not self.settings.is_on:
            return rules

        def private(
            updates: Sequence[Update], gradients: Sequence[Readable], norms: Sequence[float]
        ) -> Mixture:
            return self._merged(plan, len(alive), updates, gradients, norms)

        return replace(rules, private=private)

    def _merged(
        self,
        plan: RoundPlan,
        alive: int,
        updates: Sequence[Update],
        gradients: Sequence[Readable],
        norms: Sequence[float],
    ) -> Mixture:
        """Note the release, then say how it is made.

        Raises:
            BudgetSpent: it would exceed the budget; nothing has been noted, nor merged.
        """
        fl, clip = self.federation, self.settings.clip_norm
        assert clip is not None
        whose, clients = identity(updates), [len(update.clients) for update in updates]
        if not self._ledger.has(plan.round, whose):
            release = release_of(fl, sum(clients), alive)
            self._require_budget(release)
            self._ledger.add(plan.round, whose, release)
        if self.settings.is_by_clients:  # they have been shortened before the noise was added
            return private_mixture(gradients, clients, fl.cohort_size, None)
        address = f"{plan.run} {plan.round} {plan.base_digest} {whose}"
        deviation = self.settings.noise_multiplier * clip / fl.cohort_size
        noise = noise_on_mean(self._key, address, deviation)
        return private_mixture(gradients, shortened(norms, clip), fl.cohort_size, noise)

    def _require_budget(self, release: Release) -> None:
        budget = self.settings.max_epsilon
        if budget is None:
            return
        price = price_of(self.federation, Counter(self._ledger.count()) + Counter([release]))
        if price > budget:
            raise BudgetSpent(
                f"another round would cost epsilon {price:.4g}, the budget is "
                f"fl.privacy.max_epsilon={budget:g}"
            )

    def asking(self, round_number: int) -> Callable[[], None]:
        """What is called before clients are asked for updates of a round, before the first of them
        is asked again, before the first is asked a third time, and so on.

        Each noisy update costs its client something: the server could keep it, even if nothing is
        merged in the end.
        """
        if not shows_noisy_updates(self.federation):
            return lambda: None
        return lambda: self._ledger.ask(round_number)

    @property
    def asked(self) -> int:
        """Updates that one client may have sent so far, each with its own noise."""
        return self._ledger.asked() if shows_noisy_updates(self.federation) else 0

    def told(self) -> Told:
        """What has been released so far, as a state holds it."""
        return self._ledger.told() if self.settings.is_on else ()

    def record(self, state: ServerState) -> dict[str, Any]:
        """Keys of a record.

        Args:
            state: after the round.
        """
        if not self.settings.is_on:
            return {}
        fl, count = self.federation, self._ledger.count()
        found: dict[str, Any] = {
            "epsilon": price_of(fl, count),
            "delta": self.settings.delta_for(fl.population),
        }
        if (of_updates := price_of_updates(fl, self.asked)) is not None:
            found["epsilon_of_updates"] = of_updates
        try:
            self.before(state)
        except BudgetSpent:
            found["budget_spent"] = True
        return found


@contextmanager
def until_spent(is_spent: Callable[[], None]) -> Iterator[None]:
    """Rounds, which end where the budget does: the run is over then, as after its last round.

    Args:
        is_spent: is told that it was the budget.
    """
    try:
        yield
    except BudgetSpent as spent:
        is_spent()
        warn(f"the run ends here: {spent}")
