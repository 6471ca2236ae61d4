"""What `photon server` and `photon node` run: the parts of a federation put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from photon.config.schema import Config
from photon.errors import ConfigError
from photon.runtime.connection import Connection, NodeKeys
from photon.runtime.device import return_freed_memory
from photon.runtime.engines.depot import Depot
from photon.runtime.engines.engine import Engine
from photon.runtime.engines.flower import FlowerLink
from photon.runtime.engines.link import Link, SocketLink
from photon.runtime.engines.remote import RemoteEngine
from photon.runtime.engines.roster import Roster
from photon.runtime.enrolment import REGISTER, Register, read_register, signer
from photon.runtime.going_on import FLOWER, SOCKETS
from photon.runtime.hosted_run import data_facts
from photon.runtime.interrupt import StopRequest
from photon.runtime.job import EngineFactory, Job
from photon.runtime.node_service import NodeService
from photon.runtime.owned_folder import sockets_folder
from photon.runtime.preparation import require_data
from photon.runtime.run_folder import RunFolder
from photon.runtime.superlink import Tls
from photon.runtime.transport import open_transport
from photon.say import Say


def over_flower(
    host: str,
    port: int,
    keys: Path | None,
    hint: Callable[[], str] = str,
    options: tuple[str, ...] = (),
) -> EngineFactory:
    """An engine whose nodes come over Flower.

    Args:
        options: of the command that goes on.
        hint: see `RemoteEngine`.
        keys: folder of `photon keys`; None: no TLS, no keys, whoever comes may take part.
    """
    register = Register(None) if keys is None else read_register(keys / REGISTER)
    tls = None if keys is None else Tls(keys / "ca.pem", keys / "server.pem", keys / "server.key")
    if tls is not None:
        tls.require()

    def make(folder: RunFolder, config: Config, job: Job) -> Engine:
        link = FlowerLink(folder.path / "flower", host, port, tls, register, job.say, job.stop)
        return remote_engine(folder, config, job, link, register, hint)

    return EngineFactory(FLOWER, make, options)


def over_sockets(sockets: Path) -> EngineFactory:
    """An engine whose nodes are services of this machine, each behind a Unix socket."""

    def make(folder: RunFolder, config: Config, job: Job) -> Engine:
        return remote_engine(folder, config, job, SocketLink(sockets), Register(None))

    return EngineFactory(SOCKETS, make)


def remote_engine(
    folder: RunFolder,
    config: Config,
    job: Job,
    link: Link,
    register: Register,
    hint: Callable[[], str] = str,
) -> RemoteEngine:
    """The engine of a server, over any link; the process trains nothing itself."""
    return_freed_memory()
    data = data_facts(config)
    depot = Depot(folder.path / "depot", open_transport(config.photon, str(config.run_uuid)))
    return RemoteEngine(config, data, link, Roster(link, register, job.say), depot, job.say, hint)


def run_node(
    server: str,
    name: str,
    clients: Sequence[int],
    keys: NodeKeys | None,
    own: Config,
    say: Say,
) -> int:
    """Host clients until SIGINT or SIGTERM.

    Args:
        server: HOST:PORT.
        own: configuration whose keys of this machine count.

    Returns:
        The exit code.

    Raises:
        ConfigError: the server does not want this node, and says why.
        DataError: what it would train on is not prepared.
        RoundFailed: the SuperNode ends again and again.
    """
    require_data(own, clients)
    sign = signer(keys.key) if keys else None
    with StopRequest() as stop, sockets_folder() as home:
        path = home / "node"
        service = NodeService(name, list(clients), own, path, sign, say)
        connection = Connection(server, path, keys, service, say)
        try:
            service.serve(lambda: connection.tend() or stop())
        finally:
            connection.close()
    if service.turned_away is not None:
        raise ConfigError(f"turned away by {server}: {service.turned_away}")
    say("stopped; what was trained is kept")
    return 128 + stop.signum
