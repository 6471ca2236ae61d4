"""Virtual time and virtual links, against closed forms."""

from __future__ import annotations

import math
import random

import pytest

from photon.server.link import Answer
from photon.simulation.ledger import Ledger
from photon.simulation.link import VirtualLink
from photon.simulation.links import Link, Links
from photon.simulation.timeline import Timeline
from photon.simulation.transfer import RETRANSMIT_SECONDS, Junction, Road, fair_shares


class Network:
    """Ways that share a server's link, and when what is sent on them arrives."""

    def __init__(self, server: float = math.inf) -> None:
        self.timeline: Timeline[None] = Timeline()
        self.junction = Junction(server, self.timeline)
        self.arrived: dict[int, float] = {}
        self._sent = 0

    def road(self, rate: float = math.inf, seed: int = 0, **link: float) -> Road:
        return Road(self.junction, rate, (Link(), Link(**link)), (seed, "down", 0))

    def send(self, road: Road, size: int, at: float = 0.0) -> None:
        number = self._sent
        self._sent += 1
        arriving = lambda: self.arrived.update({number: self.timeline()})  # noqa: E731
        self.timeline.at(at, lambda: road.send(size, arriving))

    def arrivals(self) -> list[float]:
        """Of the messages in the order in which they were sent."""
        self.timeline.until(1e9)
        return [self.arrived[number] for number in range(self._sent)]


def arrivals(*sent: tuple[float, int], seed: int = 0, rate: float = math.inf, **link: float):
    """Of messages (when, bytes) on one way."""
    network = Network()
    road = network.road(rate, seed, **link)
    for at, size in sent:
        network.send(road, size, at)
    return network.arrivals()


def test_a_message_takes_its_bytes_and_the_latency():
    assert arrivals((10.0, 1_000_000), rate=2e6, latency=0.05) == pytest.approx([10.55])
    assert arrivals((10.0, 1_000_000), latency=0.05) == pytest.approx([10.05])


def test_messages_share_a_way_one_after_the_other_and_the_latency_is_no_part_of_it():
    sent = (0.0, 500_000), (0.0, 500_000), (5.0, 500_000)
    assert arrivals(*sent, rate=1e6, latency=0.1) == pytest.approx([0.6, 1.1, 5.6])


def test_two_nodes_share_the_server_s_link_fairly():
    """Each alone would have its bytes after half a second; one that is through leaves the rest."""
    network = Network(2e6)
    a, b = network.road(4e6), network.road(4e6)
    network.send(a, 1_000_000)
    network.send(b, 500_000)
    assert network.arrivals() == pytest.approx([0.75, 0.5])


def test_who_comes_later_takes_its_part_from_then_on():
    """a: half a second alone, then half of the link; b: until a is through."""
    network = Network(2e6)
    a, b = network.road(), network.road()
    network.send(a, 2_000_000)
    network.send(b, 2_000_000, at=0.5)
    assert network.arrivals() == pytest.approx([1.5, 2.0])


def test_what_a_slow_node_leaves_of_the_server_s_link_the_others_have():
    network = Network(3e6)
    slow, quick = network.road(0.5e6), network.road()
    network.send(slow, 1_000_000)
    network.send(quick, 2_500_000)
    assert network.arrivals() == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_max_min_fair(seed):
    """All of the rate is given; who has less than another has its most."""
    draw = random.Random(seed)
    most = [draw.choice([draw.uniform(0.1, 5.0), math.inf]) for _ in range(draw.randint(1, 9))]
    rate = draw.uniform(0.5, 20.0)
    found = fair_shares(rate, most)
    assert sum(found) == pytest.approx(min(rate, sum(most)))
    assert all(own <= limit for own, limit in zip(found, most, strict=True))
    assert all(
        own == limit or own == pytest.approx(max(found))
        for own, limit in zip(found, most, strict=True)
    )


def test_bytes_of_many_messages_all_pass_and_no_sooner_than_the_link_lets_them():
    draw, network = random.Random(0), Network(1e6)
    roads = [network.road(draw.uniform(0.05e6, 2e6)) for _ in range(20)]
    sizes = [draw.randint(1, 100_000) for _ in range(400)]
    for size in sizes:
        network.send(draw.choice(roads), size, at=draw.uniform(0, 5))
    found = network.arrivals()
    assert max(found) >= sum(sizes) / 1e6
    assert max(found) < sum(sizes) / 1e6 + 5 + 2


def test_loss_is_seeded_and_holds_back_a_retransmission():
    def late(seed: int) -> list[float]:
        sent = [(float(at), 1000) for at in range(1000)]
        return [
            round(c - a, 9)
            for c, (a, _) in zip(arrivals(*sent, seed=seed, loss=0.3), sent, strict=True)
        ]

    found = late(0)
    assert found == late(0)
    assert found != late(1)
    assert set(found) == {0.0, RETRANSMIT_SECONDS}
    assert sum(map(bool, found)) == pytest.approx(300, abs=50)  # 3.4 sigma


def test_the_piece_that_comes_last_decides():
    """Of many pieces some are lost for certain, and come while the others pass: at the end the
    message is later by one retransmission at most."""
    pieces, rate = 400, 65_536 / 0.01
    late, early = (
        arrivals((0.0, pieces * 65_536), rate=rate, loss=loss)[0] - pieces * 0.01
        for loss in (0.9, 0.01)
    )
    assert 0.15 < late <= RETRANSMIT_SECONDS + 1e-9
    assert early < late


def test_messages_come_in_the_order_in_which_they_were_sent():
    found = arrivals(*((at / 100, 10) for at in range(200)), jitter=1.0)
    assert found == sorted(found)
    assert all(-1e-9 <= when - at / 100 <= 1.0 for at, when in enumerate(found))
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


def test_a_long_silence_is_looked_at_a_few_times_and_what_ends_it_is_not_missed():
    """A node that was away for 1e5 seconds took half a million looks, a minute of real time; one
    that is back is seen at that moment, and an answer comes at its own.
    """
    timeline: Timeline[Answer] = Timeline()
    links = Links.model_validate({"groups": [{"clients": 0}]})
    link = VirtualLink(links, [], None, timeline, Ledger([]), seed=0, segment=1, tokens=1)
    timeline.at(9e4, lambda: None)
    timeline.at(1e5, lambda: ("1", None))
    looks: list[float] = []
    while not (answers := list(link.answers(0.2))):
        looks.append(timeline.now)
    assert answers == [("1", None)]
    assert looks[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert 9e4 in looks
    assert len(looks) < 10_000
    timeline.at(1e5 + 0.3, lambda: ("2", None))
    assert not list(link.answers(0.2)), "after an answer it is looked at as often as ever"
    assert list(link.answers(0.2)) == [("2", None)]
