"""Nodes of this machine: in this process, or as workers that are replaced when they die."""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import torch

from photon import errors
from photon.config.resolve import Run, RunMachine
from photon.core.gate import GRADIENT
from photon.core.messages import Arrival, Failure, RoundPlan, Update
from photon.core.spread import spread
from photon.errors import PhotonError, RoundFailed
from photon.machine import frames
from photon.machine.clock import SYSTEM
from photon.node.client_host import ClientHost
from photon.node.course import Stopped
from photon.node.worker_process import WorkerProcess
from photon.run.base import Base
from photon.run.checkpoint import load_update
from photon.run.run_folder import RunFolder
from photon.secure.fixed_point import Trees
from photon.secure.here import Here, Own

MAX_ATTEMPTS = 3
"""How often a client is tried in a round before the run gives up on it."""
END_SECONDS = 30.0
"""Given to a worker to write what its clients have done, once it need train no more."""
OF_ALL = (errors.ConfigError, errors.DeviceError, errors.Interrupted, errors.StorageError)
"""Errors that are no client's: they would meet the next one as well."""

LocalEngine: TypeAlias = "InProcess | WorkerPool"


def local_engine(folder: RunFolder, run: Run, device: torch.device) -> LocalEngine:
    """The engine for the clients of this machine that `photon.workers` asks for."""
    population = run.federation.population
    if run.machine.workers:
        return WorkerPool(folder, run.machine, population)
    torch.set_num_threads(run.machine.threads)
    return InProcess(ClientHost(run, folder.clients, device), population)


class OneMachine:
    """What both engines of a machine share: it waits for all of its clients, whatever they take."""

    can_be_late = False
    devices = 1
    busy = 0
    durations: Sequence[float] = ()
    clock = staticmethod(SYSTEM)

    def __init__(self, population: int) -> None:
        self.population = population

    def alive(self, should_stop: Callable[[], bool]) -> Sequence[int]:
        return range(self.population)

    def parties(
        self,
        plan: RoundPlan,
        updates: Mapping[int, Update],
        like: Trees,
        should_stop: Callable[[], bool],
    ) -> Here:
        """Clients mask in this process, one after the other; nothing of it leaves it."""
        own = {
            c: Own({GRADIENT: u.gradient, **u.moments}, u.num_tokens) for c, u in updates.items()
        }
        return Here(own)

    def take_traffic(self) -> None:
        """Nothing travels."""

    def cancel(self, before: int) -> None:
        """Nothing is left of a round that is over."""

    def close(self) -> None:
        """Nothing to end."""


class InProcess(OneMachine):
    """Clients train in this process, one after the other; one's update is written while the next
    one trains.
    """

    def __init__(self, host: ClientHost, population: int) -> None:
        super().__init__(population)
        self.host = host

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Generator[Arrival, None, None]:
        writing: deque[tuple[int, Future[Path]]] = deque()
        is_stopped = False
        while writing or (waiting and not is_stopped):
            if waiting and not is_stopped:
                client = waiting.popleft()
                following = plan.instructions[waiting[0]] if waiting else None
                try:
                    writing.append((client, self.host.train(
                        plan.instructions[client], base.sent,
                        lambda: should_stop() or any(is_refused(one) for _, one in writing),
                        following,
                    )))  # fmt: skip
                except Stopped:
                    is_stopped = True
                except Exception as error:
                    yield _failed(client, error)
            if is_stopped or not waiting:
                self.host.rest()
            while writing and (is_stopped or not waiting or writing[0][1].done()):
                yield _arrived(*writing.popleft())

    def close(self) -> None:
        self.host.close()


