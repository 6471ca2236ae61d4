"""What `photon server` and `photon node` run: the parts of a federation put together."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from photon.config.schema import Config
from photon.data.manifest import read_manifest
from photon.errors import ConfigError, PhotonWarning, RoundFailed
from photon.runtime.device import return_freed_memory
from photon.runtime.engines.depot import Depot
from photon.runtime.engines.flower import FlowerLink
from photon.runtime.engines.link import Link, SocketLink
from photon.runtime.engines.local import Engine
from photon.runtime.engines.remote import RemoteEngine
from photon.runtime.engines.roster import Roster
from photon.runtime.enrolment import REGISTER, Register, read_register, signer
from photon.runtime.hosted_run import data_facts
from photon.runtime.interrupt import StopRequest
from photon.runtime.job import EngineFactory, Job
from photon.runtime.node_service import NodeService
from photon.runtime.preparation import require_data
from photon.runtime.rows import data_root
from photon.runtime.run_folder import RunFolder
from photon.runtime.superlink import SuperNode, Tls, last_line
from photon.runtime.transport import open_transport

Say = Callable[[str], None]
MAX_FAILURES, LONGEST_PAUSE, STEADY_SECONDS = 25, 30.0, 60.0
"""A SuperNode that ends is started anew after 1, 2, 4 .. 30 s; for some ten minutes, unless it has
lived for a minute in between."""


def over_flower(host: str, port: int, keys: Path | None) -> EngineFactory:
    """An engine whose nodes come over Flower.

    Args:
        keys: folder of `photon keys`; None: no TLS, no keys, whoever comes may take part.
    """
    register = Register(None) if keys is None else read_register(keys / REGISTER)
    tls = None if keys is None else Tls(keys / "ca.pem", keys / "server.pem", keys / "server.key")
    if tls is not None:
        tls.require()

    def make(folder: RunFolder, config: Config, job: Job) -> Engine:
        link = FlowerLink(folder.path / "flower", host, port, tls, register, job.say, job.stop)
        return remote_engine(folder, config, job, link, register)

    return make


def over_sockets(sockets: Path) -> EngineFactory:
    """An engine whose nodes are services of this machine, each behind a Unix socket."""

    def make(folder: RunFolder, config: Config, job: Job) -> Engine:
        return remote_engine(folder, config, job, SocketLink(sockets), Register(None))

    return make


def remote_engine(
    folder: RunFolder, config: Config, job: Job, link: Link, register: Register
) -> RemoteEngine:
    """The engine of a server, over any link; the process trains nothing itself."""
    return_freed_memory()
    data = data_facts(config, read_manifest(data_root(config))["settings"])
    depot = Depot(folder.path / "depot", open_transport(config.photon, str(config.run_uuid)))
    return RemoteEngine(config, data, link, Roster(link, register, job.say), depot, job.say)


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What a node proves itself by: the server's authority, and its own private key."""

    authority: Path
    key: Path


def find_node_keys(folder: Path, name: str) -> NodeKeys:
    """The files of `photon keys` on a node.

    Raises:
        ConfigError: one is missing.
    """
    keys = NodeKeys(folder / "ca.pem", folder / f"{name}.key")
    for path in (keys.authority, keys.key):
        if not path.is_file():
            raise ConfigError(
                f"{path}: no such file; `photon keys add {name} --clients ...` makes it on the "
                "server: copy it here, or name its folder with --keys"
            )
    return keys


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
    if (unprepared := require_data(own, clients)) is not None:
        warnings.warn(unprepared, PhotonWarning, stacklevel=2)
    sign = signer(keys.key) if keys else None
    with StopRequest() as stop, tempfile.TemporaryDirectory(prefix="photon-") as home:
        path = Path(home) / f"{name}.sock"
        service = NodeService(name, list(clients), own, path, sign, say)
        connection = Connection(server, path, keys, service.home, say)
        try:
            service.serve(lambda: connection.tend() or stop())
        finally:
            connection.close()
    if service.turned_away is not None:
        raise ConfigError(f"turned away by {server}: {service.turned_away}")
    say("stopped; what was trained is kept")
    return 128 + stop.signum


class Connection:
    """A SuperNode that is started once the service listens, and anew when it ends or hangs."""

    def __init__(
        self, server: str, path: Path, keys: NodeKeys | None, folder: Path, say: Say
    ) -> None:
        self.server, self.path, self.folder, self.say = server, path, folder, say
        self._tls = (keys.authority, keys.key) if keys else None
        self._started, self._failures = -LONGEST_PAUSE, 0
        self._supernode: SuperNode | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def tend(self) -> bool:
        """Start the SuperNode if it is not at work; never asks to stop.

        Raises:
            RoundFailed: it has ended too often, and never lived long.
        """
        now = time.monotonic()
        if self._supernode is not None and self._supernode.is_at_work():
            if now - self._started > STEADY_SECONDS:
                self._failures = 0
            return False
        if now - self._started < min(2.0**self._failures, LONGEST_PAUSE):
            return False
        if self._supernode is not None:
            self._supernode.close()
            self._failures += 1
            reason = last_line(self.folder / "supernode.log", "ERROR")
            if self._failures > MAX_FAILURES:
                raise RoundFailed(f"no contact with {self.server}: {reason}")
            self.say(f"supernode   has ended, starting a new one: {reason}")
        self._started = now
        self._supernode = SuperNode(self.folder, self.server, self.path, self._tls)
        return False

    def close(self) -> None:
        if self._supernode is not None:
            self._supernode.close()
