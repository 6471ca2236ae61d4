"""A real SuperLink: what strangers, enrolled nodes and this machine may do; the doctor sees it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr")

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
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
from public_keys import public

from photon.experiment.doctor import examine
from photon.flower.link import FlowerLink
from photon.flower.superlink import ServerKeys
from photon.machine.address import free_port
from photon.machine.interrupt import StopRequest
from photon.wire.enrolment import REGISTER, Register, read_register
from photon.wire.keys import enrol, make_authority
from photon.wire.knock import find_key_trouble

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower and of uvicorn


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