class WorkerPool(OneMachine):
    """Worker processes that share the clients of a round by their speed, which it measures.

    Args:
        folder: the open run; workers inherit its lock.
    """

    def __init__(self, folder: RunFolder, machine: RunMachine, population: int) -> None:
        super().__init__(population)
        self.folder, self.machine, self._rounds, self._newest = folder, machine, 0, 0
        self.selector = selectors.DefaultSelector()
        self.workers: list[WorkerProcess] = []
        self.devices = machine.workers
        self._start_missing()

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Generator[Arrival, None, None]:
        self._end_earlier()
        self._refresh()
        self._note_return(plan.round)
        deaths: Counter[int] = Counter()
        give_up = math.inf
        while (waiting or self._busy()) and time.monotonic() < give_up:
            if should_stop() and give_up == math.inf:
                give_up = time.monotonic() + self.machine.worker_timeout
                self._ask_to_stop()
            if give_up == math.inf:
                self._hand_out(waiting, plan, str(base.file.result()))
            elif not self._busy():
                return
            for client, reply in self._turns(deaths):
                error = _failure(client, reply, deaths[client], plan.round)
                if error is not None:
                    yield _failed(client, error)
                elif reply is None:
                    waiting.append(client)
                elif "update" in reply:
                    yield load_update(Path(reply["update"]))

    def close(self) -> None:
        for worker in self.workers:  # all at once: each then ends what it writes
            with suppress(OSError):
                worker.connection.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + END_SECONDS
        for worker in list(self.workers):
            self._end(worker, until - time.monotonic())
        self.selector.close()

    def _end_earlier(self) -> None:
        """A round that an error has ended leaves clients in training, whom nobody waits for."""
        self._ask_to_stop()
        while self._busy():
            for _ in self._turns(Counter()):
                pass

    def _refresh(self) -> None:
        """Before a round, start the workers anew if that is due, and those that are gone."""
        if self.machine.refresh_period and self._rounds == self.machine.refresh_period:
            self._rounds = 0
            for worker in list(self.workers):
                self._end(worker, END_SECONDS)
        self._start_missing()
        self._rounds += 1
        for worker in self.workers:
            worker.begin_round()

    def _note_return(self, number: int) -> None:
        """Rounds that come again may be trained by other workers than those that remember them."""
        for worker in self.workers if number <= self._newest else ():
            worker.forgets = True
        self._newest = number

    def _start_missing(self) -> None:
        """One that could not be started has failed its round, and is none of the next one's."""
        for _ in range(self.devices - len(self.workers)):
            self._start()

    def _start(self) -> None:
        taken = {worker.place for worker in self.workers}
        place = next(number for number in range(len(taken) + 1) if number not in taken)
        assert self.folder.lock_fd is not None
        worker = WorkerProcess.start(self.machine, self.folder.path, place, [self.folder.lock_fd])
        self.workers.append(worker)
        self.selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _hand_out(self, waiting: deque[int], plan: RoundPlan, base: str) -> None:
        """Give idle workers the clients that are theirs; who would be the last one gets none."""
        here = [worker for worker in self.workers if worker.ready]
        if not waiting or not any(worker.is_idle for worker in here):
            return
        steps = {client: plan.instructions[client].local_steps for client in waiting}
        planned = spread(steps, [worker.seen for worker in here])
        for worker, clients in zip(here, planned, strict=True):
            if clients and worker.is_idle:
                waiting.remove(clients[0])
                own = [plan.instructions[client] for client in clients[:2]]
                worker.give(own[0], base, own[1] if len(own) > 1 else None)

    def _turns(self, deaths: Counter[int]) -> Iterator[tuple[int, dict | None]]:
        """Clients whose turn has ended, with the worker's reply; None: it died, and is replaced.

        Args:
            deaths: of the workers that trained a client; or wrote one, and trained none.
        """
        for worker, reply in self._replies():
            owed = worker.clients
            if reply is None:
                deaths.update(worker.writing if worker.client is None else {worker.client})
                self._replace(worker)
                yield from ((client, None) for client in sorted(owed))
            elif (client := reply["client"]) in owed:
                worker.note_end(client)
                yield client, reply

    def _replies(self) -> Iterator[tuple[WorkerProcess, dict | None]]:
        """Messages that end a client's turn; None stands for a dead or silent worker."""
        for key, _ in self.selector.select(timeout=0.2):
            worker: WorkerProcess = key.data
            message = frames.receive(worker.connection)
            worker.heard = time.monotonic()
            if message is None:
                yield worker, None
            elif "ready" in message:
                worker.ready = True
            elif "trained" in message and worker.client is not None:
                worker.note_trained(message["steps"])
            elif "beat" not in message:
                yield worker, message
        silent = time.monotonic() - self.machine.worker_timeout
        for worker in [w for w in self.workers if w.heard < silent and w.is_awaited]:
            yield worker, None

    def _busy(self) -> bool:
        return any(worker.clients for worker in self.workers)

    def _ask_to_stop(self) -> None:
        for worker in self.workers:
            worker.ask_to_stop()

    def _replace(self, worker: WorkerProcess) -> None:
        longest = self.machine.worker_timeout
        is_silent = time.monotonic() - worker.heard > longest
        self._end(worker, 1.0)
        if not worker.ready:
            raise RoundFailed(
                f"a worker process was not ready after {longest:g} s (photon.worker_timeout)"
                if is_silent
                else f"a worker process ended with code {worker.process.returncode} before it was "
                "ready; its message is above"
            )
        self._start()

    def _end(self, worker: WorkerProcess, seconds: float) -> None:
        self.workers.remove(worker)
        self.selector.unregister(worker.connection)
        worker.end(seconds)


def is_refused(writing: Future[Path]) -> bool:
    """Whether the disk has refused an update: then there is no use in training the next client."""
    return writing.done() and isinstance(writing.exception(), errors.StorageError)


def _arrived(client: int, writing: Future[Path]) -> Arrival:
    """What comes of a client that has been trained, once its update is durable.

    Raises:
        Exception: as `_failed`.
    """
    try:
        return load_update(writing.result())
    except Exception as error:
        return _failed(client, error)


def _failed(client: int, error: Exception) -> Failure:
    """A client's failure.

    Raises:
        Exception: the error itself, if it is not this client's alone.
    """
    if isinstance(error, OF_ALL):
        raise error
    return Failure(client, f"{type(error).__name__}: {error}", error)


def _failure(client: int, reply: dict | None, deaths: int, round_number: int) -> Exception | None:
    """Why a client has no update and is not tried again; None: it has one, or is.

    Args:
        reply: None from a worker that has died.
        deaths: of workers, by this client.
    """
    if reply is not None:
        return _error_of(reply) if "error" in reply else None
    if deaths < MAX_ATTEMPTS:
        return None
    return RoundFailed(
        f"round {round_number}: the worker training client {client} died {deaths} times; "
        "out of memory? Everything finished so far is kept: resume to try again"
    )


def _error_of(reply: dict) -> Exception:
    """A worker's error, of the same class where it is one of ours."""
    kind = getattr(errors, reply["error"], None)
    text = f"client {reply['client']}: {reply['message']}"
    if isinstance(kind, type) and issubclass(kind, PhotonError):
        return kind(text)
    return RuntimeError(f"{reply['error']} in a worker, {text}")
