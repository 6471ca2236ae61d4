"""How messages reach nodes: a link delivers bytes to an address and brings back the answer."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from photon.wire.buffers import Buffers

Work = Future[Any]
"""Something that this machine does beside listening."""
LOOK_SECONDS = 0.02
"""Between two looks at whether work is done."""
Answer = tuple[str, Buffers | None]
"""A message's id, and what a node has said to it; None: it went away before."""


class Link(Protocol):
    """Delivers messages, at least once or not at all, in any order."""

    def addresses(self) -> list[str]:
        """Where nodes can be reached now."""
        ...

    def send(self, address: str, message: Buffers) -> str:
        """Send a message; the id comes back with its answer.

        It does not wait for the other side: that may be waiting for an answer to be dealt with.
        """
        ...

    def answers(self, timeout: float) -> Iterator[Answer]:
        """What has come in, waiting at most `timeout` seconds for the first.

        The next answer is read when this one has been dealt with, so let go of it.
        """
        ...

    def close(self) -> None:
        """End what does not end with its node."""


class Inbox:
    """Answers on their way to the engine, however many nodes send at once: one is in memory."""

    def __init__(self) -> None:
        self._answers: queue.Queue[tuple[Answer, bool]] = queue.Queue()
        self._room = threading.Semaphore()

    def lose(self, name: str) -> None:
        """Nothing will come to that message."""
        self._answers.put(((name, None), False))

    def receive(self, name: str, read: Callable[[], memoryview | None]) -> None:
        """Read an answer, once the one before has been dealt with."""
        self._room.acquire()
        body = None
        with contextlib.suppress(OSError, MemoryError):
            body = read()
        self._answers.put(((name, None if body is None else Buffers(body)), True))

    def drain(self, timeout: float) -> Iterator[Answer]:
        """See `Link.answers`."""
        while True:
            try:
                answer, has_room = self._answers.get(timeout=timeout)
            except queue.Empty:
                return
            try:
                yield answer
            finally:
                del answer
                if has_room:
                    self._room.release()
            timeout = 0.0


class Desk:
    """A link whose server may wait for work of its own as for a node.

    Once that is done, an answer of no bytes comes in.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._work: dict[str, Work] = {}
        self._count = itertools.count()

    def send(self, address: str, said: Buffers | Work) -> str:
        """Send a message, or wait for work; the id comes back with what comes of it."""
        if isinstance(said, Buffers):
            return self.link.send(address, said)
        name = f"work {next(self._count)}"
        self._work[name] = said
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        """See `Link.answers`."""
        done = [name for name, work in self._work.items() if work.done()]
        for name in done:
            del self._work[name]
            yield name, Buffers(b"")
        yield from self.link.answers(min(timeout, LOOK_SECONDS) if self._work or done else timeout)
