"""A proxy that makes a link slow, distant, uneven, lossy or dead: seeded, so that runs repeat."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Address = tuple[str, int] | Path
"""Of a TCP or a Unix socket."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a link does to bytes, each way.

    Attributes:
        delay: seconds that each piece is on its way.
        jitter: seconds more, at most, evenly spread; pieces of a connection stay in order.
        rate: bytes per second, shared by all connections; None: as fast as it goes.
        loss: probability that a piece comes `RETRANSMIT_SECONDS` later, which is what loss looks
            like above TCP.
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    loss: float = 0.0


PLAIN = Shape()


class Proxy:
    """Passes connections on to a server.

    Attributes:
        port: where it listens, on 127.0.0.1; 0 behind a Unix socket.

    Args:
        target: of the server.
        at: Unix socket to listen at; None: a free port.
    """

    PIECE_BYTES = 1 << 16
    PIECES_ON_THEIR_WAY = 1024
    RETRANSMIT_SECONDS = 0.2
    CONNECT_SECONDS = 5.0

    def __init__(
        self, target: Address, shape: Shape = PLAIN, *, at: Path | None = None, seed: int = 0
    ) -> None:
        self.target, self.shape = target, shape
        self._random = random.Random(seed)
        self._cut = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._free = [0.0, 0.0]
        self._listener = _listen(at)
        self.port = 0 if at else self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and let none come about."""
        self._cut.set()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = None if self._cut.is_set() else self._reach()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                far = None
            if far is None:
                near.close()
                continue
            self._open |= {near, far}
            for direction, pair in enumerate(((near, far), (far, near))):
                threading.Thread(target=self._pass, args=(*pair, direction), daemon=True).start()

    def _reach(self) -> socket.socket:
        far = _connect(self.target, self.CONNECT_SECONDS)
        far.settimeout(None)  # the limit is for the connecting: an answer may take longer
        return far

    def _pass(self, source: socket.socket, sink: socket.socket, direction: int) -> None:
        """Many pieces are on their way at once: a delay does not limit the rate."""
        on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue(self.PIECES_ON_THEIR_WAY)
        arriving = threading.Thread(target=self._arrive, args=(on_the_way, sink), daemon=True)
        arriving.start()
        for piece in self._sent(source, direction):
            on_the_way.put((time.monotonic() + self._delay(), piece))
        on_the_way.put((time.monotonic(), b""))
        arriving.join()
        for end in (source, sink):
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        sink.close()

    def _sent(self, source: socket.socket, direction: int) -> Iterator[bytes]:
        """Pieces, each as the link has taken it up: those of all connections one after another."""
        with contextlib.suppress(OSError):
            while piece := source.recv(self.PIECE_BYTES):
                if self.shape.rate:
                    with self._lock:
                        begun = max(time.monotonic(), self._free[direction])
                        self._free[direction] = begun + len(piece) / self.shape.rate
                        wait = self._free[direction] - time.monotonic()
                    time.sleep(max(0.0, wait))
                yield piece

    def _delay(self) -> float:
        lost = self.RETRANSMIT_SECONDS if self._random.random() < self.shape.loss else 0.0
        return self.shape.delay + self._random.uniform(0.0, self.shape.jitter) + lost

    def _arrive(self, on_the_way: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        """What comes to nobody is thrown away, so that the other end is not held up."""
        gone = False
        while True:
            due, piece = on_the_way.get()
            if not piece:
                return
            if not gone:
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    sink.sendall(piece)
                except OSError:
                    gone = True


def _listen(at: Path | None) -> socket.socket:
    if at is None:
        return socket.create_server(("127.0.0.1", 0))
    at.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(at))
    listener.listen(64)
    return listener


def _connect(target: Address, seconds: float) -> socket.socket:
    if isinstance(target, tuple):
        return socket.create_connection(target, seconds)
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    far.settimeout(seconds)
    try:
        far.connect(str(target))
    except OSError:
        far.close()
        raise
    return far
