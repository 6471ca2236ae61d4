"""The base of a round: what clients start from, and the one container of it, hashed once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from photon.container.container import ContainerRef, container_ref
from photon.core.messages import Broadcast, ServerState
from photon.core.parts import parts_of


@dataclass(frozen=True, slots=True)
class Base:
    """Attributes:
    sent: what clients receive, or more than that.
    path: of the file that has it for other processes of this machine.
    ref: names the container of what they receive.
    """

    sent: Broadcast
    path: str
    ref: ContainerRef


def received_of(state: ServerState | Broadcast, names: Collection[str] | None = None) -> Broadcast:
    """What clients receive of a state: its moments, and its parameters (None: all)."""
    params = state.params if names is None else {name: state.params[name] for name in names}
    return Broadcast(params=params, moments=state.moments)


def base_ref(received: Broadcast) -> ContainerRef:
    """What names the container of what clients receive; where that is all of a state, it is the
    one of the state's checkpoint.
    """
    return container_ref(*parts_of(received))
