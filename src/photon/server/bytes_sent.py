"""What a round has sent, where clients of this machine stand for sites: as those would send it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from photon.container.container import container_size
from photon.core.held import without_moments_of
from photon.core.messages import RoundPlan, ServerState, Update
from photon.core.parts import parts_of
from photon.core.traffic import Traffic, kinds_down, kinds_up
from photon.run.base import Base, received_of
from photon.server.masked import sent_masked


class Sites:
    """Counts the payloads of rounds, each client being a site of its own."""

    def __init__(self) -> None:
        self._holds: dict[int, str] = {}
        self._base, self._whole_since = "", 0

    def traffic(
        self,
        plan: RoundPlan,
        base: Base,
        state: ServerState,
        asked: Iterable[int],
        updates: Sequence[Update],
    ) -> Traffic:
        """Of a round, or of an attempt at one.

        A client that has missed rounds gets a difference for each, or the base whole where that is
        shorter. All earlier differences are taken to be of one size: see `_differences`.

        Args:
            state: that the round began with.
            asked: clients that train.
        """
        found = Traffic()
        whole = kinds_down(received_of(base.sent, plan.sent))
        self._note(base, state)
        last, earlier = _differences(base, state)
        for client in asked:
            rounds = self._missed(client, base, state)
            size = last.size + (rounds - 1) * earlier.size
            if rounds and size >= base.ref.size:
                found.received([client], base.ref.size)
                found.were_tensors({}, whole)
            elif rounds:
                found.received([client], size)
                found.were_tensors({}, last.kinds)
                found.were_tensors({}, {k: (rounds - 1) * n for k, n in earlier.kinds.items()})
            self._holds[client] = base.ref.digest
        for update in updates:
            is_masked = bool(update.covers)  # each of its clients has sent as much
            size, sent = sent_masked(update) if is_masked else (_size(update), kinds_up(update))
            for client in update.clients:
                found.sent([client], size)
                found.were_tensors(sent, {})
        return found

    def _note(self, base: Base, state: ServerState) -> None:
        """Remember the last base that has no difference to the one before: all get it whole."""
        is_new = self._base not in ("", base.ref.digest)
        if is_new and base.difference is None:
            self._whole_since = state.round + 1
        self._base = base.ref.digest

    def _missed(self, client: int, base: Base, state: ServerState) -> int:
        """Rounds whose differences a client lacks; `sys.maxsize` where none lead to the base."""
        holds = self._holds.get(client)
        if base.is_seeded or holds == base.ref.digest:
            return 0
        if base.difference is not None and holds == base.difference.before:
            return 1
        last = state.last_accepted.get(client)
        if last is None or last < self._whole_since:
            return sys.maxsize
        return state.round + 1 - last


class _Sent(NamedTuple):
    """Bytes of a payload, and of its tensors by kind."""

    size: int
    kinds: Mapping[str, int]


def _differences(base: Base, state: ServerState) -> tuple[_Sent, _Sent]:
    """The last difference, and an earlier one as it is sent together with the last.

    Then it goes without the moments, which the last one tells anew; but the last one of a fragment
    tells only those of that fragment, so the earlier one stays as it is. Where there is no
    difference, the base stands for both.
    """
    last = base.difference
    if last is None:
        whole = _Sent(base.ref.size, {})
        return whole, whole
    told = {key.partition("/")[0] for key in last.params}
    earlier = without_moments_of(last, last) if told >= state.held.keys() else last
    return _Sent(_size(last), kinds_down(last)), _Sent(_size(earlier), kinds_down(earlier))


def _size(payload: Any) -> int:
    return container_size(*parts_of(payload))
