"""What faces the network: which calls pass, of whom, and how much of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import datetime
import socket
import threading
import time

import pytest

pytest.importorskip("flwr")

import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PushMessagesRequest
from public_keys import public

from photon.flower.front import Door, Front, Limits, bounded_protocol
from photon.flower.superlink_process import by_address, by_key, fleet_calls, is_reply
from photon.machine.address import free_port, listeners
from photon.wire.knock import KNOWN

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower and of uvicorn

PATHS = fleet_calls(has_keys=True)

CALL = "/v1/fleet/pull-messages"

LIMITS = Limits(body=100, drained=50, at_once=2, idle=0.05, whole=5.0, headers=0.2, connections=8)


class Inside:
    """An application that keeps what reaches it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.now = self.most = 0

    async def __call__(self, scope, receive, send) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.bodies.append((await receive())["body"])
        await asyncio.sleep(0)
        self.now -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    front: Front, path=CALL, method="POST", query=b"", headers=(), body=(b"x",), raw=None
):
    """Status of a call whose body comes in these pieces; None: and then no more."""
    pieces = list(body)
    statuses = []

    async def receive():
        piece = pieces.pop(0)
        if piece is None:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(event):
        statuses.append(event.get("status"))

    scope = {
        "type": "http", "method": method, "path": path, "query_string": query,
        "raw_path": path.encode() if raw is None else raw, "headers": list(headers),
        "client": ("192.0.2.1", 7),
    }  # fmt: skip
    await front(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("path", sorted(PATHS))
def test_calls_of_nodes_pass_whole(path):
    inside = Inside()
    assert (
        asyncio.run(ask(Front(inside, PATHS, by_address, LIMITS), path, body=(b"a", b"b"))) == 200
    )
    assert inside.bodies == [b"ab"]


@pytest.mark.parametrize(
    "call",
    [
        {"path": "/v1/control/start-run"},
        {"path": "/v1/runtime/acquire-task"},
        {"path": "/v1/fleet/register-node"},
        {"path": "/v1/fleet/../control/start-run"},
        {"path": "/v1/fleet/pull-messages/../../control/start-run"},
        {"path": "/v1/fleet//pull-messages"},
        {"path": "/v1/fleet/pull-messages/"},
        {"path": "/v1/fleet/"},
        {"path": "/V1/fleet/pull-messages"},
        {"raw": b"/v1/fleet%2Fpull-messages"},
        {"raw": b"/v1/control/..%2ffleet/pull-messages"},
        {"query": b"a=b"},
        {"method": "GET"},
        {"method": "PUT"},
        {"path": "/docs", "method": "GET"},
        {"path": "/openapi.json", "method": "GET"},
        {"path": "/"},
    ],
    ids=str,
)
def test_nothing_else_passes(call):
    inside = Inside()
    assert asyncio.run(ask(Front(inside, PATHS, by_address, LIMITS), **call)) == 404
    assert inside.bodies == []


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ({"headers": [(b"content-length", b"101")]}, 413),
        ({"headers": [(b"content-length", b"-1")]}, 413),
        ({"body": (b"x" * 60, b"x" * 60, None)}, 413),
        ({"body": (b"x", None)}, 408),
        ({"body": (b"x" * 60, b"x" * 40)}, 200),
    ],
)
def test_a_body_is_bounded_in_size_and_time(call, status):
    inside = Inside()
    assert asyncio.run(ask(Front(inside, PATHS, by_address, LIMITS), **call)) == status
    assert len(inside.bodies) == (status == 200)


def test_whoever_is_known_is_told_so_and_nothing_goes_inside():
    inside, strangers = Inside(), []
    for who, status in ((b"a", 204), (None, 401)):
        front = Front(inside, PATHS, lambda *_, who=who: who, LIMITS, on_stranger=strangers.append)
        assert asyncio.run(ask(front, KNOWN)) == status
    assert asyncio.run(ask(front)) == 401
    assert inside.bodies == []
    assert strangers == ["192.0.2.1"], "a call that only a node makes is told of, no other"


