"""What would go wrong with a run on this machine, found before it starts."""

from __future__ import annotations

import http
import http.client
import os
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from photon.config.between.travel import travelling
from photon.config.compose import load_config
from photon.config.resolve import resolve
from photon.config.schema import Bucket, Config
from photon.data.manifest import MANIFEST, read_whole
from photon.data.read.shards import Rows
from photon.data.read.verify import require_part, require_tokenizer
from photon.data.tokenizer import tokenizer_digest
from photon.errors import ConfigError, PhotonError, install_with
from photon.experiment.disk import disk_of
from photon.machine.address import format_address
from photon.machine.device import choose_device, count_gpus, num_cores
from photon.machine.probe import find_trouble, tls_context
from photon.node.hosted_run import node_config
from photon.node.microbatch import HEADROOM, Trainers, fits, free_memory
from photon.run.mirror import require_mirror
from photon.run.preparation import architecture_of, fit_to_data, prepare, require_data
from photon.run.run_data import RunData
from photon.wire.enrolment import format_clients

FROM_SERVER = "how much is needed is up to the server's model (llm_config=... compares with one)"
REBIND = (
    "change --clients, or enrol the node anew on the server (photon keys remove, then add), copy "
    "the new key here and restart the server"
)
MAX_CLOCK_SECONDS = 60.0
PROBE_BYTES = 4_000_000
TIMEOUT_SECONDS = 10.0
NOT_FOR_NODES = ("/v1/control/list-runs", "/v1/runtime/acquire-task")
"""Calls by which whoever is answered runs programs on the server and its nodes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        verdict: ok; warn: the run may start; fail: it would not.
    """

    verdict: Literal["ok", "warn", "fail"]
    what: str
    text: str


def examine(
    config: Config,
    clients: list[int] | None,
    server: tuple[str, int] | None,
    authority: Path | None,
    key: Path | None = None,
    overrides: Sequence[str] = (),
) -> Iterator[Finding]:
    """Findings, as they are made.

    With a server this is a node: the model comes with the server's instructions, so nothing is
    compared with one that nobody has named. Without one, data that is named is looked at for all
    clients, and what is not given is taken from it, as `photon train` does.

    Args:
        clients: whose data must be here; None: not asked for.
        server: to be reached; None: not asked for.
        authority: certificate of the server's authority; None: no TLS.
        key: the node's private one, to be known to the server; None: not asked for.
        overrides: those that the configuration was composed of.
    """
    model = architecture_of(config.inner.model, config.federation.vocabulary)
    config = config.with_model(model)
    trouble = None
    if server is None and clients is None and config.data.train.root is not None:
        try:
            config = fit_to_data(config, overrides, lambda line: None)
            clients = list(range(config.federation.population))
        except PhotonError as error:
            trouble = Finding("fail", "data", str(error))
    has_model = server is None or config.inner != load_config().inner
    here = _Machine(config, has_model, is_node=server is not None)
    yield _versions()
    yield here.device()
    yield here.memory()
    yield here.disk(len(clients or [0]) if here.is_node else config.federation.population)
    if trouble is not None:
        yield trouble
    if config.mirror.bucket is not None and not here.is_node:
        yield _mirror(config.mirror)
    if clients is not None:
        yield here.data(clients)
    if server is not None:
        yield from _connection(*server, authority)
        if authority is not None and key is not None:
            yield _key(*server, authority, key, clients)


def _mirror(bucket: Bucket) -> Finding:
    try:
        require_mirror(bucket)
    except PhotonError as error:
        return Finding("fail", "mirror", str(error))
    return Finding("ok", "mirror", f"{bucket.bucket}: takes and deletes objects")


