"""What a loop knows of an open round, from what engines yield."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from photon.core.gate import GRADIENT, Verdict
from photon.core.messages import Failure, RoundPlan, ServerState, Update
from photon.core.policy import GRACE, Merging, Rules
from photon.server import delivery
from photon.server.delivery import Delivery


def opened(*spares: int, can_be_late: bool = False) -> Delivery:
    plan = RoundPlan(round=3, cohort=(0, 1, 2, 3), instructions={}, base_digest="",
                     bases={2: "earlier"}, spares=spares)  # fmt: skip
    state = ServerState(round=2, step=0, params={}, outer={})
    return Delivery(plan, state, Rules(quorum=1, can_be_late=can_be_late))


def update(client: int, number: int = 3) -> Update:
    one = SimpleNamespace(client=client, clients=(client,), round=number, num_steps=1)
    return cast(Update, one)


@pytest.fixture(autouse=True)
def unsound(monkeypatch) -> set[int]:
    """Clients whose update is to be refused for itself."""
    found: set[int] = set()

    def judge(one: Update, *_: Any) -> Verdict:
        return Verdict("refused" if one.client in found else None, {GRADIENT: 1.0})

    monkeypatch.setattr(delivery, "examined", judge)
    return found


def test_what_is_late_for_an_earlier_round_does_not_arrive_in_this_one():
    this = opened()
    for one in (update(3, number=2), update(0)):
        this.take(one)
    assert (this.arrived, [one.client for one in this.updates]) == ({0: True}, [3, 0])
    assert this.missing == {1: "late", 2: "late", 3: "late"}


def test_who_arrives_after_a_failure_is_not_missing():
    this = opened()
    for one in (Failure(1, "node a: no"), Failure(2, "node b: no"), update(1)):
        this.take(one)
    assert this.missing == {0: "late", 2: "node b: no", 3: "late"}


def test_whoever_stands_in_is_asked_when_another_is_lost(unsound):
    """By a failure, and by an update that is refused; each of them once."""
    this = opened(3, 1)
    assert list(this.waiting) == this.asked == [0, 2]
    unsound.add(2)
    this.take(update(0))
    assert this.asked == [0, 2]
    this.take(update(2))
    assert this.asked == [0, 2, 3]
    for _ in range(2):
        this.take(Failure(3, "no"))
        assert list(this.waiting) == this.asked == [0, 2, 3, 1]
    assert not this.is_over([])
    this.take(update(1))
    assert this.is_over([])


class Counted(int):
    """A client that counts how often any is compared with another."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_what_an_arrival_takes_is_in_proportion_to_the_cohort():
    """Not to its square: a round of 2,000 clients would take minutes of it."""
    clients = tuple(Counted(number) for number in range(100))
    plan = RoundPlan(round=3, cohort=clients, instructions={}, base_digest="")
    this = Delivery(plan, ServerState(round=2, step=0, params={}, outer={}), Rules(quorum=1))
    for client in clients:
        this.take(update(client))
    assert len(this.came) == len(this.asked) == 100
    assert Counted.compared < 100**2


def test_verdicts_are_in_the_order_in_which_updates_came(unsound):
    this = opened()
    unsound.add(2)
    for client in (2, 0, 3):
        this.take(update(client))
    assert [verdict.reason for verdict in this.verdicts] == ["refused", None, None]


def test_over_the_network_all_are_asked_at_once():
    this = opened(3, 1, can_be_late=True)
    this.take(Failure(0, "no"))
    assert list(this.waiting) == this.asked == [0, 2, 3, 1]


def test_each_update_that_a_client_may_send_is_noted_before_it_is_asked_for():
    """By clients of whom each is tried again on its own; one that no engine tries again is not."""
    noted: list[int] = []
    plan = RoundPlan(round=3, cohort=(0, 1, 2), instructions={}, base_digest="")
    state, rules = ServerState(round=2, step=0, params={}, outer={}), Rules(quorum=1)
    this = Delivery(plan, state, rules, asking=lambda: noted.append(3))
    assert len(noted) == 1
    this.waiting.clear()
    for client, tried_again, times in (
        (0, True, 2), (1, True, 2), (1, True, 3), (0, True, 3), (2, False, 3), (0, False, 3),
    ):  # fmt: skip
        this.waiting += [client] if tried_again else []
        this.take(Failure(client, "node a: is gone"))
        this.waiting.clear()
        assert len(noted) == times


def test_an_update_that_will_be_refused_makes_no_quorum(unsound):
    """Else the round would end without one where another client is only late."""
    now = [0.0]
    plan = RoundPlan(round=1, cohort=(0, 1, 2), instructions={}, base_digest="")
    rules = Rules(quorum=2, can_be_late=True, timeout=1000.0)
    state = ServerState(round=0, step=0, params={}, outer={})
    this = Delivery(plan, state, rules, clock=lambda: now[0])
    unsound.add(1)
    for client in (0, 1):
        this.take(update(client))
    assert [verdict.reason for verdict in this.verdicts] == [None, "refused"]
    now[0] = 900.0
    assert not this.is_over([10.0] * 3), "the deadline of stragglers is for a quorum"
    this.take(update(2))
    assert this.arrived == {0: True, 1: False, 2: True}
    assert this.is_over([10.0] * 3)


MERGING = Merging(buffer=2, cohort=4, step_tokens=40, local_steps=1)


def merge_of(*clients: int, can_be_late: bool = True) -> Delivery:
    plan = RoundPlan(round=3, cohort=clients, instructions={}, base_digest="",
                     bases={1: "first", 2: "earlier"})  # fmt: skip
    state = ServerState(round=2, step=0, params={}, outer={})
    rules = Rules(quorum=1, can_be_late=can_be_late, timeout=9.0, max_norm_ratio=None,
                  staleness_exponent=0.5, merging=MERGING)  # fmt: skip
    return Delivery(plan, state, rules)


def test_a_merge_counts_late_updates_and_none_that_will_be_refused(unsound):
    now = [100.0]
    this = merge_of(0, 1)
    this.clock, this._begun = lambda: now[0], now[0]
    unsound.add(0)
    this.take(update(0))
    now[0] += 9.0
    assert not this.is_over([10.0]), "nothing has come that counts"
    this.take(update(3, number=1))
    assert (this.sound, this.is_complete) == (1, False)
    assert not this.is_over([10.0])
    now[0] += 10 * GRACE + 0.01
    assert this.is_over([10.0]), "that part of a duration after the first"
    assert not this.is_over([20.0])
    this.take(update(2, number=2))
    assert this.is_over([20.0])
    assert this.is_complete


def test_a_merge_to_which_nobody_comes_has_an_end():
    now = [100.0]
    this = merge_of()
    this.clock, this._begun = lambda: now[0], now[0]
    now[0] += 9.0
    assert not this.is_over([])
    now[0] += 0.01
    assert this.is_over([])


def test_who_trains_on_for_a_later_merge_is_not_missing():
    this = merge_of(0, 1, 2)
    this.take(Failure(1, "no"))
    this.take(update(0))
    assert this.missing == {1: "no"}
