"""A federation of real processes on this machine, each node behind a link of its own.

    python benchmarks/shaped.py [--nodes 4] [--step-seconds 0.1] [--rate 1MB] [--delay 0.05]
                                [--jitter 0.01] [--loss 0.001] [--rounds 8] [--seed 0]
                                [--kill-every 60 --back-after 5] [--quick] [OVERRIDES...]

A server process and a process for each node, with one client; between them a proxy that shapes
what passes (tests/proxy.py). A step of a node lasts at least so long (`photon.step_seconds`), so
that the processor, which all of them share, does not decide. Nodes may be killed with -9 and
started again, by a seeded schedule. Several numbers of a kind are of the nodes in turn. What comes
of it is printed as JSON: see `shaped_figures.Figures`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from shaped_figures import Figures, figures, stretches

from photon.cli.options import Quantity
from photon.config import Config, load_config
from photon.data.prepare.embedded import prepare_embedded
from photon.run.trackers import read_lines
from proxy import Proxy, Shape

ROOT = Path(__file__).parents[1]
MODEL = ("recipe=smoke", "llm_config.model.d_model=64", "llm_config.model.ffn_hidden_size=172",
         "llm_config.model.n_layers=2", "llm_config.local_steps=16")  # fmt: skip
"""A tenth of a million parameters: a step takes milliseconds."""
STEADY = ("fl.eval_period=null", "fl.failed_rounds=retry", "fl.round_attempts=1000",
          "photon.join_timeout=600", "llm_config.save_interval=4")  # fmt: skip
PLAIN = Shape()
POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Site:
    """A node, its client, and its link.

    Attributes:
        step_seconds: that a step takes, if the processor needs no longer.
    """

    step_seconds: float
    link: Shape = PLAIN


@dataclass(frozen=True, slots=True)
class Churn:
    """Kills of nodes.

    Attributes:
        every: seconds between two of them in the mean, exponentially distributed.
        back_after: seconds after which the node is started again; a new process takes some more.
        most: of them; None: any number.
    """

    every: float
    back_after: float
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A run.

    Attributes:
        overrides: of the server, beside `MODEL` and `STEADY`.
        seed: of links and kills.
        limit: seconds after which a run is given up.
    """

    sites: Sequence[Site]
    rounds: int
    overrides: Sequence[str] = ()
    churn: Churn | None = None
    seed: int = 0
    limit: float = 1800.0

    def keys(self) -> list[str]:
        count = len(self.sites)
        return [*MODEL, *STEADY, f"fl.n_total_clients={count}", f"photon.n_nodes={count}",
                f"fl.n_rounds={self.rounds}", *self.overrides]  # fmt: skip

    def config(self) -> Config:
        return load_config(self.keys())


@dataclass
class Federation:
    """The processes of a run and their links.

    Attributes:
        home: folder of logs and of every process's files.
        sockets: of the nodes; short, since the kernel limits the path of a socket.
    """

    case: Case
    home: Path
    sockets: Path
    data: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def records(self) -> Path:
        return self.home / "server" / "run" / "metrics.jsonl"

    def node_log(self, number: int) -> Path:
        return self.home / f"steps-{number}.jsonl"

    def start_server(self) -> None:
        script = ROOT / "tests" / "failure" / "server_process.py"
        fronts = str(self.sockets / "fronts")
        self._start("server", [str(script), fronts, *self.case.keys(), "run_uuid=run"])

    def start_node(self, number: int) -> None:
        script, name = ROOT / "benchmarks" / "shaped_node.py", f"n{number}"
        pace = f"photon.step_seconds={self.case.sites[number].step_seconds}"
        self._start(name, [str(script), "node", str(self.node_log(number)), str(self.sockets), name,
                           str(number), "photon.workers=1", "photon.threads=1", pace])  # fmt: skip

    def _start(self, name: str, command: list[str]) -> None:
        self.processes[name] = started_process(self.home, self.data, name, command)

    def kill(self, number: int) -> None:
        """With -9; its worker sees that between two steps, and ends."""
        end(self.processes[f"n{number}"])

    def is_over(self) -> bool:
        """Whether the server has ended well.

        Raises:
            RuntimeError: it has ended otherwise; its last words.
        """
        code = self.processes["server"].poll()
        if code:
            raise RuntimeError((self.home / "server.txt").read_text()[-2000:])
        return code == 0

    def close(self) -> None:
        for process in self.processes.values():
            end(process)


