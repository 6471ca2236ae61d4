"""The proxy itself: a link that is slow is not a link that breaks."""

from __future__ import annotations

import socket
import threading
import time

from proxy import Proxy


def serve_once(size: int, answer_after: float) -> int:
    """A server that takes so many bytes, waits, and answers how many came; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
        with connection:
            count = 0
            while count < size and (piece := connection.recv(1 << 16)):
                count += len(piece)
            time.sleep(answer_after)
            connection.sendall(str(count).encode())

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def send(proxy: Proxy, size: int) -> tuple[bytes, float]:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(bytes(size))
        return connection.recv(16), time.monotonic() - begun


def test_an_answer_may_take_longer_than_connecting(monkeypatch):
    monkeypatch.setattr(Proxy, "CONNECT_SECONDS", 0.2)
    proxy = Proxy("127.0.0.1", serve_once(1000, answer_after=0.6))
    assert send(proxy, 1000)[0] == b"1000"
    proxy.close()


def test_bytes_take_their_time():
    proxy = Proxy("127.0.0.1", serve_once(300_000, answer_after=0.0), rate=1e6)
    answer, seconds = send(proxy, 300_000)
    assert answer == b"300000"
    assert seconds >= 0.3
    proxy.close()
