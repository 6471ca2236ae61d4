"""Where the time of devices went, and what is done of a training, computed by hand."""

from __future__ import annotations

import pytest

from photon.simulation.ledger import Ledger
from photon.simulation.progress import Done, Task, steps_ahead, steps_left
from photon.wire.facts import InstructionFacts


def order(client: int = 0, steps: int = 10, number: int = 1, base: str = "b") -> InstructionFacts:
    return InstructionFacts(
        run="r", round=number, client=client, first_step=0, local_steps=steps, base_digest=base,
        last_accepted=0,
    )  # fmt: skip


def test_a_round_of_two_and_one_who_is_not_asked():
    """a: 1 s down, 2 s of training, 1 s up; b: 1, 6, 1; the server takes 2 s, then b alone."""
    book = Ledger(["a", "b", "c"])
    for name in "ab":
        book.turn(name, "download", 0.0, 1)
        book.turn(name, "train", 1.0)
    book.turn("a", "upload", 3.0)
    book.turn("a", "idle", 4.0)
    book.turn("b", "upload", 7.0)
    book.turn("b", "idle", 8.0)
    book.turn("b", "download", 10.0, 2)
    book.turn("b", "away", 11.0)
    book.tokens = 160
    found = book.report(12.0, 120)
    assert found["device_seconds"] == pytest.approx({
        "train": 2 + 6, "node": 0, "download": 1 + 1 + 1, "upload": 1 + 1,
        "slowest": 4, "server": 2 + 2, "away": 1,
        "not_asked": 2 + 12,  # a in the second round, c always
    })  # fmt: skip
    assert sum(found["device_seconds"].values()) == pytest.approx(3 * 12)
    assert found["utilization"] == pytest.approx(8 / 36)
    assert found["goodput"] == 0.75


def test_what_was_trained_ahead_was_no_waiting():
    book = Ledger(["a"])
    book.turn("a", "train", 0.0, 1)
    book.turn("a", "upload", 2.0)
    book.turn("a", "idle", 3.0)
    book.turn("a", "download", 5.0, 2)
    book.turn("a", "train", 6.0)
    book.trained_ahead("a", 3.0)
    found = book.report(8.0, 0)["device_seconds"]
    assert found["train"] == pytest.approx(2 + 3 + 2)
    assert found["upload"] == found["download"] == pytest.approx(0.25)
    assert sum(found.values()) == pytest.approx(8)


def test_what_a_break_leaves():
    """Two clients of ten steps, half a second each, saved every four; broken off after 8 s."""
    task = Task([order(0), order(1)], begun=2.0, pace=0.5, steps=[10, 10])
    assert task.end == 12.0
    assert task.steps_by(1.0) == 0
    assert task.seconds_of() == {0: 5.0, 1: 5.0}
    assert task.steps_by(10.0) == 16
    done = task.done_by(10.0, segment=4)
    assert done == {0: Done(1, "b", 10), 1: Done(1, "b", 4)}
    assert steps_left(order(1), done) == 6
    assert steps_left(order(0), done) == 0
    assert steps_left(order(1, number=2), done) == 10
    assert steps_left(order(1, base="c"), done) == 10


def test_steps_are_taken_ahead_as_far_as_there_is_time():
    class Ahead:
        ahead, local_steps = 4, 10

    orders = [Ahead(), Ahead()]

    def ahead(spare: float):
        return steps_ahead(orders, [10, 10], spare, 0.5)  # pyright: ignore[reportArgumentType]

    assert ahead(3.0) == ([4, 0], 0.0), "a node goes ahead with one client"
    assert ahead(1.0) == ([2, 0], 0.0)
    assert ahead(1.2) == ([3, 0], pytest.approx(0.3)), "and ends the step that is under way"
    assert ahead(0.0) == ([0, 0], 0.0)
    assert steps_ahead([order()], [10], 3.0, 0.5) == ([0], 0.0)
    for left in (0, 3):  # asked again: those steps are behind it
        assert steps_ahead(orders, [left, 10], 3.0, 0.5) == ([0, 0], 0.0)  # pyright: ignore[reportArgumentType]


def test_others_wait_for_a_node_that_is_asked_while_it_is_away():
    """It goes away idle, is asked for the next round after a second, and is back after 10."""
    ledger = Ledger(["a", "b"])
    for name in ("a", "b"):
        ledger.turn(name, "train", 0.0, asked_for=1)
    for name in ("a", "b"):
        ledger.turn(name, "idle", 5.0)
    ledger.turn("a", "away", 5.0)
    ledger.turn("b", "train", 6.0, asked_for=2)
    ledger.owe("a", 6.0)
    ledger.owe("a", 6.5)
    ledger.turn("b", "idle", 8.0)
    ledger.turn("a", "idle", 15.0)
    found = ledger.report(15.0, merged=5, under_way=10)["device_seconds"]
    assert (found["slowest"], found["server"], found["away"]) == (7.0, 1.0, 10.0)


def test_others_wait_for_a_node_that_goes_away_in_a_round():
    """It dies after 2 of its 5 seconds and is back after 10; the other has been done after 5."""
    ledger = Ledger(["a", "b"])
    for name in ("a", "b"):
        ledger.turn(name, "train", 0.0, asked_for=1)
    ledger.turn("a", "away", 2.0)
    ledger.turn("b", "idle", 5.0)
    ledger.turn("a", "idle", 12.0)
    found = ledger.report(12.0, merged=5, under_way=10)
    assert found["device_seconds"]["slowest"] == 7.0
    assert found["device_seconds"]["server"] == 0.0
    assert (found["goodput"], found["tokens_trained"]) == (0.5, 10)
