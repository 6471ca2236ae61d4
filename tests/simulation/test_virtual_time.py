"""Virtual time and virtual links, against closed forms."""

from __future__ import annotations

import math

import pytest

from photon.simulation.links import Link
from photon.simulation.timeline import Timeline
from photon.simulation.transfer import RETRANSMIT_SECONDS, Lane, Road


def road(rate: float = math.inf, shared: Lane | None = None, seed: int = 0, **link: float) -> Road:
    lanes = (Lane(rate),) if shared is None else (shared, Lane(rate))
    return Road(lanes, (Link(), Link(**link)), (seed, "down", 0))


def test_a_message_takes_its_bytes_and_the_latency():
    assert road(2e6, latency=0.05).arrival(10.0, 1_000_000) == pytest.approx(10.0 + 0.5 + 0.05)
    assert road(latency=0.05).arrival(10.0, 1_000_000) == pytest.approx(10.05)


def test_messages_share_a_lane_and_the_latency_is_no_part_of_it():
    way = road(1e6, latency=0.1)
    found = [way.arrival(0.0, 500_000), way.arrival(0.0, 500_000), way.arrival(5.0, 500_000)]
    assert found == pytest.approx([0.6, 1.1, 5.6])


def test_two_nodes_share_the_server_s_link():
    """Each alone would have its bytes after half a second."""
    server = Lane(2e6)
    a, b = road(4e6, server), road(4e6, server)
    assert [a.arrival(0.0, 1_000_000), b.arrival(0.0, 1_000_000)] == pytest.approx([0.5, 1.0])


def test_loss_is_seeded_and_holds_back_a_retransmission():
    def arrivals(seed: int) -> list[float]:
        way = road(seed=seed, loss=0.3)
        return [round(way.arrival(float(at), 1000) - at, 9) for at in range(1000)]

    found = arrivals(0)
    assert found == arrivals(0)
    assert found != arrivals(1)
    assert set(found) == {0.0, RETRANSMIT_SECONDS}
    assert sum(map(bool, found)) == pytest.approx(300, abs=50)  # 3.4 sigma


def test_the_piece_that_comes_last_decides():
    """Of many pieces some are lost for certain, and come while the others pass: at the end the
    message is later by one retransmission at most."""
    pieces, rate = 400, 65_536 / 0.01
    whole = pieces * 0.01
    late = road(rate, loss=0.9).arrival(0.0, pieces * 65_536) - whole
    assert 0.15 < late <= RETRANSMIT_SECONDS + 1e-9
    early = road(rate, loss=0.01).arrival(0.0, pieces * 65_536) - whole
    assert early < late


def test_messages_come_in_the_order_in_which_they_were_sent():
    way = road(jitter=1.0)
    found = [way.arrival(at / 100, 10) for at in range(200)]
    assert found == sorted(found)
    assert all(0 <= when - at / 100 <= 1.0 for at, when in enumerate(found))
    assert max(when - at / 100 for at, when in enumerate(found)) > 0.5


def test_the_clock_goes_from_event_to_event_and_never_back():
    timeline: Timeline[str] = Timeline()
    seen: list[tuple[str, float]] = []

    def event(name: str, gives: bool = False):
        def happen() -> str | None:
            seen.append((name, timeline()))
            return name if gives else None

        return happen

    timeline.at(3.0, event("c", gives=True))
    timeline.at(1.0, event("a"))
    timeline.at(1.0, event("b"))
    timeline.at(9.0, event("d"))
    assert timeline.until(0.5) is None
    assert timeline() == 0.5
    assert timeline.until(5.0) == "c"
    timeline.advance(4.0)
    timeline.at(2.0, event("late"))
    assert timeline.until(8.0) is None
    assert timeline() == 8.0
    assert timeline.until(7.0) is None
    assert timeline() == 8.0, "what was asked for lies in the past"
    assert timeline.until(9.0) is None
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 3.0), ("late", 7.0), ("d", 9.0)]


def test_a_real_clock_stands_still_while_it_is_stopped(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("photon.simulation.timeline.time.monotonic", lambda: now[0])
    timeline: Timeline[str] = Timeline(is_real=True)
    now[0] += 2
    assert timeline() == 2.0
    timeline.stop()
    now[0] += 50
    assert timeline.until(3.0) is None
    assert timeline() == 3.0
    timeline.go_on()
    now[0] += 1
    assert timeline() == 4.0
