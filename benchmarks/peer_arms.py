"""Photon and its peers as processes: each moves a model of the same tensors between as many sites.

Nobody trains: clients answer at once with what a step would have changed. What is left is what a
round costs beside the training.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from counting_proxy import CountingProxy
from peer_rounds import Arm, Case, Federation, trees
from round import shape

from photon.machine.address import free_port
from photon.machine.guard import Guarded

HERE = Path(__file__).parent
LOOPBACK = "127.0.0.1"


def photon_keys(case: Case) -> list[str]:
    """FedAvg, everything in fp32; a step is one row, so that the plan is short."""
    return [*shape(round(case.megabytes * 1e6 / 4)), "fl.strategy_name=fedavg",
            "fl.compression=fp32", "fl.aggregate_momenta=false", "fl.eval_period=null",
            f"fl.n_total_clients={case.clients}", f"fl.n_rounds={case.rounds_run}",
            f"photon.n_nodes={case.clients}", "photon.device=cpu", "photon.threads=1",
            "llm_config.local_steps=1", "llm_config.scheduler.schedulers.lr.t_warmup=1ba",
            "llm_config.global_train_batch_size=1", "llm_config.device_train_microbatch_size=1",
            f"dataset.train.root_local={case.data}"]  # fmt: skip


@contextmanager
def photon(home: Path, case: Case) -> Iterator[Federation]:
    """`photon server` and a `photon node` for each client, without TLS; payloads in messages."""
    port, data = free_port(), f"dataset.train.root_local={case.data}"
    with ExitStack() as stack:
        links = [stack.enter_context(closing(CountingProxy(port))) for _ in range(case.clients)]
        start = partial(_start, stack, home)
        server = start("server", "-m", "photon", "server", "--insecure", "--listen",
                       f"{LOOPBACK}:{port}", "run_uuid=run",
                       f"photon.saving_path={home / 'server'}", *photon_keys(case))  # fmt: skip
        nodes = [
            start(f"node{n}", str(HERE / "peer_node.py"), "node", "--insecure", "--server",
                  f"{LOOPBACK}:{link.port}", "--name", f"n{n}", "--clients", str(n), data,
                  f"photon.saving_path={home / f'node{n}'}")
            for n, link in enumerate(links)
        ]  # fmt: skip
        log = home / "server" / "run" / "metrics.jsonl"
        yield Federation(log, [server], nodes, partial(_through, links))


@contextmanager
def flower(home: Path, case: Case, *, torch: bool = True) -> Iterator[Federation]:
    """A SuperLink, a SuperNode for each client, and FedAvg of the message API, without TLS.

    Args:
        torch: the client turns arrays into torch's tensors, as most do.
    """
    port, log = free_port(), home / "rounds.jsonl"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "{LOOPBACK}:{port}"\n'
        "insecure = true\n"
    )
    told = (f'shapes="{case.shapes}" log="{log}" clients={case.clients} '
            f"rounds={case.rounds_run} torch={str(torch).lower()}")  # fmt: skip
    with ExitStack() as stack:
        start = partial(_start, stack, home)
        server = start("superlink", "-c", _flower("superlink.cli", "flower_superlink"),
                       "--insecure", "--port", str(port),
                       "--disable-runtime-dependency-installation")  # fmt: skip
        links = [stack.enter_context(closing(CountingProxy(port))) for _ in range(case.clients)]
        nodes = [
            start(f"supernode{n}", "-c", _flower("supernode.cli", "flower_supernode"), "--insecure",
                  "--superlink", f"{LOOPBACK}:{link.port}", "--port", str(free_port()))
            for n, link in enumerate(links)
        ]  # fmt: skip
        _wait_for(port, server)
        run = [sys.executable, "-c", _flower("cli.app", "app"), "run", str(HERE / "flower_app"),
               "bench", "-c", told]  # fmt: skip
        subprocess.run(run, env=_own(home), check=True, stdout=subprocess.DEVNULL)
        yield Federation(log, [server], nodes, partial(_through, links))


def _flower(module: str, name: str) -> str:
    """What one of Flower's commands does, with this interpreter."""
    return f"from flwr.{module} import {name}; {name}()"


def _wait_for(port: int, server: Guarded) -> None:
    while server.returncode is None:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1.0):
            return
        time.sleep(0.1)


@contextmanager
def torchft(home: Path, case: Case) -> Iterator[Federation]:
    """A lighthouse, and a replica for each client that averages over gloo and steps DiLoCo."""
    with _peers(home, case, "peer_torchft.py") as federation:
        yield federation


@contextmanager
def hivemind(home: Path, case: Case) -> Iterator[Federation]:
    """A decentralised averager for each client."""
    with _peers(home, case, "peer_hivemind.py") as federation:
        yield federation


@contextmanager
def _peers(home: Path, case: Case, script: str) -> Iterator[Federation]:
    """Peers among each other, in a network of their own, whose bytes the kernel counts."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, str(HERE / "peer_group.py"),
               script, str(home), str(case.shapes), str(case.clients),
               str(case.rounds_run)]  # fmt: skip
    with closing(Guarded(command, home / "peers.txt", _own(home))) as group:
        yield Federation(home / "rounds.jsonl", [], [group], partial(_over_loopback, group),
                         case.clients)  # fmt: skip


def _over_loopback(group: Guarded) -> tuple[int, int]:
    """Bytes in the network of a group: each is sent by one of it, and received by another."""
    for pid in trees([group])[0]:
        with contextlib.suppress(OSError):
            if b"peer_group" in Path(f"/proc/{pid}/cmdline").read_bytes():
                lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
                fields = next(line for line in lines if line.strip().startswith("lo:")).split()
                return int(fields[9]), int(fields[1])
    return 0, 0


def _start(stack: ExitStack, home: Path, name: str, *command: str) -> Guarded:
    log = home / f"{name}.txt"
    return stack.enter_context(closing(Guarded([sys.executable, *command], log, _own(home))))


def _own(home: Path) -> dict[str, str]:
    """Environment of the processes: one thread each, nothing that reaches a network."""
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": binaries, "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}  # fmt: skip


def _through(links: Sequence[CountingProxy]) -> tuple[int, int]:
    return sum(link.up for link in links), sum(link.down for link in links)


ARMS: dict[str, Arm] = {
    "photon": photon,
    "flower": flower,
    "flower, numpy": partial(flower, torch=False),
    "torchft": torchft,
    "hivemind": hivemind,
}
