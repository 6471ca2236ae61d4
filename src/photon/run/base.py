"""The base of a round: what clients start from, and the one container of it, hashed once."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from photon.container.container import ContainerRef, container_ref
from photon.core.messages import Broadcast, Difference, ServerState
from photon.core.parts import parts_of


@dataclass(frozen=True, slots=True)
class Base:
    """What clients start from.

    Attributes:
        sent: what they receive, or more than that.
        ref: names the container of what they receive.
        file: the file that has `sent` for other processes of this machine, once it is written; a
            container, perhaps not durable yet.
        difference: what makes it of the base before; None: it does not follow from that.
        is_seeded: whether it follows from the run's seed.
    """

    sent: Broadcast
    ref: ContainerRef
    file: Future[Path]
    difference: Difference | None = None
    is_seeded: bool = False

    @classmethod
    def at(cls, file: Path, sent: Broadcast, ref: ContainerRef) -> Base:
        """One whose file is there."""
        there: Future[Path] = Future()
        there.set_result(file)
        return cls(sent, ref, there)


def received_of(state: ServerState | Broadcast, names: Collection[str] | None = None) -> Broadcast:
    """What clients hold of a state: its moments, and its parameters (None: all)."""
    params = state.params if isinstance(state, Broadcast) else {**state.params, **state.held}
    params = params if names is None else {name: params[name] for name in names}
    return Broadcast(params=params, moments=state.moments, averaged=state.averaged)


def difference_of(state: ServerState, ref: ContainerRef) -> Difference | None:
    """What makes what clients hold of a state of what they held before; None: nothing does.

    Args:
        ref: of what they hold.
    """
    if not state.difference:
        return None
    new = {key: number for key, number in state.averaged.items() if number == state.round}
    told = {key.partition("/")[0] for key in state.difference}
    return Difference(
        before=state.difference_from,
        after=ref.digest,
        params=state.difference,
        moments={
            name: {k: v for k, v in state.moments[name].items() if k.partition("/")[0] in told}
            for name in dict.fromkeys(key.partition("/")[0] for key in new)
        },
        averaged=new,
    )


def base_ref(received: Broadcast) -> ContainerRef:
    """What names the container of what clients receive; where that is all of a state, it is the
    one of the state's checkpoint.
    """
    return container_ref(*parts_of(received))
