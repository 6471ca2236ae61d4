"""A TCP proxy that makes a link slow, distant, lossy or dead: seeded, so that runs repeat."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class Proxy:
    """Passes connections on to a server.

    Attributes:
        port: where it listens, on 127.0.0.1.

    Args:
        delay: seconds added to each direction.
        rate: bytes per second of each direction, shared by its connections; None: as fast as it
            goes.
        loss: probability that a piece is held back for `RETRANSMIT_SECONDS`, which is what loss
            looks like above TCP.
    """

    PIECE_BYTES = 1 << 16
    RETRANSMIT_SECONDS = 0.2
    CONNECT_SECONDS = 5.0

    def __init__(
        self,
        host: str,
        port: int,
        *,
        delay: float = 0.0,
        rate: float | None = None,
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.target = (host, port)
        self.delay, self.rate, self.loss = delay, rate, loss
        self._random = random.Random(seed)
        self._cut = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._free = [0.0, 0.0]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
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
        far = socket.create_connection(self.target, self.CONNECT_SECONDS)
        far.settimeout(None)  # the limit is for the connecting: an answer may take longer
        return far

    def _pass(self, source: socket.socket, sink: socket.socket, direction: int) -> None:
        try:
            while piece := source.recv(self.PIECE_BYTES):
                time.sleep(self.delay + self._held_back(len(piece), direction))
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        sink.close()

    def _held_back(self, count: int, direction: int) -> float:
        lost = self.RETRANSMIT_SECONDS if self._random.random() < self.loss else 0.0
        if not self.rate:
            return lost
        with self._lock:  # pieces of all connections pass one after the other
            now = time.monotonic()
            self._free[direction] = max(now, self._free[direction]) + count / self.rate
            return lost + self._free[direction] - now
