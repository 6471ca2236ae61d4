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
        rate: bytes per second of each direction of each connection; None: as fast as it goes.
        loss: probability that a piece is held back for `RETRANSMIT_SECONDS`, which is what loss
            looks like above TCP.
    """

    PIECE_BYTES = 1 << 16
    RETRANSMIT_SECONDS = 0.2

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
                far = None if self._cut.is_set() else socket.create_connection(self.target, 5)
            except OSError:
                if self._listener.fileno() < 0:
                    return
                far = None
            if far is None:
                near.close()
                continue
            self._open |= {near, far}
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(self.PIECE_BYTES):
                time.sleep(self.delay + self._held_back(len(piece)))
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        sink.close()

    def _held_back(self, count: int) -> float:
        lost = self.RETRANSMIT_SECONDS if self._random.random() < self.loss else 0.0
        return lost + (count / self.rate if self.rate else 0.0)
