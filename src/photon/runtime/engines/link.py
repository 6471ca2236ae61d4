"""How messages reach nodes: a link delivers bytes to an address and brings back the answer."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from photon.runtime import frames
from photon.runtime.wire import MAX_MESSAGE_BYTES

CONNECT_SECONDS = 5.0


Answer = tuple[str, bytes | None]


class Link(Protocol):
    """Delivers messages, at least once or not at all, in any order."""

    def addresses(self) -> list[str]:
        """Where nodes can be reached now."""
        ...

    def send(self, address: str, message: bytes) -> str:
        """Send a message; the id comes back with its answer."""
        ...

    def answers(self, timeout: float) -> Iterator[Answer]:
        """Ids and answers that have come in, waiting at most so long for the first.

        None stands for a node that went away before it answered.
        """
        ...

    def close(self) -> None: ...


def drain(answers: queue.Queue[Answer], timeout: float) -> Iterator[Answer]:
    """What is in a queue, waiting at most so long for the first."""
    try:
        yield answers.get(timeout=timeout)
        while True:
            yield answers.get_nowait()
    except queue.Empty:
        return


class SocketLink:
    """Nodes of this machine, each behind a Unix socket; one connection for each message.

    Args:
        folder: every socket in it is a node's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._count = itertools.count()

    def addresses(self) -> list[str]:
        return sorted(str(path) for path in self.folder.glob("*.sock"))

    def send(self, address: str, message: bytes) -> str:
        name = f"{next(self._count)}"
        threading.Thread(target=self._exchange, args=(name, address, message), daemon=True).start()
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        return drain(self._answers, timeout)

    def close(self) -> None:
        """Nothing to end: an exchange ends with its node."""

    def _exchange(self, name: str, address: str, message: bytes) -> None:
        self._answers.put((name, exchange(Path(address), message)))


def exchange(path: Path, message: bytes) -> bytes | None:
    """Send one message to a node's socket and wait for the answer; None if it goes away."""
    try:
        with connect(path) as connection:
            frames.send_bytes(connection, message)
            return frames.receive_bytes(connection, MAX_MESSAGE_BYTES)
    except (OSError, ValueError):
        return None


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
