"""All clients of a session in one process: the same functions, without messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from photon.errors import PayloadError
from photon.secure.fixed_point import Trees
from photon.secure.member import Member, Vectors, mask_numbers
from photon.secure.session import Replies
from photon.secure.terms import PublicKeys, Sealed, Terms

T = TypeVar("T")


class Own(NamedTuple):
    """What a client has trained: trees of float32, and how many tokens."""

    trees: Trees
    tokens: int


@dataclass(slots=True)
class Here:
    """See `session.Parties`.

    Attributes:
        own: of each client.
        lost: client -> why it has dropped out.
    """

    own: Mapping[int, Own]
    pool: Executor | None = None
    lost: dict[int, str] = field(default_factory=dict)
    _members: dict[int, Member] = field(default_factory=dict)

    def agree(self, terms: Terms) -> dict[int, PublicKeys]:
        self._members = {client: Member(terms, client) for client in terms.clients}
        return {client: member.keys for client, member in self._members.items()}

    def share(self, keys: Mapping[int, PublicKeys]) -> Replies:
        return self._each(keys, lambda client: self._members[client].share(keys))

    def mask(self, sealed: Mapping[int, Sealed]) -> Mapping[int, Vectors]:
        def mask(client: int) -> Vectors:
            member, own = self._members[client], self.own[client]
            with_masks = member.masked_by(sealed[client])
            return mask_numbers(own.trees, own.tokens, member.terms, with_masks, _memory, self.pool)

        return self._each(sealed, mask)

    def reveal(self, clients: Collection[int], survivors: Collection[int]) -> Replies:
        return self._each(clients, lambda client: self._members[client].reveal(survivors))

    def _each(self, clients: Collection[int], ask: Callable[[int], T]) -> dict[int, T]:
        found = {}
        for client in clients:
            try:
                found[client] = ask(client)
            except PayloadError as error:
                self.lost[client] = str(error)
        return found


def _memory(tree: str, count: int, kind: np.dtype) -> np.ndarray:
    return np.empty(count, kind)
