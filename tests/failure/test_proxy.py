"""The proxy itself: a link that is slow is not a link that breaks."""

from __future__ import annotations

import socket
import threading
import time

from proxy import Proxy, Shape


def serve_once(size: int, answer_after: float) -> tuple[str, int]:
    """A server that takes so many bytes, waits, and answers how many came; gives its address."""
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
    return listener.getsockname()


def send(proxy: Proxy, size: int) -> tuple[bytes, float]:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(bytes(size))
        return connection.recv(16), time.monotonic() - begun


def test_an_answer_may_take_longer_than_connecting(monkeypatch):
    monkeypatch.setattr(Proxy, "CONNECT_SECONDS", 0.2)
    proxy = Proxy(serve_once(1000, answer_after=0.6))
    assert send(proxy, 1000)[0] == b"1000"
    proxy.close()


def test_bytes_take_their_time():
    proxy = Proxy(serve_once(300_000, answer_after=0.0), Shape(rate=1e6))
    answer, seconds = send(proxy, 300_000)
    assert answer == b"300000"
    assert seconds >= 0.3
    proxy.close()


def test_pieces_are_on_their_way_together():
    """One after the other, 32 pieces would take 32 delays."""
    size = 32 * Proxy.PIECE_BYTES
    proxy = Proxy(serve_once(size, answer_after=0.0), Shape(delay=0.2, jitter=0.01))
    answer, seconds = send(proxy, size)
    assert answer == str(size).encode()
    assert 0.4 <= seconds < 32 * 0.2
    proxy.close()


def test_a_unix_socket_before_another(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "far"))
        listener.listen()
        proxy = Proxy(tmp_path / "far", at=tmp_path / "near")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "near"))
            client.sendall(b"hello")
            server, _ = listener.accept()
            with server:
                assert server.recv(5) == b"hello"
            assert client.recv(1) == b"", "its end is passed on"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "near"))
        assert client.recv(1) == b"", "nobody is there"
    proxy.close()