def _versions() -> Finding:
    found = []
    for name in ("photon-pretraining", "torch", "flwr"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    text = ", ".join(found) + "; photon must be the same on every machine"
    if "flwr missing" not in found:
        return Finding("ok", "versions", text)
    return Finding("warn", "versions", f"{text}; several machines need Flower: "
                   f"{install_with('flower')}")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Machine:
    """What is looked at on this machine.

    Attributes:
        has_model: whether the configuration says which model is to be trained.
    """

    config: Config
    has_model: bool
    is_node: bool

    def device(self) -> Finding:
        try:
            device = choose_device(self.config.machine.device)
        except PhotonError as error:
            return Finding("fail", "device", str(error))
        return Finding("ok", "device", str(device))

    def memory(self) -> Finding:
        """The processes that train, held against what is free, as a run would hold them."""
        inner = self.config.inner
        try:
            device = choose_device(self.config.machine.device)
            free = free_memory(device)
        except PhotonError as error:
            return Finding("fail", "memory", str(error))
        if not self.has_model:
            return Finding("ok", "memory", f"{_size(free)} free; {FROM_SERVER}")
        rows = 1 if inner.microbatch_rows == "auto" else inner.microbatch_rows
        need = self._trainers().memory(device, rows)
        text = (
            f"{_size(need)} to train {inner.name} with rows of {inner.row_length} tokens, "
            f"{rows} a pass, {_size(free)} free"
        )
        if fits(need, free):
            return Finding("ok", "memory", text)
        return Finding("fail", "memory", f"{text}, of which {HEADROOM:.0%} may be filled")

    def _trainers(self) -> Trainers:
        """The worker processes that this machine would have."""
        config = self.config.but(name="doctor")
        if self.is_node:
            served = config.but(federation=config.averaging())
            sent = travelling(served.model_dump(mode="json"))
            return Trainers.of(node_config(sent, config), "node")
        gpus = count_gpus(config.machine.device)
        run = resolve(config, cores=num_cores(), accelerator=gpus, run_uuid="doctor")
        return Trainers.of(run, "run")

    def disk(self, clients: int) -> Finding:
        """Room for what so many clients keep, and for the server's where it is here too."""
        config, fl = self.config, self.config.averaging()
        sizes = disk_of(config.inner, fl, config.checkpoints_kept, fl.cohort_size)
        need = clients * sizes["client"] + (0 if self.is_node else sizes["server"])
        path = Path(self.config.machine.runs_folder).resolve()
        while not os.access(path, os.F_OK):
            path = path.parent
        if not os.access(path, os.W_OK | os.X_OK):
            return Finding("fail", "disk", f"{path}: cannot be written; see photon.saving_path")
        free = shutil.disk_usage(path).free
        if not self.has_model:
            return Finding("ok", "disk", f"{_size(free)} free at {path}; {FROM_SERVER}")
        whose = f"{clients} client{'s' * (clients != 1)}{'' if self.is_node else ' and the server'}"
        text = f"{_size(need)} for the states of {whose}, {_size(free)} free at {path}"
        return Finding("ok" if need <= free else "fail", "disk", text)

    def data(self, clients: list[int]) -> Finding:
        try:
            if not self.has_model:
                require_data(self.config.data.train, clients)
            root, manifest = self._found(clients)
            for client in clients:
                rows = Rows(root / f"client_{client}" / "train")
                require_part(root, manifest, rows.folder, rows.manifest)
        except PhotonError as error:
            return Finding("fail", "data", str(error))
        return Finding(
            "ok",
            "data",
            f"{root}: clients {', '.join(map(str, clients))}; rows of "
            f"{manifest['settings']['sequence_length']}, "
            f"tokenizer {manifest['tokenizer'][:12]}",
        )

    def _found(self, clients: list[int]) -> tuple[Path, dict[str, Any]]:
        """The folder of the data and its manifest, held against the model where one is named."""
        given = self.config.data.train.root
        if self.has_model or given is None or not (Path(given) / MANIFEST).exists():
            config, manifest = prepare(self.config, lambda line: None, clients)
            return RunData.of(*config.reading).root, manifest
        root = Path(given).resolve()
        manifest = read_whole(root)
        require_tokenizer(root, manifest, tokenizer_digest(root / "tokenizer.json"))
        return root, manifest


def _connection(host: str, port: int, authority: Path | None) -> Iterator[Finding]:
    where = format_address(host, port)
    try:
        delays = [_timed(lambda: socket.create_connection((host, port), 5.0).close())
                  for _ in range(3)]  # fmt: skip
    except OSError as error:
        text = f"{where}: {find_trouble(host, port, authority) or error}"
        yield Finding("fail", "server", text)
        return
    yield Finding("ok", "server", f"{where} answers in {statistics.median(delays) * 1e3:.1f} ms")
    try:
        connection = _connect(host, port, authority)
        date, seconds = _probe(connection)
        answered = [path for path in NOT_FOR_NODES if _is_answered(connection, path)]
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = f"{where}: {find_trouble(host, port, authority) or error}"
        yield Finding("fail", "TLS" if authority else "HTTP", text)
        return
    if authority:
        yield Finding("ok", "TLS", f"the server's certificate is of {authority}")
    skew = abs((datetime.now(UTC) - date).total_seconds())
    verdict = "ok" if skew < MAX_CLOCK_SECONDS else "warn"
    yield Finding(verdict, "clock", f"{skew:.0f} s from the server's")
    yield Finding("ok", "bandwidth", f"{PROBE_BYTES / seconds / 1e6:.1f} MB/s to the server")
    yield _access(answered)


def _key(host: str, port: int, authority: Path, key: Path, clients: list[int] | None) -> Finding:
    from photon.wire.knock import ask_of_key  # of the extra that brings Flower

    if not key.is_file():
        return Finding("fail", "key", f"{key}: no such file; `photon keys add` on the server")
    said = ask_of_key(host, port, authority, key)
    if said.trouble is not None:
        return Finding("fail", "key", said.trouble)
    if not said.is_known:
        return Finding("warn", "key", f"the server does not say whether {key} is enrolled")
    offered = clients or []
    return _bound(key, said.bound, offered, said.find_unbound(offered))


def _bound(key: Path, bound: str, offered: list[int], missing: list[int]) -> Finding:
    """Whether a known key is for the clients that the node offers, as far as the server says."""
    if not bound:
        text = f"{key} is enrolled (which clients it is bound to is not said)"
        return Finding("ok", "key", text)
    text = f"{key} is enrolled for clients {bound}"
    if not missing:
        return Finding("ok", "key", text)
    # A server takes a node for those of its clients that it is bound to, if there are any.
    verdict = "fail" if len(missing) == len(offered) else "warn"
    return Finding(verdict, "key", f"{text}, not for {format_clients(missing)}: {REBIND}")


def _access(answered: list[str]) -> Finding:
    if not answered:
        return Finding("ok", "access", "the server answers nodes, and no other calls of Flower")
    return Finding(
        "fail",
        "access",
        f"the server answers {', '.join(answered)}: whoever reaches its port may run programs "
        "there and on the nodes; is it `photon server`, of this version?",
    )


def _connect(host: str, port: int, authority: Path | None) -> http.client.HTTPConnection:
    if authority is None:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    if not authority.is_file():
        raise ConfigError(f"{authority}: no such file; copy ca.pem here")
    context = tls_context(authority)
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def _is_answered(connection: http.client.HTTPConnection, path: str) -> bool:
    """Whether a call gets anything but "no such page"; an empty one, of no effect."""
    try:
        connection.request("POST", path, headers={"Content-Type": "application/protobuf"})
        response = connection.getresponse()
        response.read()
        return response.status != http.HTTPStatus.NOT_FOUND
    finally:
        connection.close()


def _probe(connection: http.client.HTTPConnection) -> tuple[datetime, float]:
    """The server's clock, and the seconds that some megabytes take on their way to it."""
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        date = parsedate_to_datetime(response.headers["Date"])
        begun = time.perf_counter()
        connection.request("POST", "/", body=bytes(PROBE_BYTES))
        connection.getresponse().read()
        return date, time.perf_counter() - begun
    finally:
        connection.close()


def _timed(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
