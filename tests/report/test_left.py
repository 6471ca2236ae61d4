"""How long a run will take still, from its records."""

from __future__ import annotations

from photon.run.listing import seconds_to_go


def record(number: int, **phases: float) -> dict:
    return {"round": number, "rounds": 5, "phase_seconds": phases}


def test_that_the_first_wait_for_nodes_is_not_expected_again():
    first = record(1, wait=55.0, train=2.0, commit=0.5)
    assert seconds_to_go([first]) == 4 * 2.5


def test_that_later_waits_are():
    assert seconds_to_go([record(2, wait=6.0, train=2.0), record(3, wait=6.0, train=2.0)]) == 2 * 8
