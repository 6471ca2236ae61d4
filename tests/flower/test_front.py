"""What faces the network: which calls pass, of whom, and how much of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import datetime
import io
import itertools
import socket
import sqlite3
import threading
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("flwr")

import httpx
import uvicorn
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_disk, build_fab_from_files
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict
from flwr.proto.runtime_pb2 import AcquireTaskRequest, GetNodesRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from photon.errors import PayloadError
from photon.experiment.doctor import examine
from photon.flower.front import Door, Front, Limits, bounded_protocol
from photon.flower.link import FlowerLink
from photon.flower.superlink import APP, ServerKeys
from photon.flower.superlink_process import by_address, by_key, fleet_calls, is_reply
from photon.flower.supernode_process import require_own_app
from photon.machine.address import free_port, listeners
from photon.machine.interrupt import StopRequest
from photon.wire.enrolment import REGISTER, Register, read_register
from photon.wire.keys import enrol, make_authority
from photon.wire.knock import KNOWN, find_key_trouble

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


def public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


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


def test_a_node_runs_the_relay_of_its_own_installation_only():
    own = build_fab_from_disk(APP)
    require_own_app(own, own)
    files = {path.name: path.read_bytes() for path in APP.iterdir() if path.is_file()}
    for name, change in [("relay.py", b"\nimport os\n"), ("more.py", b"")]:
        bundle, _ = build_fab_from_files(files | {name: files.get(name, b"") + change})
        with pytest.raises(PayloadError, match="not this installation's relay"):
            require_own_app(bundle, own)
    for damaged in (b"", own[:-10], b"PK"):
        with pytest.raises(PayloadError):
            require_own_app(damaged, own)


def test_a_damaged_app_is_its_own_or_refused_wherever_it_is_damaged():
    """Bytes that say nothing of a file, such as its time, may be others."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("relay.py", "a line of the relay\n" * 50)
        own = file.getvalue()
    refused = 0
    for at, change in itertools.product(range(len(own)), (0x01, 0x80, 0xFF)):
        damaged = bytearray(own)
        damaged[at] ^= change
        try:
            require_own_app(bytes(damaged), own)
        except PayloadError:
            refused += 1
    assert refused > len(own) // 2


@pytest.fixture(scope="module", params=["keys", "insecure"])
def link(request, tmp_path_factory):
    """A real SuperLink, with the folder of its keys where it has any."""
    home = tmp_path_factory.mktemp("link")
    keys, own, register = None, None, Register(None)
    if request.param == "keys":
        keys = home / "keys"
        make_authority(keys, ["127.0.0.1"])
        enrol(keys, "a", [0])
        enrol(keys, "b", [1])
        own = ServerKeys.of(keys)
        register = read_register(keys / REGISTER)
    heard: list[str] = []
    made = FlowerLink(home / "flower", "127.0.0.1", free_port(), own, register,
                      heard.append, StopRequest())  # fmt: skip
    made.heard = heard
    yield made, keys
    made.close()


@contextlib.contextmanager
def client_of(kind, link, keys: Path | None, key=None, port=None):
    """One of Flower's own clients, as somebody has it who knows no more than the address."""
    is_open = keys is None or port is not None
    with kind.from_server_address(
        f"127.0.0.1:{port or link.port}",
        is_open,
        None if is_open else (keys / "ca.pem").read_bytes(),
        [] if key is None else [NodeAuthHttpInterceptor(key, key.public_key())],
    ) as client:
        yield client


def status_of(call, request) -> int:
    try:
        call(request)
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


def test_a_stranger_can_do_nothing_but_join_an_open_federation(link):
    link, keys = link
    stranger = ec.generate_private_key(ec.SECP384R1())
    for key in (None, stranger):
        with client_of(ControlHttpClient, link, keys, key) as control:
            assert status_of(control.StartRun, StartRunRequest()) == 404
            assert status_of(control.ListRuns, ListRunsRequest()) == 404
            request = RegisterNodeRequest(public_key=public(stranger))
            assert status_of(control.RegisterNode, request) == 404
        with client_of(RuntimeHttpClient, link, keys, key) as runtime:
            assert status_of(runtime.AcquireTask, AcquireTaskRequest()) == 404
            assert status_of(runtime.GetNodes, GetNodesRequest()) == 404
    with client_of(FleetHttpClient, link, keys, stranger) as fleet:
        register = RegisterNodeFleetRequest(public_key=public(stranger))
        activate = ActivateNodeRequest(public_key=public(stranger), heartbeat_interval=30)
        assert status_of(fleet.RegisterNode, register) == (200 if keys is None else 404)
        assert status_of(fleet.ActivateNode, activate) == (200 if keys is None else 401)


def test_an_enrolled_node_is_served_and_cannot_enrol_or_leave(link):
    link, keys = link
    if keys is None:
        pytest.skip("nobody is enrolled")
    key = serialization.load_ssh_private_key((keys / "a.key").read_bytes(), password=None)
    with client_of(FleetHttpClient, link, keys, key) as fleet:
        activate = ActivateNodeRequest(public_key=public(key), heartbeat_interval=30)
        node = Node(node_id=fleet.ActivateNode(activate).node_id)
        assert len(fleet.PullMessages(PullMessagesRequest(node=node)).messages_list) == 0
        leave = UnregisterNodeFleetRequest(node_id=node.node_id)
        assert status_of(fleet.UnregisterNode, leave) == 404


