"""How messages reach nodes: a link delivers bytes to an address and brings back the answer."""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from photon.machine import frames
from photon.wire.buffers import Buffers
from photon.wire.messages import MAX_MESSAGE_BYTES

CONNECT_SECONDS = 5.0
STALL_SECONDS = 60.0
"""A node that stops so long in the middle of its answer has gone away: others wait behind it."""

Answer = tuple[str, Buffers | None]
"""A message's id, and what a node has said to it; None: it went away before."""


class Link(Protocol):
    """Delivers messages, at least once or not at all, in any order."""

    def addresses(self) -> list[str]:
        """Where nodes can be reached now."""
        ...

    def send(self, address: str, message: Buffers) -> str:
        """Send a message; the id comes back with its answer."""
        ...

    def answers(self, timeout: float) -> Iterator[Answer]:
        """What has come in, waiting at most `timeout` seconds for the first.

        The next answer is read when this one has been dealt with, so let go of it.
        """
        ...

    def close(self) -> None:
        """End what does not end with its node, as an exchange over a socket does."""


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


class SocketLink(Link):
    """Nodes of this machine, each behind a Unix socket; one connection for each message.

    Args:
        folder: every socket in it is a node's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inbox = Inbox()
        self._count = itertools.count()

    def addresses(self) -> list[str]:
        return sorted(str(path) for path in self.folder.glob("*.sock"))

    def send(self, address: str, message: Buffers) -> str:
        name = f"{next(self._count)}"
        threading.Thread(target=self._exchange, args=(name, address, message), daemon=True).start()
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        return self._inbox.drain(timeout)

    def _exchange(self, name: str, address: str, message: Buffers) -> None:
        try:
            with connect(Path(address)) as connection:
                frames.send_bytes(connection, *message.parts)
                length = frames.receive_length(connection, MAX_MESSAGE_BYTES)
                if length is None:
                    raise ConnectionError
                connection.settimeout(STALL_SECONDS)
                self._inbox.receive(name, lambda: frames.read(connection, length))
        except (OSError, ValueError):
            self._inbox.lose(name)


def connect(path: Path) -> socket.socket:
    """A connection to a Unix socket whose owner may just be starting.

    Raises:
        OSError: nobody listens within `CONNECT_SECONDS`.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            return connection
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
            if time.monotonic() > deadline or not path.exists():
                raise
            time.sleep(0.05)
