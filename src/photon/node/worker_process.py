"""A worker as its parent sees it: its process, what it was given, how fast it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from photon.config.resolve import RunMachine
from photon.core import spread
from photon.core.messages import Instruction
from photon.machine import frames
from photon.machine.device import count_gpus

COMMAND = [sys.executable, "-m", "photon.node.worker"]


@dataclass(eq=False)
class WorkerProcess:
    """One worker.

    Attributes:
        place: its number among the workers of this machine.
        client: the one that it trains.
        writing: those whose updates it is writing.
        heard: when it was last heard of, by the monotonic clock.
        begun, steps: of the client that it trains.
        pace: None: not measured yet.
        is_used: whether it was given a client in this round.
        forgets: whether it is to read anew what it knows of its clients.
    """

    process: subprocess.Popen
    connection: socket.socket
    place: int = 0
    ready: bool = False
    client: int | None = None
    writing: set[int] = field(default_factory=set)
    heard: float = field(default_factory=time.monotonic)
    begun: float = 0.0
    steps: int = 0
    pace: spread.Pace | None = None
    is_used: bool = False
    forgets: bool = False

    @classmethod
    def start(
        cls, machine: RunMachine, run: Path, place: int, inherited: Collection[int]
    ) -> WorkerProcess:
        """Start one.

        Args:
            run: folder of the run.
            inherited: descriptors that stay open in it.
        """
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [*COMMAND, str(theirs.fileno()), str(run), *devices_of(machine, place)],
            pass_fds=(theirs.fileno(), *inherited),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(machine.threads)},
        )
        theirs.close()
        return cls(process, ours, place)

    @property
    def clients(self) -> set[int]:
        """Those whose updates it owes: the one that it trains, and those that it is writing."""
        return self.writing if self.client is None else {self.client, *self.writing}

    @property
    def is_idle(self) -> bool:
        return self.ready and self.client is None

    @property
    def is_awaited(self) -> bool:
        """Whether it owes a message: that it is ready, or an update."""
        return not self.ready or bool(self.clients)

    @property
    def seen(self) -> spread.Worker:
        """What the plan of a round has to know of it."""
        if self.client is None:
            return spread.Worker(self.pace)
        return spread.Worker(self.pace, self.steps, time.monotonic() - self.begun)

    def begin_round(self) -> None:
        """One that the last round had nothing for may have become faster."""
        if self.pace is not None and not self.is_used:
            self.pace = spread.rested(self.pace)
        self.is_used = False

    def give(self, instruction: Instruction, base: str, following: Instruction | None) -> None:
        """Have it train a client; if it is dead, that is seen when it is read.

        Args:
            base: path of what the client starts from.
            following: what it is to train next, as far as that is known.
        """
        self.client, self.steps, self.is_used = instruction.client, instruction.local_steps, True
        self.begun = self.heard = time.monotonic()
        task: dict[str, Any] = {"instruction": asdict(instruction), "base": base}
        task["forget"], self.forgets = self.forgets, False
        if following is not None:
            task["following"] = asdict(following)
        frames.try_send(self.connection, task)

    def note_trained(self, steps: int) -> None:
        """It is idle again; a client of which it took all steps tells how fast it is."""
        assert self.client is not None
        if 0 < steps == self.steps:
            taken = time.monotonic() - self.begun
            self.pace = spread.measured(self.pace, taken / steps)
        self.writing.add(self.client)
        self.client = None

    def note_end(self, client: int) -> None:
        """A client's turn has ended, with an update or without."""
        self.writing.discard(client)
        self.client = None if self.client == client else self.client

    def ask_to_stop(self) -> None:
        if self.client is not None:
            frames.try_send(self.connection, {"stop": True})

    def end(self, seconds: float) -> None:
        """End it; one that does not in so many seconds, or was never ready, is killed."""
        self.connection.close()
        try:
            self.process.wait(timeout=max(0.0, seconds) if self.ready else 0.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def devices_of(machine: RunMachine, place: int) -> tuple[str, str]:
    """`photon.device` of the worker at a place, and the number of its first GPU.

    Where there are more workers than GPUs allow, they share them.
    """
    gpus, each = count_gpus(machine.device), machine.devices_per_client
    first = place % max(1, gpus // each) * each if gpus else place * each
    return f"cuda:{first}" if each == 1 and gpus > 1 else machine.device, str(first)
