"""The end of a process group."""

from __future__ import annotations

import sys
import threading

import pytest
from torch import distributed

from photon.machine.process_group import process_group


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, answer in {"get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(distributed, name, lambda answer=answer: answer)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(distributed, name, lambda *_, **__: None)


@pytest.fixture
def no_turns():
    """A thread keeps the interpreter's lock until it waits for something."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


def test_threads_that_wait_for_the_lock_get_it_before_the_interpreter_ends(one_of_two, no_turns):
    """Gloo's threads, which give tensors back: the process would abort with its work done."""
    done, gave_back = threading.Event(), []
    thread = threading.Thread(target=lambda: gave_back.append(done.wait(30)))
    with process_group("cpu") as (world, _):
        thread.start()
        done.set()
    assert gave_back == [True]
    thread.join()
    assert (world.rank, world.size) == (1, 2)
