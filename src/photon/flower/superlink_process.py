"""Flower's SuperLink, in a process of its own: nodes reach its Fleet API, and nobody the rest.

    python -m photon.flower.superlink_process ORDER

Flower serves nodes (Fleet), apps (Runtime) and commands (Control) at one port, and only Fleet asks
who calls. Here the network sees Fleet alone, behind `Front`; a port of this machine serves Runtime;
Control is served nowhere, since what it is for, to enrol nodes and to start the relay, is done in
this process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import datetime
import hashlib
import resource
import socket
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import (
    ISOLATION_MODE_PROCESS,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.fab import Fab
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, verify_signature
from flwr.supercore.routers.runtime.router import router as runtime_router
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.superlink.servicer.control import control_handlers
from google.protobuf.message import DecodeError

from photon.flower.front import Door, Front, Identify, Limits, bounded_protocol
from photon.flower.superexec import start_superexec
from photon.flower.superlink import TOLD, Order
from photon.machine.address import listeners
from photon.wire.knock import MOST_CHARACTERS

PublicKeys = dict[bytes, ec.EllipticCurvePublicKey]
"""Of enrolled nodes, by the form in which a SuperNode sends its own."""
OF_THE_SERVER = frozenset({"/v1/fleet/register-node", "/v1/fleet/unregister-node"})
"""Calls by which nodes enrol themselves: served only where there are no keys."""
PUSH = "/v1/fleet/push-messages"
MOST_STRANGERS = 100


def read_keys(nodes: dict[str, str]) -> PublicKeys:
    """Public keys (OpenSSH) of enrolled nodes."""
    found: PublicKeys = {}
    for text in nodes.values():
        key = serialization.load_ssh_public_key(text.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        found[public_key_to_bytes(key)] = key
    return found


def read_bound(nodes: dict[str, str], clients: dict[str, str]) -> dict[Hashable, str]:
    """The clients that each key is bound to; not of one that has too many ranges to be sent."""
    return {
        key: clients[name]
        for name, text in nodes.items()
        if len(clients[name]) <= MOST_CHARACTERS
        for key in read_keys({name: text})
    }


def fleet_calls(has_keys: bool) -> frozenset[str]:
    """Paths that the network may call."""
    return _paths(fleet_router.routes) - (OF_THE_SERVER if has_keys else frozenset())


def _paths(routes: Iterable[Any]) -> frozenset[str]:
    return frozenset(route.path for route in routes)


def by_key(keys: PublicKeys) -> Identify:
    """Callers are nodes that have signed the time, a short while ago, with an enrolled key."""

    def identify(headers: dict[bytes, bytes], address: str) -> bytes | None:
        try:
            public, signature = (
                base64.b64decode(headers[name.encode()], validate=True)
                for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
            )
            signed = headers[TIMESTAMP_HEADER.encode()]
            then = datetime.datetime.fromisoformat(signed.decode("ascii"))
            age = (datetime.datetime.now(datetime.UTC) - then).total_seconds()
            is_now = -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
            is_known = is_now and verify_signature(keys[public], signed, signature)
        except (KeyError, ValueError, TypeError, binascii.Error):
            return None
        return public if is_known else None

    return identify


def by_address(headers: dict[bytes, bytes], address: str) -> str:
    """Callers are told apart by address; whoever comes may call."""
    return address


def is_reply(body: bytes) -> bool:
    """Whether a node answers with this: Flower takes instructions to any node from any other."""
    try:
        messages = PushMessagesRequest.FromString(body).messages_list
    except DecodeError:
        return False
    return bool(messages) and all(m.metadata.reply_to_message_id for m in messages)


class Strangers:
    """Tells the server of nodes whose key is not known: of each address once, and of few."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, address: str) -> None:
        if address in self._told or len(self._told) >= MOST_STRANGERS:
            return
        self._told.add(address)
        print(f"{TOLD}a node at {address} is turned away: its key is not enrolled "
              "(photon keys add), or its clock is wrong", flush=True)  # fmt: skip


