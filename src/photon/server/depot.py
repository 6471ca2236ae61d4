"""The server's payloads: what leads to the base of the open round, and updates put aside."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from photon.container.container import (
    ContainerRef,
    container_ref,
    open_container,
    write_container,
)
from photon.core.held import without_moments_of
from photon.core.messages import Difference, RoundPlan
from photon.core.parts import from_parts, parts_of
from photon.core.traffic import kinds_down
from photon.errors import PayloadError
from photon.run.base import Base, received_of
from photon.server.link import Work
from photon.wire.chunks import UNFINISHED
from photon.wire.inline import has_payload, in_one_message
from photon.wire.messages import MOST_STEPS, Get, Piece, Put, Ticket, most_update_bytes
from photon.wire.transport import Receiving, ServerSide

FETCHES = 4
"""Updates that are brought at a time from where they lie, while the server listens to its nodes."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A container that nodes get.

    Attributes:
        kinds: bytes of its tensors, by what they are.
        before: digest of the base that it is the difference to; empty: it is a base.
    """

    path: Path
    ref: ContainerRef
    kinds: dict[str, int]
    before: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """What leads a node from what it holds to the base of the open round.

    Attributes:
        base: names it; with more than a digest and a size where it is sent whole.
        steps: tickets of differences, in their order.
        payloads: all that is sent: of `steps`, or of `base`.
    """

    base: Ticket
    steps: list[Ticket] = field(default_factory=list)
    payloads: tuple[Payload, ...] = ()

    @property
    def beside(self) -> int:
        """Bytes that are sent, but in no message."""
        return sum(map(beside_messages, (self.base, *self.steps)))

    @property
    def kinds(self) -> Counter[str]:
        """Bytes of the tensors that are sent, by what they are."""
        return sum((Counter(one.kinds) for one in self.payloads), Counter())


class Depot:
    """Keeps payloads in files: an update that has come needs no memory until it is reduced.

    Differences of earlier rounds stay as long as all together are shorter than the base: nodes that
    have missed a few rounds get those, others get it whole.

    Args:
        folder: made anew; a resumed round fetches its updates again.
    """

    def __init__(self, folder: Path, transport: ServerSide) -> None:
        self.folder, self.transport = folder, transport
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._base: Payload | None = None
        self._is_seeded = False
        self._differences: dict[str, Payload] = {}
        self._tickets: dict[str, Ticket] = {}
        self._coming: set[str] = set()
        self._fetching = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")

    def publish(self, plan: RoundPlan, base: Base, in_use: Collection[str] = ()) -> None:
        """Have the base of a round at hand, and forget payloads that nobody needs any more.

        Args:
            base: its file is sent where clients receive all of it.
            in_use: digests of payloads that nodes are still getting.
        """
        self._forget(in_use)
        path = self.folder / f"base-{base.ref.digest}"
        if plan.sent is None:
            path = _linked(base.file.result(), path)
        elif not path.exists():
            write_container(path, *parts_of(received_of(base.sent, plan.sent)), ref=base.ref)
        received = base.sent if plan.sent is None else received_of(base.sent, plan.sent)
        self._base = Payload(path, base.ref, kinds_down(received))
        self._is_seeded = base.is_seeded
        if base.difference is not None and base.ref.digest not in self._differences:
            self._take_back(base.difference)
            self._differences[base.ref.digest] = self._written(base.difference)
        self._drop_differences(base.ref.size)

    def way(self, holds: str | None) -> Way:
        """The shortest way to the base of the open round from one that a node holds.

        Args:
            holds: its digest; empty: it holds none, and can begin from the seed; None: it has said
                that it cannot.
        """
        assert self._base is not None
        ref = self._base.ref
        steps = [] if self._is_seeded and holds is not None else self._steps(holds)
        if steps is None:
            return Way(self._ticket(self._base), payloads=(self._base,))
        tickets = in_one_message([self._ticket(one) for one in steps])
        return Way(ref.to_json(), tickets, tuple(steps))

    def pieces(self, way: Way) -> Iterator[Put]:
        """What goes ahead of an instruction; nothing if its tickets are enough."""
        for ticket, payload in zip(way.steps or [way.base], way.payloads, strict=False):
            if not has_payload(ticket):
                yield from self.transport.pieces(payload.path, payload.ref)

    def grants(self, clients: list[int]) -> dict[int, Ticket]:
        """How the updates of a node's clients may come back."""
        assert self._base is not None
        most = most_update_bytes(self._base.ref.size)
        return {client: self.transport.grant(len(clients), most) for client in clients}

    def receive(
        self, client: int, ticket: Ticket
    ) -> Generator[Get | Work, Piece | None, tuple[dict[str, Tensor], dict[str, Any]]]:
        """Fetch an update, asking for its pieces where it is in none of the places here.

        Where it lies beside the messages, that is work to be waited for.

        Raises:
            PayloadError: it is not what its ticket says.
        """
        ref = ContainerRef.from_json(ticket)
        if self._base is None or ref.size > most_update_bytes(self._base.ref.size):
            raise PayloadError(f"payload {ref.digest[:12]}: {ref.size} bytes are no update")
        path = self.folder / f"update-{client}-{ref.digest}"
        self._coming.add(path.name)
        try:
            receiving = self.transport.receive(ticket, ref, path)
            yield from self._brought(receiving) if beside_messages(ticket) else receiving
        finally:
            self._coming.discard(path.name)
        return open_container(path)

    def close(self) -> None:
        self._forget()
        self.transport.close()
        self._fetching.shutdown(cancel_futures=True)

    def _brought(self, receiving: Receiving) -> Generator[Get | Work, Piece | None, None]:
        """Have all between two questions to the node done in the background."""
        piece = None
        while True:
            step = self._fetching.submit(_next_question, receiving, piece)
            try:
                yield step
            finally:
                step.cancel()  # unless it has begun
            if (wanted := step.result()) is None:
                return
            piece = yield wanted

    def _steps(self, holds: str | None) -> list[Payload] | None:
        """Differences that make the open round's base of another one; None: none do."""
        assert self._base is not None
        found: list[Payload] = []
        at = self._base.ref.digest
        while at != holds:
            if at not in self._differences or len(found) == MOST_STEPS:
                return None
            found.append(self._differences[at])
            at = found[-1].before
        return found[::-1]

    def _ticket(self, payload: Payload) -> Ticket:
        """That of a payload, which is made available when the first node needs it."""
        digest = payload.ref.digest
        if digest not in self._tickets:
            self._tickets[digest] = self.transport.offer(payload.path, payload.ref)
        return self._tickets[digest]

    def _written(self, difference: Difference) -> Payload:
        tensors, facts = parts_of(difference)
        ref = container_ref(tensors, facts)
        path = self.folder / f"difference-{ref.digest}"
        write_container(path, tensors, facts, ref=ref)
        return Payload(path, ref, kinds_down(difference), difference.before)

    def _take_back(self, newest: Difference) -> None:
        """Leave out of earlier differences the moments that are told again."""
        for after, payload in self._differences.items() if newest.moments else ():
            before = from_parts(Difference, *open_container(payload.path))
            if (slim := without_moments_of(before, newest)) is not before:
                self._differences[after] = self._written(slim)

    def _drop_differences(self, most: int) -> None:
        """The oldest first, until all are at most so long."""
        while sum(one.ref.size for one in self._differences.values()) > most:
            self._differences.pop(next(iter(self._differences)))

    def _forget(self, in_use: Collection[str] = ()) -> None:
        """
        Args:
            in_use: digests of payloads that stay; updates that are coming stay too.
        """
        for digest in self._tickets.keys() - in_use:
            self.transport.withdraw(self._tickets.pop(digest))
        self._base = None
        kept = {one.path.name for one in self._differences.values()}
        kept |= {f"{kind}-{digest}" for kind in ("base", "difference") for digest in in_use}
        kept |= {name + end for name in self._coming for end in ("", *UNFINISHED)}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()


def _next_question(receiving: Receiving, piece: Piece | None) -> Get | None:
    """What is asked of the node next; nothing, once the update is here."""
    try:
        return next(receiving) if piece is None else receiving.send(piece)
    except StopIteration:
        return None


def _linked(source: Path, path: Path) -> Path:
    """A file under another name, which stays when the first one is deleted; itself where the file
    system has no links.
    """
    try:
        os.link(source, path)
    except FileExistsError:
        return path
    except OSError:
        return source
    return path


def beside_messages(ticket: Ticket) -> int:
    """Bytes of a payload that goes another way than in the messages; 0 of one in them."""
    is_beside = ticket.get("via", "inline") != "inline"
    return ContainerRef.from_json(ticket).size if is_beside else 0