def test_one_caller_has_so_many_turns_at_once_and_others_have_their_own():
    inside, many = Inside(), 9
    front = Front(inside, PATHS, lambda headers, address: headers[b"who"], LIMITS)

    async def storm(names):
        asked = [ask(front, headers=[(b"who", name)]) for name in names for _ in range(many)]
        return await asyncio.gather(*asked)

    assert set(asyncio.run(storm([b"a"]))) == {200}
    assert inside.most == LIMITS.at_once
    assert set(asyncio.run(storm([b"a", b"b"]))) == {200}
    assert inside.most == 2 * LIMITS.at_once
    assert len(front._turns) == 0


def signed(key: ec.EllipticCurvePrivateKey, age: float = 0.0, shown: bytes | None = None):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
    text = then.isoformat().encode()
    signature = key.sign(text, ec.ECDSA(hashes.SHA256()))
    return {
        b"flwr-public-key": base64.b64encode(shown or public(key)),
        b"flwr-timestamp": text,
        b"flwr-signature": base64.b64encode(signature),
    }


def test_a_caller_is_who_signs_now_with_an_enrolled_key():
    key, stranger = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    identify = by_key({public(key): key.public_key()})
    assert identify(signed(key), "") == public(key)
    bad = [
        {}, signed(stranger), signed(stranger, shown=public(key)), signed(key, age=3600),
        signed(key, age=-3600), signed(key) | {b"flwr-signature": b"!"},
        signed(key) | {b"flwr-timestamp": b"2026-01-01T00:00:00"},
        signed(key) | {b"flwr-timestamp": "é".encode()},
    ]  # fmt: skip
    assert [identify(headers, "") for headers in bad] == [None] * len(bad)
    inside = Inside()
    asked = ask(Front(inside, PATHS, identify, LIMITS), headers=signed(stranger).items())
    assert asyncio.run(asked) == 401
    assert inside.bodies == []


@contextlib.contextmanager
def served(limits: Limits):
    """Port of a front that is served as the SuperLink's is."""
    app = Front(Inside(), PATHS, by_address, limits)
    config = uvicorn.Config(
        app,
        port=free_port(),
        http=bounded_protocol(limits),
        log_config=None,
        ws="none",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    doors = [Door(one, limits) for one in listeners("127.0.0.1", config.port)]
    thread = threading.Thread(target=server.run, args=(doors,))
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield config.port
    finally:
        server.should_exit = True
        thread.join()


def test_connections_that_bring_nothing_are_closed():
    """Before the first request, in the middle of its head, and after an answer."""
    head = f"POST {CALL} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    with served(LIMITS) as port:
        for sent, answered in (("", False), (head, False), (head + "\r\nx" + head, True)):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(sent.encode())
                assert (b"200 OK" in connection.recv(1000)) == answered
                with contextlib.suppress(ConnectionError):
                    assert connection.recv(1000) == b""


def test_connections_of_one_address_are_counted():
    with served(LIMITS) as port, contextlib.ExitStack() as stack:
        few = LIMITS.connections // 4
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(few + 1)
        ]
        with contextlib.suppress(ConnectionError):
            assert held[-1].recv(1) == b""


def test_connections_are_counted_before_they_say_anything_and_no_longer_than_they_live():
    few = LIMITS.connections // 4
    (listener,) = listeners("127.0.0.1", 0)
    with Door(listener, LIMITS) as door:
        address = door.getsockname()
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                for _ in range(few):
                    stack.enter_context(socket.create_connection(address))
                    stack.enter_context(door.accept()[0])
                stack.enter_context(socket.create_connection(address))
                with pytest.raises(ConnectionAbortedError):
                    door.accept()


def test_a_refused_body_is_not_waited_for_for_long():
    limits = dataclasses.replace(LIMITS, idle=60.0, headers=0.01)
    front = Front(Inside(), PATHS, lambda *_: None, limits)
    assert asyncio.run(ask(front, body=(b"x", None))) == 401


def test_what_is_no_reply_is_known_by_its_bytes():
    assert not is_reply(b"")
    assert not is_reply(b"\xff")
    reply = PushMessagesRequest()
    reply.messages_list.add().metadata.reply_to_message_id = "a"
    assert is_reply(reply.SerializeToString())
    reply.messages_list.add()
    assert not is_reply(reply.SerializeToString())
