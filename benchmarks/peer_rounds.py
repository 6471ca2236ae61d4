"""Rounds of real processes on this machine: seconds, processor time, memory and bytes of each."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from relay import TICK, stat

from photon.machine.guard import Guarded

POLL_SECONDS, MEMORY_SECONDS = 0.01, 0.5
KEPT = ("Pss_Anon:", "Pss_Shmem:")
"""Memory that the kernel cannot take back; what processes share counts once."""


@dataclass(frozen=True)
class Case:
    """What every arm does.

    Attributes:
        megabytes: of the model, in fp32.
        rounds: that count, after one.
        data: prepared rows, of which none is trained on.
        shapes: a file with the sizes of the model's tensors.
        limit: seconds after which a run is given up.
    """

    megabytes: float
    clients: int
    rounds: int
    data: Path
    shapes: Path
    limit: float = 900.0

    @property
    def rounds_run(self) -> int:
        """One more before and one after: at the end of one that counts, the next has begun."""
        return self.rounds + 2


@dataclass(frozen=True)
class Federation:
    """Processes of an arm.

    Attributes:
        log: gets a line as each round ends.
        server, nodes: may have children.
        traffic: bytes that all nodes have sent and received.
        sites: for which one of the nodes stands.
    """

    log: Path
    server: Sequence[Guarded]
    nodes: Sequence[Guarded]
    traffic: Callable[[], tuple[int, int]]
    sites: int = 1

    @property
    def processes(self) -> list[Guarded]:
        return [*self.server, *self.nodes]


Arm = Callable[[Path, Case], AbstractContextManager[Federation]]
"""Starts the processes; they end with the context."""


@dataclass(frozen=True)
class Figures:
    """Of a round, but for the peaks.

    Attributes:
        seconds: of each round.
        cpu_seconds: of all processes together.
        server_megabytes, node_megabytes: peak of the server's processes together, and of those of
            the largest node.
        up_megabytes, down_megabytes: what a node sends, and receives.
    """

    seconds: list[float]
    cpu_seconds: float
    server_megabytes: float
    node_megabytes: float
    up_megabytes: float
    down_megabytes: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Mark:
    """The end of a round."""

    at: float
    cpu: float
    traffic: tuple[int, int]


def measure(start: Arm, case: Case, home: Path) -> Figures:
    """Run an arm; the first round, in which nodes come and connections are made, is left out.

    Raises:
        RuntimeError: a process has ended early, or the run took too long.
    """
    give_up, marks = time.monotonic() + case.limit, []
    with start(home, case) as federation, Watch(federation) as watch:
        while len(marks) < case.rounds_run:
            if count_lines(federation.log) > len(marks):
                marks.append(_mark(federation))
                if len(marks) == 1:
                    watch.begin()
            elif any(p.returncode is not None for p in federation.processes):
                raise RuntimeError(f"a process has ended: {last_lines(home)}")
            elif time.monotonic() > give_up:
                raise RuntimeError(f"not done after {case.limit:.0f} s: {last_lines(home)}")
            time.sleep(POLL_SECONDS)
    return _figures(case, marks, watch)


def _figures(case: Case, marks: Sequence[Mark], watch: Watch) -> Figures:
    """Bytes are those of the whole run, since what a round sends may go before the one before ends
    in the log; coming and connecting are a small part of it. Photon's first round sends nothing
    down, since its first parameters are seeded: with few rounds it receives so much less.
    """
    counted = marks[: case.rounds + 1]
    up, down = (count / (1e6 * case.rounds_run * case.clients) for count in marks[-1].traffic)
    return Figures(
        seconds=[b.at - a.at for a, b in pairwise(counted)],
        cpu_seconds=(counted[-1].cpu - counted[0].cpu) / case.rounds,
        server_megabytes=watch.server,
        node_megabytes=watch.node,
        up_megabytes=up,
        down_megabytes=down,
    )


def _mark(federation: Federation) -> Mark:
    now, pids = time.monotonic(), set().union(*trees(federation.processes))
    return Mark(now, sum(map(cpu_seconds, pids)), federation.traffic())


class Watch:
    """Peaks of memory between `begin` and the exit, in megabytes."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.begin()

    def begin(self) -> None:
        self.server = self.node = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        here = self._federation
        while not self._done.wait(MEMORY_SECONDS):
            each = [sum(map(kept_megabytes, pids)) for pids in trees(here.processes)]
            server, nodes = each[: len(here.server)], each[len(here.server) :]
            self.server = max(self.server, sum(server))
            self.node = max(self.node, max(nodes) / here.sites)


def trees(processes: Sequence[Guarded]) -> list[set[int]]:
    """Of each guarded command itself and all below it, by one look at all processes."""
    pids = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    below = defaultdict(set)
    for pid in pids:
        if fields := stat(int(pid)):
            below[int(fields[1])].add(int(pid))
    return [_descendants(process._process.pid, below) for process in processes]


def _descendants(pid: int, below: Mapping[int, set[int]]) -> set[int]:
    children = below.get(pid, set())
    return children.union(*(_descendants(child, below) for child in children))


def kept_megabytes(pid: int) -> float:
    path = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        if b"photon.machine.guard" in (path / "cmdline").read_bytes():
            return 0.0
        lines = (path / "smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(KEPT)) * 1.024e-3
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Its own, and those of its children that have ended."""
    return sum(map(int, stat(pid)[11:15])) / TICK


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def last_lines(home: Path) -> str:
    """The ends of all logs."""
    logs = sorted(home.rglob("*.txt"))
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)
