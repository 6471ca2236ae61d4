"""What a server says of a node's key, and what a node makes of whatever comes."""

from __future__ import annotations

import contextlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from photon.experiment.doctor import _key
from photon.flower.superlink_process import read_bound, read_keys
from photon.machine.address import free_port
from photon.wire.enrolment import REGISTER, read_register
from photon.wire.keys import enrol, make_authority
from photon.wire.knock import BOUND, MOST_CHARACTERS, find_key_trouble

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower and of uvicorn


def test_too_many_ranges_are_not_sent(tmp_path):
    make_authority(tmp_path, ["127.0.0.1"])
    for name in ("a", "b"):
        enrol(tmp_path, name, [0])
    keys = {
        name: one.public_key
        for name, one in (read_register(tmp_path / REGISTER).nodes or {}).items()
    }
    bound = read_bound(keys, {"a": "0-3,7", "b": "1," * MOST_CHARACTERS + "1"})
    assert bound == dict.fromkeys(read_keys({"a": keys["a"]}), "0-3,7")


@contextlib.contextmanager
def odd_server(folder: Path, status: int, said: str | None):
    """Port of a server, of these keys, that answers every call so."""

    class Odd(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(status)
            if said is not None:
                self.send_header(BOUND, said)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Odd) as served:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        served.socket = context.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served.server_port
        finally:
            served.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "said", "verdict", "text"),
    [
        (204, None, "ok", "is enrolled (which clients it is bound to is not said)"),
        (204, "", "ok", "is not said"),
        (204, "all of them\x1b[2J", "ok", "is not said"),
        (204, "0-", "ok", "is not said"),
        (204, "0," * 600 + "0", "ok", "is not said"),
        (204, "0-999999999", "ok", "is enrolled for clients 0-999999999"),
        (204, "5-1", "fail", "is enrolled for clients 5-1, not for 7"),
        (404, "7", "warn", "the server does not say whether"),
        (200, "7", "warn", "the server does not say whether"),
    ],
)  # fmt: skip
def test_what_a_server_says_of_a_key_is_not_trusted(tmp_path, status, said, verdict, text):
    """An older one says nothing of clients, a strange one anything."""
    make_authority(tmp_path, ["127.0.0.1"])
    key = enrol(tmp_path, "a", [7])
    with odd_server(tmp_path, status, said) as port:
        found = _key("127.0.0.1", port, tmp_path / "ca.pem", key, [7])
    assert found.verdict == verdict
    assert text in found.text


def test_a_server_that_is_not_there_says_nothing_of_a_key(tmp_path):
    make_authority(tmp_path, ["127.0.0.1"])
    way = ("127.0.0.1", free_port(), tmp_path / "ca.pem", enrol(tmp_path, "a", [0]))
    assert find_key_trouble(*way) is None
    assert _key(*way, None).verdict == "warn"
