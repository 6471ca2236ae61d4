"""How often Flower's loops ask for work."""

from __future__ import annotations

import pytest

from clocks import Clock
from photon.flower import patience
from photon.flower.patience import PART, SHORTEST, Patience


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Clock:
    watch = Clock()
    monkeypatch.setattr(patience, "time", watch)
    return watch


def test_that_a_pause_is_a_part_of_the_time_since_something_happened(watch: Clock) -> None:
    clock = Patience()
    for waited in (0.0, 2.0, 10.0):
        watch.now = 100.0 + waited
        clock.sleep(3.0)
    assert watch.slept == [SHORTEST, pytest.approx(2.0 * PART), pytest.approx(10.0 * PART)]


def test_that_no_pause_is_longer_than_flowers_own(watch: Clock) -> None:
    clock = Patience()
    watch.now += 3600.0
    clock.sleep(3.0)
    clock.sleep(0.01)
    assert watch.slept == [3.0, 0.01]


def test_that_pauses_are_short_again_after_something_has_happened(watch: Clock) -> None:
    clock = Patience()
    watch.now += 3600.0
    clock.something_happened()
    clock.sleep(3.0)
    assert watch.slept == [SHORTEST]


@pytest.mark.parametrize("after", [0.7, 5.0, 100.0])
def test_that_what_comes_is_noticed_a_tenth_later_at_the_most(watch: Clock, after: float) -> None:
    clock = Patience()
    while watch.now < 100.0 + after:
        clock.sleep(3600.0)
    assert watch.now - 100.0 - after <= PART * after + 1e-9
