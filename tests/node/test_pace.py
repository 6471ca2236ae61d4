"""A step that takes at least so long: each one, whoever divides the round, without other bits."""

from __future__ import annotations

import pytest

import photon
from clocks import Clock
from loopback import final_digest
from photon.node import pace
from photon.node.pace import Pace


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_what_a_step_leaves_of_its_time_is_slept(clock):
    walk = Pace(2.0, lambda: False)
    for computed in (0.5, 1.75, 3.0):
        assert walk() is False
        clock.now += computed
    walk.end_step()
    walk.end_step()
    assert clock.slept == [1.5, 0.25]


def test_a_stop_is_not_slept_upon(clock):
    answers = iter([False, True])
    walk = Pace(2.0, lambda: next(answers))
    assert [walk(), walk()] == [False, True]
    walk.end_step()
    assert clock.slept == [2.0]


@pytest.mark.parametrize("segment", [1, 2, 3])
def test_every_step_of_a_run_is_paced_and_no_bit_differs(smoke, clock, segment):
    keys = (f"llm_config.save_interval={segment}", "fl.eval_period=null")
    plain = photon.train(smoke("run_uuid=plain", *keys))
    assert clock.slept == []
    slow = photon.train(smoke("run_uuid=slow", "photon.step_seconds=50", *keys))
    assert len(clock.slept) == 2 * 2 * 3, "rounds, clients, steps"
    assert clock.slept == [50.0] * 12
    assert final_digest(slow) == final_digest(plain)
