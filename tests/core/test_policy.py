"""Deadlines and placement, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from photon.core.cohort import available, choose_cohort, choose_spares
from photon.core.gate import norm_fault
from photon.core.messages import RoundPlan, Update
from photon.core.policy import (
    Rules,
    asked,
    assign,
    averaged,
    closing,
    counted,
    is_out_of_reach,
    may_be_asked,
    oldest_taken,
    round_deadline,
    scale,
    steps_by_speed,
    weight,
)

REMOTE = Rules(quorum=2, can_be_late=True, timeout=1000.0, timeout_min=10.0)


def plan_of(*cohort: int, spares: tuple[int, ...] = (), number: int = 1) -> RoundPlan:
    return RoundPlan(round=number, cohort=cohort, instructions={}, base_digest="", spares=spares)


def seconds(durations: list[float], factor: float) -> float:
    return round_deadline(durations, replace(REMOTE, straggler_factor=factor))


def test_a_deadline_is_the_median_and_so_many_deviations():
    durations = [90.0, 100.0, 100.0, 110.0, 400.0]
    deviation = 1.4826 * 10  # of 10, 0, 0, 10, 300 the median is 10
    assert seconds(durations, 3) == pytest.approx(100 + 3 * deviation)


def test_equal_durations_leave_a_tenth_of_the_median():
    assert seconds([100.0] * 5, 2) == pytest.approx(120)


def test_a_deadline_keeps_its_bounds():
    assert seconds([1.0] * 5, 1) == 10
    assert seconds([900.0] * 5, 9) == 1000
    assert seconds([1.0, 1.0], 1) == 1000
    assert round_deadline([900.0] * 5, replace(REMOTE, timeout=5.0)) == 5


@pytest.mark.parametrize(
    ("arrived", "waited", "durations", "expected"),
    [
        ([], 1000.0, [10.0] * 3, "wait"),
        ([0], 1000.0, [10.0] * 3, "wait"),
        ([0], 1000.1, [10.0] * 3, "close"),
        ([0, 1], 15.0, [10.0] * 3, "wait"),
        ([0, 1], 15.1, [10.0] * 3, "close"),
        ([0, 1], 15.1, [10.0] * 2, "wait"),
        ([0, 1], 1000.1, [], "close"),
    ],
)
def test_a_round_closes_by_the_clock(arrived, waited, durations, expected):
    """Without a quorum after 1000 s; with one 10 + 5 x 10 / 10 s after it was opened."""
    here = dict.fromkeys(arrived, True)
    assert closing(plan_of(0, 1, 2), here, waited, durations, REMOTE) == expected
    refused = {**here, 2: False}
    assert closing(plan_of(0, 1, 2), refused, waited, durations, REMOTE) == expected
    on_one_machine = replace(REMOTE, can_be_late=False)
    assert closing(plan_of(0, 1, 2), here, waited, durations, on_one_machine) == "wait"


@pytest.mark.parametrize("can_be_late", [False, True])
def test_a_round_closes_when_as_many_sound_updates_are_here_as_it_has_members(can_be_late):
    rules, plan = replace(REMOTE, can_be_late=can_be_late), plan_of(0, 1, 2, 3, 4, spares=(3, 1))
    for full in ({0, 2, 4}, {0, 1, 2, 3, 4}, {1, 3, 4}):
        assert closing(plan, dict.fromkeys(full, True), 0.0, [], rules) == "close"
        assert closing(plan, {**dict.fromkeys(full, True), 4: False}, 0.0, [], rules) == (
            "close" if len(full) == 5 else "wait"
        )
    for few in ({0, 2}, {1, 3}, set[int]()):
        assert closing(plan, dict.fromkeys(few, True), 0.0, [], rules) == "wait"
    assert closing(plan_of(0), {0: True}, 0.0, [], rules) == "wait", "the engine sees that itself"


def test_spares_are_asked_at_once_only_where_somebody_can_be_late():
    plan, lost = plan_of(0, 1, 2, 3, 4, spares=(3, 1)), ([], [4], [4, 3], [4, 3, 1], [4, 3, 1, 0])
    assert [asked(plan, one, REMOTE) for one in lost] == [(0, 2, 4, 3, 1)] * 5
    here = Rules(quorum=3)
    assert [asked(plan, one, here)[3:] for one in lost] == [(), (3,), (3, 1), (3, 1), (3, 1)]
    assert all(asked(plan, one, here)[:3] == (0, 2, 4) for one in lost)


def test_a_client_that_owes_an_update_is_asked_only_for_the_quorum():
    assert may_be_asked([3, 2, 1, 0], [0], [3], quorum=2) == [1, 2]
    assert may_be_asked([3, 2, 1, 0], [0], [3], quorum=3) == [1, 2, 3]
    assert may_be_asked([1, 0], [0, 7], [9], quorum=3) == [1]


def test_a_quorum_is_out_of_reach_when_too_many_have_failed():
    plan, rules = plan_of(0, 1, 2, 3, spares=(3,)), Rules(quorum=3)
    assert [is_out_of_reach(plan, lost, rules) for lost in ([], [1], [1, 3])] == [
        False,
        False,
        True,
    ]


def test_a_late_update_weighs_less_and_is_taken_for_so_many_rounds():
    rules, plan = Rules(quorum=1, staleness_exponent=0.5, max_staleness=2), plan_of(0, number=9)
    late = [cast(Update, SimpleNamespace(round=number, num_tokens=30)) for number in (9, 8, 6)]
    assert [weight(u, plan, rules) for u in late] == pytest.approx([30, 30 / 2**0.5, 15])
    assert [weight(u, plan, Rules(quorum=1)) for u in late] == [30, 30, 30]
    assert (oldest_taken(9, rules), oldest_taken(9, Rules(quorum=1, max_staleness=2))) == (7, 9)
    assert [scale(9, Rules(quorum=1, scaling=s)) for s in ("none", "sqrt", "linear")] == [1, 3, 9]


def test_a_late_update_takes_nobodys_place():
    plan = plan_of(0, 1, 2, spares=(1,), number=2)
    sound = {c: cast(Update, SimpleNamespace(round=2)) for c in (0, 1, 2)}
    late = {7: cast(Update, SimpleNamespace(round=1))}
    assert list(averaged(plan, {**sound, **late})) == [0, 2, 7]
    assert list(averaged(plan_of(0, number=2), {**sound, **late})) == [0, 1, 2, 7]


def test_clients_spread_over_the_nodes_that_have_their_data():
    hosts = {"a": [0, 1, 2, 3], "b": [2, 3], "c": [9]}
    assert assign([0, 1, 2, 3], hosts, [], {}) == {"a": [0, 1], "b": [2, 3]}
    assert assign([0, 2, 4], hosts, [], {}) == {"a": [0], "b": [2]}


def test_a_client_rather_waits_for_a_node_that_it_has_not_tried():
    hosts = {"a": [1], "b": [1]}
    assert assign([1], hosts, ["a"], {}) == {"b": [1]}
    assert assign([1], hosts, ["a"], {1: ["b"]}) == {}
    assert assign([1], hosts, [], {1: ["b"]}) == {"a": [1]}
    assert assign([1], hosts, ["a"], {1: ["a", "b"]}) == {"b": [1]}


def test_a_norm_is_judged_by_the_median():
    norms = [1.0, 1.1, 0.9, 50.0]
    assert norm_fault(20.0, norms, 20.0) is None
    assert norm_fault(50.0, norms, 20.0) == "norm 50 is more than 20 times the median 1.05"
    assert norm_fault(50.0, norms, None) is None
    assert norm_fault(50.0, [1.0, 50.0], 20.0) is None


def test_who_is_slower_than_the_median_takes_fewer_steps():
    speeds = {0: 100.0, 1: 50.0, 2: 200.0, 3: 1.0}
    steps = steps_by_speed(16, [0, 1, 2, 3, 4], speeds)
    assert steps == {0: 16, 1: 16, 2: 16, 3: 1, 4: 16}
    assert steps_by_speed(16, [0, 1, 2], {0: 90.0, 1: 45.0, 2: 120.0}) == {0: 16, 1: 8, 2: 16}
    assert steps_by_speed(16, [7, 8], {}) == {7: 16, 8: 16}


@pytest.mark.parametrize("said", [5e-324, 1e-9, 1e18])
def test_no_client_takes_steps_from_another_by_what_it_says_of_its_speed(said):
    assert steps_by_speed(16, [0, 1], {0: 100.0, 1: said})[0] == 16
    honest = {0: 100.0, 1: 90.0, 2: 80.0}
    steps = steps_by_speed(16, [0, 1, 2, 3], {**honest, 3: said})
    assert min(steps[client] for client in honest) >= round(16 * 0.8)


def test_cohorts_by_size_fall_on_clients_in_proportion():
    sizes = {0: 1.0, 1: 3.0, 2: 6.0}
    drawn = [choose_cohort(7, number, [0, 1, 2], 1, sizes)[0] for number in range(1, 3001)]
    shares = np.bincount(drawn, minlength=3) / 3000
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.6], atol=0.03)


def test_clients_are_there_as_often_as_was_said():
    here = [available(7, number, range(10), 0.3) for number in range(1, 1001)]
    assert sum(map(len, here)) / 10_000 == pytest.approx(0.3, abs=0.02)
    assert min(map(len, here)) == 1, "a round is never without anybody"
    assert available(7, 1, [1, 5], 1.0) == [1, 5]
    assert here[3] == available(7, 4, range(10), 0.3), "an address, not a sequence"


def test_who_is_there_alone_is_who_would_be_there_first():
    alone = [available(7, number, range(4), 0.0) for number in range(1, 401)]
    for number, here in enumerate(alone, start=1):
        assert all(here[0] in available(7, number, range(4), p) for p in (0.1, 0.5, 0.9))
    shares = np.bincount([here[0] for here in alone], minlength=4) / 400
    np.testing.assert_allclose(shares, 0.25, atol=0.07)


def test_a_spare_counts_in_the_place_of_one_that_is_missing():
    plan = plan_of(0, 1, 2, 3, 4, spares=(3, 1))
    assert plan.members == (0, 2, 4)
    assert counted(plan, {0, 1, 2, 3, 4}) == [0, 2, 4]
    assert counted(plan, {0, 1, 3, 4}) == [0, 4, 3], "the spare that was drawn first"
    assert counted(plan, {1, 3, 4}) == [4, 3, 1]
    assert counted(plan, {1, 4}) == [4, 1]


def test_spares_are_drawn_from_the_others_and_change_no_cohort():
    drawn = []
    for number in range(1, 2001):
        cohort = choose_cohort(7, number, range(5), 2)
        others = [client for client in range(5) if client not in cohort]
        spares = choose_spares(7, number, others, 2)
        assert len({*cohort, *spares}) == 4
        assert choose_spares(7, number, others, 2) == spares
        drawn.append(spares[0])
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 2000, 0.2, atol=0.03)
    assert choose_spares(7, 1, [], 2) == ()
    assert sorted(choose_spares(7, 1, [4, 2], 9)) == [2, 4]
    sizes = {2: 1.0, 3: 9.0}
    heavy = [choose_spares(7, n, [2, 3], 1, sizes)[0] for n in range(1, 2001)]
    assert heavy.count(3) / 2000 == pytest.approx(0.9, abs=0.03)
