"""What is done behind a caller: in order, in so many places, and before it is closed."""

from __future__ import annotations

import threading

import pytest

from photon.machine import write_behind
from photon.machine.write_behind import WriteBehind

SOON = 0.05
"""Seconds in which what should wait would have happened."""
LONG = 60.0


@pytest.fixture
def behind(monkeypatch):
    monkeypatch.setattr(write_behind, "HELD_SECONDS", LONG)
    made = WriteBehind(2)
    yield made
    made.close()


def begun(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_in_order_and_in_another_thread(behind):
    done, hold = [], threading.Event()
    futures = []
    for number in range(2):
        behind.enter()
        futures.append(behind.submit(
            lambda n: (hold.wait(LONG), done.append((n, threading.get_ident())))[1], number
        ))  # fmt: skip
    assert not done
    hold.set()
    for future in futures:
        future.result(LONG)
    assert [number for number, _ in done] == [0, 1]
    assert {ident for _, ident in done}.isdisjoint({threading.get_ident()})


def test_a_third_waits_for_a_place(behind):
    hold = threading.Event()
    for _ in range(2):
        behind.enter()
        behind.submit(hold.wait, LONG)
    third = begun(behind.enter)
    third.join(SOON)
    assert third.is_alive()
    hold.set()
    third.join(LONG)
    assert not third.is_alive()
    behind.leave()


def test_a_place_that_nothing_comes_to_and_one_whose_work_failed_are_free_again(behind):
    for _ in range(5):
        behind.enter()
        behind.leave()
    for _ in range(5):
        behind.enter()
        failed = behind.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(LONG)


def test_nothing_begins_between_hold_and_go(behind):
    behind.enter()
    behind.hold()
    future = behind.submit(lambda: "done")
    with pytest.raises(TimeoutError):
        future.result(SOON)
    behind.go()
    assert future.result(LONG) == "done"


@pytest.mark.parametrize("ends", ["enter", "close"])
def test_whoever_waits_for_it_lets_it_go(behind, ends):
    behind.enter()
    behind.hold()
    future = behind.submit(lambda: "done")
    getattr(behind, ends)()
    assert future.result(LONG) == "done"
    if ends == "enter":
        behind.leave()


def test_what_is_held_begins_after_a_while(monkeypatch):
    monkeypatch.setattr(write_behind, "HELD_SECONDS", 0.001)
    behind = WriteBehind(1)
    behind.enter()
    behind.hold()
    assert behind.submit(lambda: "done").result(LONG) == "done"
    behind.close()


def test_close_waits(behind):
    done = []
    behind.enter()
    hold = threading.Event()
    behind.submit(lambda: (hold.wait(LONG), done.append(1)))
    closing = begun(behind.close)
    closing.join(SOON)
    assert closing.is_alive()
    hold.set()
    closing.join(LONG)
    assert done == [1]
