"""A proxy that counts what passes and leaves it in the kernel, so that it costs next to nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

PIECE_BYTES = 1 << 20


class CountingProxy:
    """Passes TCP connections on to a port of this machine.

    Attributes:
        port: where it listens.
        up, down: bytes to the server, and from it.
    """

    def __init__(self, target: int) -> None:
        self.up = self.down = 0
        self._target, self._lock = target, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else it goes on waiting for the next
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        server = ("127.0.0.1", self._target)
        with near, contextlib.suppress(OSError), socket.create_connection(server, 5.0) as far:
            far.settimeout(None)
            down = threading.Thread(target=self._pass, args=("down", far, near), daemon=True)
            down.start()
            self._pass("up", near, far)
            down.join()

    def _pass(self, name: str, source: socket.socket, sink: socket.socket) -> None:
        out, into = os.pipe()
        with contextlib.suppress(OSError):
            while count := os.splice(source.fileno(), into, PIECE_BYTES):
                with self._lock:
                    setattr(self, name, getattr(self, name) + count)
                while count:
                    count -= os.splice(out, sink.fileno(), count)
        os.close(out)
        os.close(into)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