def test_the_port_of_this_machine_wants_the_secret_and_serves_no_commands(link):
    link, keys = link
    command = next(
        line
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(link.folder) in (line := read(path)) and "superexec_process" in line
    )
    port = int(command.partition("superexec_process")[2].split()[0])
    with client_of(RuntimeHttpClient, link, keys, port=port) as runtime:
        assert status_of(runtime.AcquireTask, AcquireTaskRequest()) == 401
    with client_of(ControlHttpClient, link, keys, port=port) as control:
        assert status_of(control.ListRuns, ListRunsRequest()) == 404
    private = [link.folder, link.folder / "superexec.secret", link.folder / "superlink.json"]
    assert [oct(path.stat().st_mode & 0o077) for path in private] == ["0o0"] * 3


def read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def test_the_doctor_finds_the_way_open_and_the_rest_closed(link, smoke):
    link, keys = link
    authority = None if keys is None else keys / "ca.pem"
    found = {one.what: one for one in examine(smoke(), None, ("127.0.0.1", link.port), authority)}
    assert found["access"].verdict == "ok"
    assert found["bandwidth"].verdict == "ok"


def test_a_key_is_known_or_both_sides_say_that_it_is_not(link, smoke, tmp_path):
    """At once, by one call, before Flower is tried."""
    link, keys = link
    if keys is None:
        pytest.skip("nobody is enrolled")
    make_authority(tmp_path, ["127.0.0.1"])
    way = ("127.0.0.1", link.port, keys / "ca.pem")
    assert find_key_trouble(*way, keys / "a.key") is None
    stranger = enrol(tmp_path, "a", [0])
    for _ in range(2):
        assert "does not know" in str(find_key_trouble(*way, stranger))
    link.addresses()
    (told,) = [line for line in link.heard if "not enrolled" in line]
    assert told.startswith("a node at 127.0.0.1 is turned away")
    for key, verdict in ((keys / "a.key", "ok"), (stranger, "fail"), (tmp_path / "b.key", "fail")):
        found = {one.what: one for one in examine(smoke(), None, way[:2], way[2], key)}
        assert found["key"].verdict == verdict


@pytest.mark.parametrize(
    ("offered", "verdict", "rest"),
    [(None, "ok", ""), ([1], "ok", ""), ([0, 1], "warn", ", not for 0: change --clients"),
     ([0, 2], "fail", ", not for 0,2: change --clients")],
)  # fmt: skip
def test_the_doctor_knows_which_clients_a_key_is_bound_to(link, smoke, offered, verdict, rest):
    """A node that offers others only is turned away, see `Register.allowed`."""
    link, keys = link
    if keys is None:
        pytest.skip("nobody is enrolled")
    server = ("127.0.0.1", link.port)
    examined = examine(smoke(), offered, server, keys / "ca.pem", keys / "b.key")
    (found,) = [one for one in examined if one.what == "key"]
    assert found.verdict == verdict
    assert f"b.key is enrolled for clients 1{rest}" in found.text


def instruction(link: FlowerLink, to: int) -> PushMessagesRequest:
    """What the server's own relay would push: a message that answers nothing."""
    with contextlib.closing(sqlite3.connect(link.folder / "superlink.db")) as found:
        run = found.execute("select run_id from run").fetchone()[0] % 2**64
    request = PushMessagesRequest(message_object_trees=[ObjectTree(object_id="ab" * 32)])
    message = request.messages_list.add(content=RecordDict())
    message.metadata.MergeFrom(
        Metadata(run_id=run, message_id="ab" * 32, src_node_id=SUPERLINK_NODE_ID, dst_node_id=to,
                 message_type="query", ttl=60.0, created_at=time.time())
    )  # fmt: skip
    return request


def test_a_node_answers_and_instructs_nobody(link):
    """Flower would hand it to any node; and what nobody waits for stays on the server's disk."""
    link, keys = link
    key = ec.generate_private_key(ec.SECP384R1())
    if keys is not None:
        key = serialization.load_ssh_private_key((keys / "b.key").read_bytes(), password=None)
    with client_of(FleetHttpClient, link, keys, key) as fleet:
        if keys is None:
            fleet.RegisterNode(RegisterNodeFleetRequest(public_key=public(key)))
        activate = ActivateNodeRequest(public_key=public(key), heartbeat_interval=30)
        node = Node(node_id=fleet.ActivateNode(activate).node_id)
        request = instruction(link, node.node_id)
        request.node.CopyFrom(node)
        assert status_of(fleet.PushMessages, request) == 403
        assert len(fleet.PullMessages(PullMessagesRequest(node=node)).messages_list) == 0


def test_what_is_no_reply_is_known_by_its_bytes():
    assert not is_reply(b"")
    assert not is_reply(b"\xff")
    reply = PushMessagesRequest()
    reply.messages_list.add().metadata.reply_to_message_id = "a"
    assert is_reply(reply.SerializeToString())
    reply.messages_list.add()
    assert not is_reply(reply.SerializeToString())
