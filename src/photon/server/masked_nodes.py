"""Clients of a session of secure aggregation, on their nodes: each phase is a message to each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from photon.core.policy import Rules, round_deadline
from photon.machine.clock import Clock
from photon.secure.fixed_point import Trees
from photon.secure.member import Vectors
from photon.secure.payload import facts_of, numbers_in
from photon.secure.session import Replies
from photon.secure.terms import PublicKeys, Sealed, Terms
from photon.server.depot import Depot
from photon.server.errand import Conversation, Talk, fault_of
from photon.server.masked import kinds_masked
from photon.wire.messages import Agree, Closed, MaskNumbers, Reveal, ShareKeys, Told

T = TypeVar("T")
Exchange = Callable[[Mapping[str, Conversation[None]], Callable[[], bool]], None]
"""Has conversations by address until all have ended, or it is told that time is up."""


@dataclass(slots=True)
class OverNodes:
    """See `secure.session.Parties`.

    Attributes:
        homes: client -> address of the node that has its update.
        talks: address -> how it is spoken to.
        like: tensors with the names and shapes of an update.
        lost: client -> why it has dropped out.
    """

    homes: Mapping[int, str]
    talks: Mapping[str, Talk]
    depot: Depot
    like: Trees
    exchange: Exchange
    rules: Rules
    clock: Clock
    should_stop: Callable[[], bool]
    lost: dict[int, str] = field(default_factory=dict)
    _terms: Terms | None = None

    def agree(self, terms: Terms) -> dict[int, PublicKeys]:
        self._terms = terms
        said: dict[str, Any] = {
            "session": terms.session, "run": terms.run, "round": terms.round,
            "base_digest": terms.base_digest, "cohort": terms.cohort,
            "threshold": terms.threshold, "most_tokens": terms.most_tokens,
            "reaches": dict(terms.reaches), "alike": terms.alike, "parties": list(terms.clients),
        }  # fmt: skip
        told = self._ask(terms.clients, lambda own: Agree(**said, clients=own), lambda t: t.keys)
        return {c: PublicKeys(its[:32], its[32:64], its[64:]) for c, its in told.items()}

    def share(self, keys: Mapping[int, PublicKeys]) -> Replies:
        sent = {client: b"".join(its) for client, its in keys.items()}
        request = ShareKeys(session=self.terms.session, keys=sent)
        return self._ask(keys, lambda own: request, lambda told: told.shares)

    def mask(self, sealed: Mapping[int, Sealed]) -> Mapping[int, Vectors]:
        def request(own: list[int]) -> Closed:
            its, grants = {c: dict(sealed[c]) for c in own}, self.depot.grants(own)
            return MaskNumbers(session=self.terms.session, sealed=its, upload=grants)

        found: dict[int, Vectors] = {}

        def fetch(talk: Talk, told: Told) -> Conversation[None]:
            for client in [c for c in talk.clients if c in told.updates]:
                try:
                    tensors, facts = yield from talk.fetch(self.depot, client, told.updates[client])
                    expected = facts_of(self.terms, client, self.like)
                    found[client] = numbers_in(tensors, facts, expected)
                    talk.traffic.were_tensors(kinds_masked(tensors), {})
                except Exception as error:
                    self.lost[client] = fault_of(error)

        self._ask(sealed, request, lambda told: told.updates, fetch)
        return found

    def reveal(self, clients: Collection[int], survivors: Collection[int]) -> Replies:
        def request(own: list[int]) -> Closed:
            return Reveal(session=self.terms.session, clients=own, survivors=list(survivors))

        return self._ask(clients, request, lambda told: told.shares)

    @property
    def terms(self) -> Terms:
        assert self._terms is not None
        return self._terms

    def _ask(
        self,
        clients: Collection[int],
        request: Callable[[list[int]], Closed],
        read: Callable[[Told], Mapping[int, T]],
        then: Callable[[Talk, Told], Conversation[None]] | None = None,
    ) -> dict[int, T]:
        """What the nodes of these clients tell of them; whoever is not told of is lost."""
        found: dict[int, T] = {}
        own = self._by_address(clients)
        begun, durations = self.clock(), []

        def converse(address: str) -> Conversation[None]:
            talk, its = self.talks[address], own[address]
            talk.clients[:] = its
            try:
                told = yield from talk.ask(request(its), Told)
                self.lost |= {c: why for c, why in told.failed.items() if c in its}
                if then is not None:
                    yield from then(talk, told)
                found.update({c: one for c, one in read(told).items() if c in its})
                durations.extend([self.clock() - begun] * len(its))
            except Exception as error:
                self.lost |= dict.fromkeys(its, fault_of(error))

        def is_over() -> bool:
            enough = len(found) >= self.terms.threshold
            most = round_deadline(durations, self.rules) if enough else self.rules.timeout
            return self.should_stop() or self.clock() - begun > most

        self.exchange({address: converse(address) for address in own}, is_over)
        for client in set(clients) - found.keys():
            self.lost.setdefault(client, "did not answer in a session of secure aggregation")
        return found

    def _by_address(self, clients: Collection[int]) -> dict[str, list[int]]:
        own: dict[str, list[int]] = defaultdict(list)
        for client in sorted(clients):
            if self.homes.get(client) in self.talks:
                own[self.homes[client]].append(client)
        return dict(own)
