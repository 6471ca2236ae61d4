"""The base of a round: what clients start from, and the one container of it, hashed once."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from photon.container.container import ContainerRef, container_ref
from photon.core.messages import Broadcast, ServerState
from photon.core.parts import parts_of


@dataclass(frozen=True, slots=True)
class Base:
    """What clients start from.

    Attributes:
        sent: what they receive, or more than that.
        ref: names the container of what they receive.
        file: the file that has `sent` for other processes of this machine, once it is written; a
            container, perhaps not durable yet.
    """

    sent: Broadcast
    ref: ContainerRef
    file: Future[Path]

    @classmethod
    def at(cls, file: Path, sent: Broadcast, ref: ContainerRef) -> Base:
        """One whose file is there."""
        there: Future[Path] = Future()
        there.set_result(file)
        return cls(sent, ref, there)


def received_of(state: ServerState | Broadcast, names: Collection[str] | None = None) -> Broadcast:
    """What clients receive of a state: its moments, and its parameters (None: all)."""
    params = state.params if names is None else {name: state.params[name] for name in names}
    return Broadcast(params=params, moments=state.moments)


def base_ref(received: Broadcast) -> ContainerRef:
    """What names the container of what clients receive; where that is all of a state, it is the
    one of the state's checkpoint.
    """
    return container_ref(*parts_of(received))
