"""How many sites one machine carries: real node processes, and virtual clients.

    python benchmarks/scale.py nodes [--nodes 64] [--rounds 6]        a server and so many processes
    python benchmarks/scale.py clients [--clients 2000] [--rounds 200]    `photon simulate`
    python benchmarks/scale.py nodes --smoke                          few, and nothing kept

*nodes*: every node is a fresh process with one client, which trains a tiny model in it; all take
part in every round. *clients*: sites that fail and come back on a virtual clock, eight in a round;
updates are drawn, not trained. Memory is anonymous (what the kernel cannot take back), sampled.
Lines go to benchmarks/results/scale.jsonl and many_clients.jsonl; how much memory a large model
takes is `server_memory.py`'s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from records import RESULTS, append
from server_memory import anonymous_megabytes
from shaped import MODEL, ROOT, count_lines, end, started_process

from photon.config import load_config
from photon.data.prepare.embedded import prepare_embedded

LOG = RESULTS / "scale.jsonl"
CLIENTS_LOG = RESULTS / "many_clients.jsonl"
SCRIPTS = ROOT / "tests" / "failure"
KEYS = (*MODEL, "llm_config.local_steps=4", "llm_config.device_train_microbatch_size=1",
        "llm_config.global_train_batch_size=1", "fl.eval_period=null", "photon.join_timeout=900",
        "photon.workers=0", "photon.threads=1")  # fmt: skip
SITES = """
trainer: stand-in
groups:
  - {clients: 0-%d, up: 20Mbit, down: 100Mbit, latency: 0.05, step_seconds: 0.5,
     failures_every: 3600}
"""
TEXT_BYTES = 300_000
"""Of each node: at least two documents."""
PER_ROUND = 8
LIMIT_SECONDS = 1800.0
POLL_SECONDS = 0.05


class Peaks:
    """Most anonymous megabytes of each process, and of all of them together."""

    def __init__(self) -> None:
        self.of: dict[int, float] = {}
        self.together = 0.0

    def sample(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        now = {process.pid: anonymous_megabytes(process.pid) for process in processes}
        self.of = {pid: max(value, self.of.get(pid, 0.0)) for pid, value in now.items()}
        self.together = max(self.together, sum(now.values()))


@contextmanager
def processes(home: Path, keys: Sequence[str], nodes: int) -> Iterator[list[subprocess.Popen]]:
    """The server, and after it the nodes."""
    with tempfile.TemporaryDirectory(prefix="photon-") as sockets:
        server, node = (str(SCRIPTS / f"{which}_process.py") for which in ("server", "node"))
        commands = {
            "server": [server, sockets, *keys, "run_uuid=run"],
            **{f"n{n}": [node, sockets, f"n{n}", str(n), *KEYS] for n in range(nodes)},
        }
        started = [started_process(home, home / "data", *one) for one in commands.items()]
        try:
            yield started
        finally:
            for process in started:
                end(process)


def real_nodes(nodes: int, rounds: int) -> dict[str, Any]:
    """Run a federation of processes; what it took.

    Raises:
        RuntimeError: the server has failed, or is not done in time.
    """
    keys = [*KEYS, f"fl.n_total_clients={nodes}", f"photon.n_nodes={nodes}",
            f"fl.n_rounds={rounds}",
            f"dataset.embedded.max_bytes={nodes * TEXT_BYTES}"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        home, config = Path(folder), load_config(keys)
        embedded, length = config.data.embedded, config.inner.row_length
        prepare_embedded(home / "data", embedded, nodes, length)
        begun, peaks = time.monotonic(), Peaks()
        with processes(home, keys, nodes) as started:
            ends = list(_ends_of_rounds(home, started, peaks))
    server, *others = (peaks.of[process.pid] for process in started)
    return {
        "nodes": nodes,
        "rounds": rounds,
        "local_steps": config.inner.local_steps,
        "first_round_seconds": ends[0] - begun,
        "round_seconds": median(b - a for a, b in pairwise(ends)),
        "server_megabytes": server,
        "node_megabytes": max(others),
        "all_megabytes": peaks.together,
    }


def _ends_of_rounds(
    home: Path, started: Sequence[subprocess.Popen[bytes]], peaks: Peaks
) -> Iterator[float]:
    """When each round's line was there, until the server, the first of the processes, has ended."""
    seen, until = 0, time.monotonic() + LIMIT_SECONDS
    records = home / "server" / "run" / "metrics.jsonl"
    while (code := started[0].poll()) is None and time.monotonic() < until:
        peaks.sample(started)
        now = count_lines(records)
        yield from [time.monotonic()] * (now - seen)
        seen = now
        time.sleep(POLL_SECONDS)
    if code != 0:
        ended = f"not done after {LIMIT_SECONDS:.0f} s" if code is None else f"exit code {code}"
        raise RuntimeError(f"{ended}: {(home / 'server.txt').read_text()[-2000:]}")
    yield from [time.monotonic()] * (count_lines(records) - seen)


def virtual_clients(clients: int, rounds: int) -> dict[str, Any]:
    """Simulate them; what it took.

    Raises:
        RuntimeError: the simulation has failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder) / "many.yaml"
        links.write_text(SITES % (clients - 1))
        command = [sys.executable, "-m", "photon", "simulate", "recipe=smoke", "run_uuid=many",
                   "-q", f"fl.n_total_clients={clients}", f"fl.n_clients_per_round={PER_ROUND}",
                   f"fl.n_rounds={rounds}", "fl.failed_rounds=retry", "fl.eval_period=null",
                   f"photon.saving_path={folder}", "--links", str(links)]  # fmt: skip
        begun, peaks = time.monotonic(), Peaks()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            peaks.sample([process])
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - begun
    if process.returncode:
        raise RuntimeError(f"photon simulate: exit code {process.returncode}")
    return {"clients": clients, "per_round": PER_ROUND, "rounds": rounds, "seconds": seconds,
            "megabytes": peaks.together}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["nodes", "clients"])
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.nodes, arguments.clients, arguments.rounds = 2, [20], 2
    if arguments.rounds == 1:
        parser.error("--rounds 1: a round is timed from the one before; give 2 or more")
    if arguments.what == "nodes":
        log, found = LOG, [real_nodes(arguments.nodes, arguments.rounds or 6)]
    else:
        log, rounds = CLIENTS_LOG, arguments.rounds or 200
        found = [virtual_clients(clients, rounds) for clients in arguments.clients]
    for record in found:
        print(", ".join(f"{name} {value:.4g}" for name, value in record.items()), flush=True)
        if not arguments.smoke:
            append(log, record)


if __name__ == "__main__":
    main()
