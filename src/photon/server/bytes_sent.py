"""What a round has sent, where clients of this machine stand for sites: as those would send it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from photon.container.container import container_size
from photon.core.messages import RoundPlan, ServerState, Update
from photon.core.parts import parts_of
from photon.core.traffic import Traffic, kinds_down, kinds_up
from photon.run.base import Base, received_of


def as_of_sites(
    plan: RoundPlan,
    base: Base,
    state: ServerState,
    asked: Iterable[int],
    updates: Sequence[Update],
) -> Traffic:
    """Payloads of a round, each client being a site of its own.

    A client that has missed rounds gets a difference for each, as long as the base is longer; those
    are taken to be of the size of the last one.

    Args:
        state: that the round began with.
        asked: clients that have received something.
    """
    found = Traffic()
    whole = kinds_down(received_of(base.sent, plan.sent))
    kinds = whole if base.difference is None else kinds_down(base.difference)
    size = base.ref.size if base.difference is None else _size(base.difference)
    for client in () if base.is_seeded else asked:
        rounds = state.round + 1 - state.last_accepted.get(client, 0)
        is_near = client in state.last_accepted and rounds * size < base.ref.size
        if base.difference is not None and is_near:
            found.received([client], rounds * size)
            found.were_tensors({}, {kind: rounds * its for kind, its in kinds.items()})
        else:
            found.received([client], base.ref.size)
            found.were_tensors({}, whole)
    for update in updates:
        found.sent([update.client], _size(update))
        found.were_tensors(kinds_up(update), {})
    return found


def _size(payload: Any) -> int:
    return container_size(*parts_of(payload))