class GuardedSuperLink:
    """Flower's application, behind two fronts."""

    def __init__(self, order: Order, private: socket.socket) -> None:
        self.order = order
        secret = start_superexec(Path(order.folder), private.getsockname()[1])
        self.app = create_app(_configuration(order, secret.read_bytes()), SuperLinkLifespan)
        self.keys = None if order.nodes is None else read_keys(order.nodes)

    def servers(self) -> tuple[uvicorn.Server, uvicorn.Server]:
        """This machine's server, which starts and ends the application too, and the network's."""
        limits = Limits()
        runtime = Front(self.app, _paths(runtime_router.routes), by_address, limits)
        known = by_address if self.keys is None else by_key(self.keys)
        calls = fleet_calls(self.keys is not None)
        bound = read_bound(self.order.nodes or {}, self.order.clients)
        fleet = Front(self.app, calls, known, limits, {PUSH: is_reply}, bound, Strangers())
        tls = {"ssl_certfile": self.order.certificate, "ssl_keyfile": self.order.key}
        return (
            _server(runtime, limits, lifespan="on"),
            _server(fleet, limits, lifespan="off", **tls),
        )

    def begin(self) -> None:
        """Enrol the nodes, and start the run of the relays."""
        state = self.app.state.linkstate_factory.state()
        _, account = NoOpControlAuthnPlugin().validate_tokens_in_metadata([])
        assert account is not None
        for public in self.keys or {}:
            if state.get_node_id_by_public_key(public) is None:
                request = RegisterNodeRequest(public_key=public)
                control_handlers.register_node(request, account, state)
        bundle = build_fab_from_disk(Path(self.order.app))
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        relay = user_config_to_proto({"socket": self.order.socket, "token": self.order.token})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=relay)
        control_handlers.start_run(request, account, state, None)


def _configuration(order: Order, secret: bytes) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="", health_server_address=None, host="127.0.0.1", port=0, insecure=True,
        certificates=None, superexec_auth_secret=secret, authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None, fleet_event_log_plugin=None, enable_event_log=False,
        artifact_provider=None, enable_supernode_auth=order.nodes is not None,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE, fleet_api_address=None, simulation=False,
        ssl_ca_certfile=None, ssl_certfile=None, ssl_keyfile=None,
        database=str(Path(order.folder) / "superlink.db"), isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )  # fmt: skip


def _server(app: Front, limits: Limits, **options: Any) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(
        app, http=bounded_protocol(limits), ws="none", access_log=False, proxy_headers=False,
        server_header=False, log_level="error",
        log_config=get_uvicorn_log_config(console_handler.level), **options,
    ))  # fmt: skip


class Loop(asyncio.SelectorEventLoop):
    """Uvicorn does not say how long a TLS handshake may take, and a minute is long."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = Limits().headers
        return await super().create_server(*args, **options)


async def serve(
    servers: tuple[uvicorn.Server, ...],
    sockets: tuple[Sequence[socket.socket], ...],
    begin: Callable[[], None],
) -> None:
    """Serve until one of the servers ends; then all of them do."""
    tasks: list[asyncio.Task[None]] = []
    try:
        for server, listening in zip(servers, sockets, strict=True):
            tasks.append(asyncio.create_task(server.serve(sockets=list(listening))))
            while not server.started and not tasks[-1].done():
                await asyncio.sleep(0.01)
        await asyncio.to_thread(begin)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


def main(order: Order) -> None:
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = Limits()
    private, public = (
        [Door(listener, limits) for listener in listeners(host, port)]
        for host, port in (("127.0.0.1", 0), (order.host, order.port))
    )
    superlink = GuardedSuperLink(order, private[0])
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(serve(superlink.servers(), (private, public), superlink.begin))


if __name__ == "__main__":
    main(Order.read(Path(sys.argv[1])))
