"""Deadlines and placement, worked out by hand."""

from __future__ import annotations

import pytest

from photon.core.gate import norm_fault
from photon.core.policy import assign, round_deadline

BOUNDS = {"shortest": 10.0, "longest": 1000.0}


def test_a_deadline_is_the_median_and_so_many_deviations():
    durations = [90.0, 100.0, 100.0, 110.0, 400.0]
    deviation = 1.4826 * 10  # of 10, 0, 0, 10, 300 the median is 10
    assert round_deadline(durations, factor=3, **BOUNDS) == pytest.approx(100 + 3 * deviation)


def test_equal_durations_leave_a_tenth_of_the_median():
    assert round_deadline([100.0] * 5, factor=2, **BOUNDS) == pytest.approx(120)


def test_a_deadline_keeps_its_bounds():
    assert round_deadline([1.0] * 5, factor=1, **BOUNDS) == 10
    assert round_deadline([900.0] * 5, factor=9, **BOUNDS) == 1000
    assert round_deadline([1.0, 1.0], factor=1, **BOUNDS) == 1000


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
