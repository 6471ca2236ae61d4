"""What is said while something is awaited: when, and what a silent server looks like."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from photon.config import load_config
from photon.flower.connection import Connection, NodeKeys
from photon.flower.superlink import RECEIVED, SENT, SuperNode
from photon.machine import probe
from photon.machine.guard import Guarded
from photon.machine.probe import find_trouble
from photon.machine.waiting import Waiting, next_word
from photon.node.service import NodeService
from photon.wire.keys import make_authority
from photon.wire.messages import Trained

pytest.importorskip("cryptography")


def test_every_ten_seconds_at_first_then_rarer_but_never_never():
    said = [0.0]
    while said[-1] < 86_400:
        said.append(next_word(said[-1]))
    assert said[1:4] == [10, 20, 30]
    steps = [round(b - a, 6) for a, b in itertools.pairwise(said)]
    assert steps == sorted(steps)
    assert steps[-1] == 600
    assert len([moment for moment in said if moment <= 600]) < 20


def test_a_wait_says_what_is_awaited_and_for_how_long():
    now, heard = 0.0, []
    waiting = Waiting(heard.append, lambda: now)
    for now in [0, 5, 9, 10, 12, 15, 20, 3600]:
        waiting.tell("for A" if now != 12 else "for B")
    waiting.is_over()
    now = 5000.0
    waiting.tell("for A")
    assert heard == [
        "waiting     for A",
        "waiting     for A; 10 s so far",
        "waiting     for B; 12 s so far",
        "waiting     for A; 15 s so far",
        "waiting     for A; 60 min so far",
        "waiting     for A",
    ]


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """Keys for localhost and 127.0.0.1, others of the same names, and some for another name."""
    home = tmp_path_factory.mktemp("keys")
    make_authority(home / "own", ["localhost", "127.0.0.1"])
    make_authority(home / "others", ["localhost", "127.0.0.1"])
    make_authority(home / "elsewhere", ["server.example.org"])
    return home


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[int]:
    """A port of loopback where each connection gets an answer, after TLS if there is a context."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                stack.enter_context(connection)
                if context is not None:
                    connection = stack.enter_context(context.wrap_socket(connection, True))
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 404 \r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def of(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context


@pytest.mark.parametrize(
    ("served", "trusted", "trouble"),
    [
        ("own", "own", None),
        (None, None, None),
        ("own", "others", "certificate is not trusted"),
        ("elsewhere", "elsewhere", "certificate is for server.example.org, not for 127.0.0.1"),
        (None, "own", "does not speak TLS"),
        ("own", None, "does not speak plain HTTP"),
    ],
)
def test_a_server_that_listens(keys, served, trusted, trouble):
    with serving(of(keys / served) if served else None) as port:
        found = find_trouble("127.0.0.1", port, keys / trusted / "ca.pem" if trusted else None)
    assert (found is None) == (trouble is None), found
    assert trouble is None or trouble in str(found)


def test_a_server_that_does_not_listen(keys, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "refused" in str(find_trouble("127.0.0.1", port, keys / "own" / "ca.pem"))
    assert "name not resolved" in str(find_trouble("no.such.host.invalid", port, None))
    (tmp_path / "ca.pem").write_text("nonsense")
    assert "not a certificate" in str(find_trouble("127.0.0.1", port, tmp_path / "ca.pem"))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr(probe, "PROBE_SECONDS", 0.01)
        trouble = find_trouble("127.0.0.1", mute.getsockname()[1], keys / "own" / "ca.pem")
        assert "timed out" in str(trouble)


def test_behind_a_proxy_nothing_is_dialled(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert find_trouble("server.invalid", 8000, None) is None
    assert find_trouble("127.0.0.1", 1, None) is not None


class _Service:
    """A node's service of which only this is asked."""

    def __init__(self, home: Path) -> None:
        self.home, self.heard = home, 0
        self.came_to: tuple[str, int, int] | None = None


class _SuperNode:
    """Stands for Flower's process: at work until told otherwise."""

    made: list[_SuperNode]

    def __init__(self, *_: object) -> None:
        self.works, self.lost = True, False
        self.made.append(self)

    def is_at_work(self) -> bool:
        return self.works

    def has_lost_server(self) -> bool:
        return self.lost

    def trouble(self) -> str:
        return "it does not know this node's key"

    def close(self) -> None:
        """Nothing runs."""


def test_a_node_says_what_it_waits_for(keys, tmp_path, monkeypatch):
    monkeypatch.setattr("photon.flower.connection.SuperNode", _SuperNode)
    monkeypatch.setattr("photon.flower.connection.find_key_trouble", lambda *_: None)
    monkeypatch.setattr("photon.flower.connection.LOOK_SECONDS", 0.0)
    _SuperNode.made, heard = [], []
    service, own = _Service(tmp_path), NodeKeys(keys / "own" / "ca.pem", keys / "own" / "x.key")
    with serving(of(keys / "own")) as port:
        connection = Connection(f"127.0.0.1:{port}", tmp_path, own, service, heard.append)  # pyright: ignore
        connection.tend()
        connection.tend()
        assert "to greet this node" in heard.pop()
        service.heard = 1
        connection.tend()
        assert heard.pop().startswith("greeted")
    _SuperNode.made[0].lost = True
    connection.tend()
    assert "refused" in heard.pop()
    assert heard == []
    assert len(_SuperNode.made) == 1


@pytest.mark.parametrize(
    ("came_to", "said"),
    [
        (("r", 3, 3), "for the next run on {}: r came to round 3 of 3 here, and its server has"),
        (("r", 2, 3), "nobody listens on port {} there (yet?); r came to round 2 of 3 here"),
    ],
)
def test_the_end_of_a_run_is_said(tmp_path, came_to, said):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{(port := taken.getsockname()[1])}"
    heard, service = [], _Service(tmp_path)
    service.came_to = came_to
    Connection(where, tmp_path, None, service, heard.append).tend()  # pyright: ignore
    (line,) = heard
    assert said.format(where if came_to[1] == 3 else port) in line


@pytest.mark.parametrize(("is_async", "place"), [(False, ("r", 3, 5)), (True, None)])
def test_a_node_knows_how_far_its_run_has_come(tmp_path, monkeypatch, is_async, place):
    service = NodeService("a", [0], load_config(), tmp_path / "s", None, lambda line: None)
    fl = SimpleNamespace(rounds=5, is_async=is_async)
    hosted = SimpleNamespace(train=lambda *_: Trained(), run=SimpleNamespace(federation=fl))
    monkeypatch.setattr(service, "_hosted", lambda _: hosted)
    one = SimpleNamespace(client=0, round=3)
    asked: Any = SimpleNamespace(run="r", round=3, instructions=[one])
    service._train(asked)
    assert service.came_to == place


def test_a_key_that_is_not_known_is_said_and_starts_nothing(keys, tmp_path, monkeypatch):
    monkeypatch.setattr("photon.flower.connection.SuperNode", _SuperNode)
    monkeypatch.setattr("photon.flower.connection.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("photon.flower.connection.find_key_trouble", lambda *_: "enrol it")
    _SuperNode.made, heard = [], []
    own = NodeKeys(keys / "own" / "ca.pem", keys / "own" / "x.key")
    with serving(of(keys / "own")) as port:
        where = f"127.0.0.1:{port}"
        connection = Connection(where, tmp_path, own, _Service(tmp_path), heard.append)  # pyright: ignore
        for _ in range(3):
            connection.tend()
    assert heard == [f"waiting     for {where}: enrol it"]
    assert _SuperNode.made == []


def test_the_last_answers_go_out_before_a_node_ends(tmp_path, monkeypatch):
    """Two messages have come, and one answer is still on its way."""
    monkeypatch.setattr(Guarded, "__init__", lambda *_: None)
    monkeypatch.setattr(Guarded, "returncode", None)
    log, slept = tmp_path / "supernode.log", []
    log.write_text(f"of one before: {RECEIVED}\n")
    node = SuperNode(tmp_path, "127.0.0.1:1", tmp_path / "node", None)
    lines = [RECEIVED, "", RECEIVED, SENT, "", SENT, "never read"]

    def pass_time(seconds: float) -> None:
        slept.append(seconds)
        with open(log, "a") as file:
            file.write(f"{lines.pop(0)}\n")

    pass_time(0)
    monkeypatch.setattr("photon.flower.superlink.time.sleep", pass_time)
    node.settle()
    assert lines == ["never read"]
    node.settle()
    assert lines == ["never read"], "nothing is owed any more"


def test_a_node_that_is_not_known_says_so_once(keys, tmp_path, monkeypatch):
    monkeypatch.setattr("photon.flower.connection.SuperNode", _SuperNode)
    monkeypatch.setattr("photon.flower.connection.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("photon.flower.connection.LONGEST_PAUSE", 0.0)
    _SuperNode.made, heard = [], []
    with serving(None) as port:
        service = _Service(tmp_path)
        connection = Connection(f"127.0.0.1:{port}", tmp_path, None, service, heard.append)  # pyright: ignore
        for _ in range(5):
            connection.tend()
            _SuperNode.made[-1].works = False
    assert len(_SuperNode.made) == 5
    assert [line for line in heard if "know this node's key" in line] == heard[-1:]
