"""What `photon server` and `photon node` run: the parts of a federation put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from photon.chain.receipts import Trust
from photon.config.explain.idle import Course
from photon.config.resolve import Run
from photon.config.schema import Config
from photon.errors import ConfigError
from photon.experiment.job import EngineFactory, Job
from photon.experiment.remote import remote_engine
from photon.flower.connection import Connection
from photon.flower.link import FlowerLink
from photon.flower.superlink import NodeKeys, ServerKeys
from photon.machine.interrupt import StopRequest
from photon.machine.owned_folder import sockets_folder
from photon.node.service import NodeService
from photon.run.going_on import FLOWER
from photon.run.preparation import require_data
from photon.run.run_folder import RunFolder
from photon.say import Say
from photon.server.engine import Engine
from photon.wire.enrolment import REGISTER, Register, read_register, signer
from photon.wire.signatures import own_key, server_seal


def over_flower(
    host: str,
    port: int,
    keys: Path | None,
    hint: Callable[[], str],
    options: tuple[str, ...],
    course: Course,
) -> EngineFactory:
    """An engine whose nodes come over Flower.

    Args:
        options: of the command that goes on.
        hint: see `RemoteEngine`.
        course: whether a node is beside it.
        keys: folder of `photon keys`; None: no TLS, no keys, whoever comes may take part.
    """
    register = Register(None) if keys is None else read_register(keys / REGISTER)
    own = None if keys is None else ServerKeys.of(keys)

    def make(folder: RunFolder, run: Run, job: Job) -> Engine:
        link = FlowerLink(folder.path / "flower", host, port, own, register, job.say, job.stop)
        return remote_engine(folder, run, job, link, register, hint)

    seal = None if own is None else server_seal(own.certificate, own.key)
    return EngineFactory(FLOWER, make, options, seal, course)


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
    require_data(own.data.train, clients)
    sign = signer(keys.key) if keys else None
    trust = Trust(own_key(keys.key), keys.authority.read_bytes()) if keys else None
    with StopRequest() as stop, sockets_folder() as home:
        path = home / "node"
        service = NodeService(name, list(clients), own, path, sign, say, trust)
        connection = Connection(server, path, keys, service, say)
        try:
            service.serve(lambda: connection.tend() or stop())
        finally:
            connection.close()
    if service.turned_away is not None:
        raise ConfigError(f"turned away by {server}: {service.turned_away}")
    say("stopped; what was trained is kept")
    return 128 + stop.signum
