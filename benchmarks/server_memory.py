"""What a server's memory depends on: the model's size, not the number of clients.

    python benchmarks/server_memory.py [--megabytes 100] [--clients 2 16] [--via inline shm]
    python benchmarks/server_memory.py --megabytes 4000 --clients 2 --via inline    a billion

The node is another process; it answers at once with updates as large as the base. Anonymous memory
is counted (what the kernel cannot take back), sampled every 2 ms, beyond what the server had before
it had a model; each case is a process of its own. Bar: parameters + outer state + one accumulator +
1.5 payloads. A line of each case goes to benchmarks/results/server_memory.jsonl; with --smoke one
of a megabyte runs, and nothing is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from network import nodes_answer_at_once, tree
from records import RESULTS, append

from loopback import SocketLink
from photon.config import load_config
from photon.config.resolve import Run, resolve
from photon.config.schema import Config
from photon.machine.device import return_freed_memory
from photon.machine.interrupt import StopRequest
from photon.node import hosted_run
from photon.node.service import NodeService
from photon.run.checkpoint import save_server_state
from photon.run.outer import outer_of
from photon.run.preparation import prepare
from photon.run.run_data import RunData
from photon.server.depot import Depot
from photon.server.loop import Effects, Server, initial_state
from photon.server.remote import RemoteEngine
from photon.server.roster import Roster
from photon.wire.enrolment import Register
from photon.wire.transport import transport_of

LOG = RESULTS / "server_memory.jsonl"
ROUNDS = 2


def configuration(home: Path, clients: int, via: str) -> Config:
    return load_config(["recipe=smoke", f"photon.saving_path={home}", "run_uuid=bench",
                        f"photon.transport={via}", f"fl.n_total_clients={clients}",
                        f"fl.n_rounds={ROUNDS}", "fl.compression=fp32", "fl.strategy_name=fedavg",
                        "dataset.embedded.max_bytes=4000000", "fl.aggregate_momenta=false",
                        "llm_config.device_train_microbatch_size=1"])  # fmt: skip


def anonymous_megabytes(pid: int | str = "self") -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024 * 1.048576
    if pid != "self":
        return 0.0  # it has just ended
    raise SystemExit("needs a kernel that counts anonymous memory (RssAnon)")


class Peak:
    """Most anonymous megabytes between entry and exit, beyond those at entry."""

    def __enter__(self) -> Peak:
        self.before = self.most = anonymous_megabytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.is_set():
            self.most = max(self.most, anonymous_megabytes())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        return self.most - self.before


def serve_node(home: Path, clients: int, via: str) -> None:
    """The other process."""
    nodes_answer_at_once()
    own, _ = prepare(configuration(home / "node", clients, via), lambda line: None)
    path = home / "sockets" / "a.sock"
    NodeService("a", list(range(clients)), own, path, None, lambda line: None).serve(
        lambda: (home / "done").exists()
    )


def measure(megabytes: float, clients: int, via: str) -> tuple[float, float]:
    """Peak of a server in megabytes, and seconds of a round, its commit in them."""
    torch.set_num_threads(1)
    return_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config = resolve(configuration(home, clients, via), cores=1, accelerator=0,
                         run_uuid="bench", elsewhere=True)  # fmt: skip
        config, _ = prepare(config, lambda line: None)
        arguments = ["--node", folder, "--clients", str(clients), "--via", via]
        node = subprocess.Popen([sys.executable, __file__, *arguments])
        link = SocketLink(home / "sockets")
        roster = Roster(link, Register(None), lambda line: None)
        side = transport_of(config.machine.transport).server(config.machine, "bench")
        depot = Depot(home / "depot", side)
        facts = hosted_run.data_facts(RunData.of(*config.reading))
        engine = RemoteEngine(config, facts, link, roster, depot, lambda line: None)
        engine.alive(lambda: False)
        try:
            with Peak() as peak:
                taken = _rounds(megabytes, config, engine, home)
        finally:
            (home / "done").touch()
            engine.close()
            node.wait()
    return peak.megabytes, taken


def _rounds(megabytes: float, run: Run, engine: RemoteEngine, home: Path) -> float:
    """Rounds as a run has them, records and commits included; seconds of one."""
    states = [initial_state(tree(megabytes), outer_of(run.federation, 1))]
    save_server_state(home / "checkpoints", states[0])
    server = Server(
        run=run,
        checkpoints=home / "checkpoints",
        engine=engine,
        stop=StopRequest(),
        effects=Effects(validate=lambda state: {}, track=lambda record: None),
    )
    begun = time.monotonic()
    server.serve(states.pop())
    return (time.monotonic() - begun) / ROUNDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--via", nargs="+", default=["inline", "shm"])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--node", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.megabytes, arguments.clients, arguments.via = 1.0, [2], ["inline"]
    if arguments.node:
        serve_node(Path(arguments.node), arguments.clients[0], arguments.via[0])
        return
    size, cases = arguments.megabytes, [(v, c) for v in arguments.via for c in arguments.clients]
    for via, clients in cases:
        if len(cases) > 1:
            case = ["--megabytes", str(size), "--clients", str(clients), "--via", via]
            subprocess.run([sys.executable, __file__, *case], check=True)
        else:
            peak, taken = measure(size, clients, via)
            print(f"{via:<7} {clients:>3} clients, {size:g} MB each: {peak:6.0f} MB, "
                  f"{peak / size:.2f} payloads (bar 3.5), {taken:.1f} s a round",
                  flush=True)  # fmt: skip
            if not arguments.smoke:
                append(LOG, {"megabytes": size, "clients": clients, "via": via,
                             "server_megabytes": peak, "payloads": peak / size,
                             "round_seconds": taken})  # fmt: skip


if __name__ == "__main__":
    main()
