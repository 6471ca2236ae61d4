"""What engines of one machine do when the disk refuses an update, or a worker dies."""

from __future__ import annotations

import socket
from collections import Counter, deque
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from photon.errors import StorageError
from photon.machine import frames
from photon.node.course import Stopped
from photon.node.engine import InProcess, WorkerPool, _failure
from photon.node.worker import _Parent
from photon.node.worker_process import WorkerProcess


class Host:
    """Writes nothing: the disk refuses the first client's update while the second one trains."""

    def __init__(self) -> None:
        self.first: Future = Future()
        self.asked: list[bool] = []

    def train(self, instruction, received, should_stop, following):
        if instruction == 0:
            return self.first
        self.asked.append(should_stop())
        self.first.set_exception(StorageError("full"))
        self.asked.append(should_stop())
        raise Stopped

    def rest(self) -> None: ...


def test_a_refused_update_stops_the_next_client_between_two_steps():
    host: Any = Host()
    plan: Any = SimpleNamespace(instructions={0: 0, 1: 1, 2: 2})
    base: Any = SimpleNamespace(sent=SimpleNamespace(params={}, moments={}))
    waiting = deque([0, 1, 2])
    with pytest.raises(StorageError, match="full"):
        list(InProcess(host, 3).run_round(plan, base, waiting, lambda: False))
    assert host.asked == [False, True]
    assert list(waiting) == [2], "nobody else has begun"


def test_in_a_worker_too():
    """By its answer to the question that all processes of a team agree on."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parent, writing = _Parent(theirs), Future()
        writing.add_done_callback(lambda future: parent.tell_end(4, future))
        assert not parent()
        writing.set_exception(StorageError("full"))
        assert parent()
        assert frames.receive(ours) == {"client": 4, "error": "StorageError", "message": "full"}


def test_a_death_is_of_the_client_that_was_trained():
    """Whom the worker was only writing is tried again without it counting."""
    pool, worker = cast(Any, object.__new__(WorkerPool)), cast(Any, WorkerProcess)(None, None)
    pool._replies = lambda: iter([(worker, None)])
    pool._replace = lambda worker: None
    deaths: Counter[int] = Counter()
    worker.client, worker.writing = 2, {1, 5}
    assert list(pool._turns(deaths)) == [(1, None), (2, None), (5, None)]
    assert deaths == {2: 1}
    worker.client, worker.writing = None, {1}
    assert list(pool._turns(deaths)) == [(1, None)]
    assert deaths == {1: 1, 2: 1}
    assert _failure(1, None, 2, 1) is None
    assert "died 3 times" in str(_failure(1, None, 3, 1))