def started_process(
    home: Path, data: Path, name: str, command: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Of Python, with one thread, a folder and a log of its own in the home of a federation."""
    places = [f"dataset.train.root_local={data}", f"photon.saving_path={home / name}"]
    with open(home / f"{name}.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, *command, *places], stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")},
        )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


class Killer:
    """Kills nodes by a seeded schedule, one at a time, and starts them again."""

    def __init__(self, federation: Federation, churn: Churn | None, seed: int) -> None:
        self.federation, self.churn = federation, churn
        self._random = random.Random(seed)
        self._next: float | None = None
        self._dead: dict[int, float] = {}
        self.kills = 0

    def tend(self, now: float) -> None:
        """Do what is due; the first kill is awaited from the first call on."""
        if self.churn is None:
            return
        self._bring_back(now)
        if self._next is None:
            self._next = now + self._random.expovariate(1 / self.churn.every)
        if self._next <= now and self.kills != self.churn.most:
            self._next += self._random.expovariate(1 / self.churn.every)
            self._kill(now + self.churn.back_after)

    def _bring_back(self, now: float) -> None:
        for number in [n for n, back in self._dead.items() if back <= now]:
            del self._dead[number]
            self.federation.start_node(number)

    def _kill(self, back: float) -> None:
        number = self._random.randrange(len(self.federation.case.sites))
        if number not in self._dead:
            self.federation.kill(number)
            self._dead[number] = back
            self.kills += 1


@contextmanager
def started(case: Case, home: Path, data: Path) -> Iterator[Federation]:
    """All processes of a run, behind their links."""
    with tempfile.TemporaryDirectory(prefix="photon-") as folder:
        sockets = Path(folder)
        (sockets / "fronts").mkdir()
        links = [
            Proxy(sockets / f"n{n}.sock", site.link, at=sockets / "fronts" / f"n{n}.sock",
                  seed=case.seed + n)
            for n, site in enumerate(case.sites)
        ]  # fmt: skip
        federation = Federation(case, home, sockets, data)
        try:
            for number in range(len(case.sites)):
                federation.start_node(number)
            federation.start_server()
            yield federation
        finally:
            federation.close()
            for link in links:
                link.close()


def measure(case: Case, home: Path, data: Path) -> Figures:
    """Run it.

    Args:
        data: prepared for as many clients, see `prepared`.

    Raises:
        RuntimeError: the server has failed, or the run took too long.
    """
    times: list[float] = []
    with started(case, home, data) as federation:
        killer = Killer(federation, case.churn, case.seed)
        give_up = time.monotonic() + case.limit
        while not federation.is_over():
            now = time.monotonic()
            if now > give_up:
                raise RuntimeError(f"not done after {case.limit:.0f} s: {home}")
            times += [now] * (count_lines(federation.records) - len(times))
            if times:
                killer.tend(now)
            time.sleep(POLL_SECONDS)
        records = read_lines(federation.records)
        times += [time.monotonic()] * (len(records) - len(times))
        taken = [stretches(read_lines(federation.node_log(n))) for n in range(len(case.sites))]
    paces = [site.step_seconds for site in case.sites]
    per_step = case.config().inner.tokens_per_step
    return figures(records, times, taken, paces, per_step, killer.kills)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def prepared(root: Path, case: Case) -> Path:
    """Data for the clients of a case."""
    config = case.config()
    prepare_embedded(root, config.data.embedded, len(case.sites), config.inner.row_length)
    return root


def case_of(arguments: argparse.Namespace) -> Case:
    def of_nodes(values: Sequence[float]) -> list[float]:
        return list(islice(cycle(values), arguments.nodes))

    shapes = zip(*(of_nodes(getattr(arguments, name)) for name in
                   ("delay", "jitter", "rate", "loss")), strict=True)  # fmt: skip
    links = [Shape(delay, jitter, rate or None, loss) for delay, jitter, rate, loss in shapes]
    sites = [
        Site(seconds, link)
        for seconds, link in zip(of_nodes(arguments.step_seconds), links, strict=True)
    ]
    churn = Churn(arguments.kill_every, arguments.back_after) if arguments.kill_every else None
    return Case(sites, arguments.rounds, tuple(arguments.overrides), churn, arguments.seed)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = Quantity("bytes/s").convert
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--step-seconds", type=float, nargs="+", default=[0.1])
    parser.add_argument("--rate", type=lambda text: size(text, None, None), nargs="+", default=[0])
    for name in ("delay", "jitter", "loss"):
        parser.add_argument(f"--{name}", type=float, nargs="+", default=[0.0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill-every", type=float, help="seconds in the mean")
    parser.add_argument("--back-after", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="two nodes, three rounds, short steps")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args(given)
    if arguments.quick:
        arguments.nodes, arguments.rounds, arguments.step_seconds = 2, 3, [0.01]
    case = case_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        data = prepared(Path(folder) / "data", case)
        print(json.dumps(asdict(measure(case, Path(folder), data))))


if __name__ == "__main__":
    main()
