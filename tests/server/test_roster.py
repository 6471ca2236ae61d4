"""Who is greeted, who may take part, and who is turned away, by a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clocks import Clock
from photon.node.service import versions
from photon.server.link import Answer, Link
from photon.server.roster import HELLO_SECONDS, NAME_SECONDS, Roster
from photon.wire.buffers import Buffers
from photon.wire.enrolment import Register
from photon.wire.messages import (
    PROTOCOL,
    Hello,
    Introduction,
    TurnedAway,
    pack_reply,
    unpack_request,
)


class Addresses(Link):
    """A link that a test answers for.

    Attributes:
        sent: address and message of each request, by id.
        heard: what was sent to an address, in words.
    """

    def __init__(self, *present: str) -> None:
        self.present = list(present)
        self.sent: dict[str, tuple[str, Buffers]] = {}

    def addresses(self) -> list[str]:
        return self.present

    def send(self, address: str, message: Buffers) -> str:
        self.sent[name := str(len(self.sent))] = address, message
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        yield from ()

    def close(self) -> None:
        """Nothing to end."""

    def heard(self, address: str) -> list[str]:
        said = [unpack_request(message) for to, message in self.sent.values() if to == address]
        return [one.reason if isinstance(one, TurnedAway) else one.kind for one in said]

    def greetings(self, address: str) -> list[str]:
        """Ids of those that an address has been sent."""
        return [n for n, (to, m) in self.sent.items()
                if to == address and isinstance(unpack_request(m), Hello)]  # fmt: skip


class Greeter:
    """A roster, and what its nodes answer."""

    def __init__(self, *present: str) -> None:
        self.link, self.clock, self.lines = Addresses(*present), Clock(), list[str]()
        register = Register(None)
        self.roster = Roster(self.link, register, self.lines.append, self.clock.monotonic)
        self.roster.refresh()

    def wait(self, seconds: float = HELLO_SECONDS + 1) -> None:
        self.clock.sleep(seconds)
        self.roster.refresh()

    def answer(self, request: str, name: str = "a") -> None:
        said = Introduction(name=name, clients=[0], versions=versions(), protocol=PROTOCOL)
        self.roster.take(request, pack_reply(self.link.sent[request][1], name, said, None))

    def answer_all(self, address: str, name: str = "a") -> None:
        for request in self.link.greetings(address):
            self.answer(request, name)

    @property
    def here(self) -> dict[str, str]:
        return {address: one.name for address, one in self.roster.members.items()}


def test_a_node_whose_first_answer_takes_long_joins():
    """It is asked again meanwhile, and what it says to that has no effect any more."""
    greeter = Greeter("x")
    greeter.wait(1)
    assert greeter.link.heard("x") == ["hello"]
    greeter.wait()
    first, second = greeter.link.greetings("x")
    greeter.answer(first)
    member = greeter.roster.members["x"]
    greeter.answer(second)
    assert greeter.roster.members["x"] is member
    assert greeter.lines == ["node a hosts clients 0"]


def test_greetings_of_an_address_that_has_gone_are_forgotten():
    greeter = Greeter("x")
    (first,) = greeter.link.greetings("x")
    greeter.link.present.clear()
    greeter.wait(1)
    greeter.answer(first)
    assert greeter.here == {}
    assert greeter.roster._asked == {}


@pytest.fixture
def two() -> Greeter:
    """A node at address x, and one of the same name that has come at address y."""
    greeter = Greeter("x")
    greeter.answer_all("x")
    greeter.link.present.append("y")
    greeter.wait(1)
    greeter.answer_all("y")
    greeter.roster.refresh()
    return greeter


def test_a_second_node_of_a_name_is_turned_away_and_told_why(two):
    member = two.roster.members["x"]
    two.answer(two.link.greetings("x")[-1])
    for _ in range(3):
        two.wait()
    assert two.here == {"x": "a"}
    assert two.roster.members["x"] is member
    assert two.link.heard("x") == ["hello", "hello"]
    hello, reason = two.link.heard("y")
    assert hello == "hello"
    assert "a node of the name a is here already" in reason
    assert two.lines[-1] == f"turned away: {reason}"


@pytest.mark.parametrize("how", ["goes", "is lost", "says nothing"])
def test_a_node_that_has_come_back_takes_the_place_of_what_it_was(two, how):
    """Its former address stays for a while after its process has ended."""
    assert two.here == {"x": "a"}
    if how == "goes":
        two.link.present.remove("x")
    elif how == "is lost":
        two.roster.take(two.link.greetings("x")[-1], None)
    two.wait(NAME_SECONDS + 1 if how == "says nothing" else 1)
    assert two.here == {"y": "a"}
    assert two.link.heard("y") == ["hello"]


def test_a_node_that_comes_back_after_another_has_its_name_is_turned_away(two):
    """It was frozen, and somebody has started it again elsewhere."""
    two.wait(NAME_SECONDS + 1)
    assert two.here == {"y": "a"}
    two.answer(two.link.greetings("x")[-1])
    two.answer(two.link.greetings("y")[-1])
    assert two.here == {"y": "a"}
    assert "is here already" in two.link.heard("x")[-1]


def test_who_waits_for_a_name_and_goes_is_forgotten(two):
    two.link.present.remove("y")
    two.wait(NAME_SECONDS + 1)
    assert two.here == {"x": "a"}
