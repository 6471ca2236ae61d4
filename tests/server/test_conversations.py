"""An engine over nodes that a test answers for: what ends an errand, and what no fault may end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clocks import Clock
from photon.config import load_config
from photon.container.container import ContainerRef, write_container
from photon.core.messages import Arrival, Failure, Instruction, RoundPlan, Update
from photon.core.parts import parts_of
from photon.errors import DataError, PayloadError, StorageError
from photon.server import attempts, remote
from photon.server import depot as depots
from photon.server.attempts import MAX_ATTEMPTS
from photon.server.depot import Way
from photon.server.errand import MAX_EXCUSES
from photon.server.link import Answer, Link
from photon.server.remote import RemoteEngine
from photon.server.roster import Member, Roster
from photon.wire.buffers import Buffers
from photon.wire.enrolment import Register
from photon.wire.messages import (
    Closed,
    Kept,
    Notice,
    Put,
    Refused,
    Train,
    Trained,
    pack_reply,
    unpack_request,
)
from photon.wire.transport import ServerSide

LONG = 3.0
DIGEST = "0" * 64
STEPS = 10


def update(client: int = 0, **metrics: float) -> Update:
    return Update(
        run="r", round=1, client=client, gradient={}, moments={}, num_tokens=100, num_steps=STEPS,
        base_digest=DIGEST, metrics={"train_loss": 1.0, **metrics},
    )  # fmt: skip


class Node(Link):
    """One node, which answers a request to train as a test says, at once."""

    def __init__(self, reply: Callable[[Train], Closed]) -> None:
        self.reply, self.heard = reply, list[str]()
        self._answers: list[Answer] = []

    def addresses(self) -> list[str]:
        return ["x"]

    def send(self, address: str, message: Buffers) -> str:
        request, name = unpack_request(message), str(len(self.heard))
        self.heard.append(request.kind)
        if isinstance(request, Train):
            self._answers.append((name, pack_reply(message, "n", self.reply(request), None)))
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        while self._answers:
            yield self._answers.pop()

    def close(self) -> None:
        """Nothing to end."""


class Depot:
    """Has all at hand, unless a test takes it away; tickets are the updates themselves."""

    def __init__(self, updates: dict[int, Update]) -> None:
        self.updates = updates

    def publish(self, *given: object) -> None:
        """There is nothing to keep."""

    def way(self, holds: str | None) -> Way:
        return Way({"digest": DIGEST, "size": 1000})

    def pieces(self, way: Way) -> Iterator[Any]:
        return iter(())

    def grants(self, clients: list[int]) -> dict[int, dict]:
        return {}

    def receive(self, client: int, ticket: dict) -> Iterator[Any]:
        yield from ()
        return parts_of(self.updates[client])


class Told:
    """In place of an outbox."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, run: str, node: str) -> Notice:
        return Notice(run=run, certificate=b"", receipts=[b"{}"])

    def was_told(self, node: str, notice: Notice) -> None:
        self.told.append(node)


class Federation:
    """An engine with one node, and a round of its clients."""

    def __init__(self, reply: Callable[[Train], Closed], updates: dict[int, Update]) -> None:
        self.clock, self.lines = Clock(), list[str]()
        self.link, self.depot = Node(reply), Depot(updates)
        config: Any = load_config(["recipe=smoke", "fl.n_total_clients=4", "run_uuid=r"])
        roster = Roster(self.link, Register(None), print, self.clock.monotonic)
        self.engine = RemoteEngine(
            config, {}, self.link, roster, cast(Any, self.depot), self.lines.append,
            clock=self.clock.monotonic,
        )  # fmt: skip
        roster.members["x"] = Member("n", "x", frozenset(range(4)))

    def train(self, clients: int = 1, ahead: int = 0) -> list[Update | Failure]:
        """What comes of a round."""
        return [one for one in self.coming(clients, ahead) if one is not None]

    def coming(self, clients: int = 1, ahead: int = 0) -> Iterator[Arrival]:
        given = {
            c: Instruction(run="r", round=1, client=c, first_step=0, local_steps=STEPS,
                           base_digest=DIGEST, last_accepted=0, ahead=ahead)
            for c in range(clients)
        }  # fmt: skip
        plan = RoundPlan(round=1, cohort=tuple(given), instructions=given, base_digest=DIGEST)
        return self.engine.run_round(plan, cast(Any, None), deque(given), lambda: False)


def done(federation: Federation, seconds: float, **said: Any) -> Callable[[Train], Trained]:
    """A reply with an update of each client, after so long."""

    def reply(request: Train) -> Trained:
        federation.clock.sleep(seconds)
        tickets = {i.client: {"digest": DIGEST, "size": 1000} for i in request.instructions}
        return Trained(updates=tickets, **said)

    return reply


def federation_of(*updates: Update) -> Federation:
    return Federation(lambda request: Trained(), {one.client: one for one in updates})


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*given: object) -> Any:
        raise error

    return fail


# ---- updates that lie somewhere else ----


class Elsewhere(ServerSide):
    """Brings an update when a test lets it."""

    def __init__(self, brought: Update) -> None:
        self.may_come, self.brought = threading.Event(), brought

    def receive(self, ticket: dict, ref: ContainerRef, path: Path) -> Iterator[Any]:
        yield from ()
        if not self.may_come.wait(LONG):
            raise PayloadError("nobody has listened while it came")
        write_container(path, *parts_of(self.brought))


def test_the_server_listens_while_an_update_comes_from_elsewhere(tmp_path):
    federation, there = federation_of(), Elsewhere(update())
    depot = depots.Depot(tmp_path / "depot", there)
    depot._base = cast(Any, SimpleNamespace(ref=ContainerRef(DIGEST, 1000)))
    federation.depot.receive = depot.receive
    ref = write_container(tmp_path / "sent", *parts_of(update()))
    ticket = {"via": "s3", **ref.to_json()}
    federation.link.reply = lambda request: Trained(updates={0: ticket})
    heard = []
    for arrival in federation.coming():
        heard.append(arrival)
        if heard[-3:] == [None] * 3:
            there.may_come.set()
    (arrived,) = filter(None, heard)
    assert isinstance(arrived, Update), arrived
    assert federation.engine.take_traffic().clients[0][0] > ref.size
    depot.close()


# ---- conversations that end before they begin ----


@pytest.mark.parametrize("place", ["way", "grants", "pieces"])
def test_what_cannot_be_sent_is_a_failed_attempt(place):
    federation = federation_of()
    setattr(federation.depot, place, raising(PayloadError("the store is busy")))
    arrivals = federation.train()
    assert arrivals == [Failure(0, "node n: the store is busy")] * MAX_ATTEMPTS
    assert [line for line in federation.lines if line.startswith("client")] == [
        *["client 0 on node n: the store is busy; trying again"] * (MAX_ATTEMPTS - 1),
        "client 0 on node n: the store is busy; left out of this round",
    ]
    assert federation.link.heard == []
    assert federation.engine.busy == 0


@pytest.mark.parametrize("place", ["way", "grants", "receive"])
def test_a_store_that_refuses_is_a_failed_attempt(place):
    federation = federation_of(update())
    federation.link.reply = done(federation, 1.0)
    right = getattr(federation.depot, place)
    setattr(federation.depot, place, raising(DataError("the store refuses")))

    def mend(line: str) -> None:
        assert line == "client 0 on node n: the store refuses; trying again"
        setattr(federation.depot, place, right)

    federation.engine.say = mend
    failed, arrived = federation.train()
    assert failed == Failure(0, "node n: the store refuses")
    assert isinstance(arrived, Update)


@pytest.mark.parametrize("place", ["way", "receive"])
def test_a_full_disk_ends_the_run(place):
    federation = federation_of(update())
    federation.link.reply = done(federation, 1.0)
    setattr(federation.depot, place, raising(StorageError("No space left")))
    with pytest.raises(StorageError, match="No space left"):
        federation.train()


def test_a_session_with_nodes_goes_on_without_one_that_cannot_be_asked():
    federation, heard = federation_of(), list[str]()

    def silent():
        return
        yield

    def speaks():
        heard.append((yield Buffers(b"")))

    federation.link = federation.engine._desk.link = cast(Any, SimpleNamespace(
        addresses=lambda: ["x"], send=lambda address, message: address,
        answers=lambda seconds: [("x", "its answer")],
    ))  # fmt: skip
    federation.engine.roster.link = federation.link
    federation.engine._exchange({"y": silent(), "x": speaks()}, lambda: bool(heard))
    assert heard == ["its answer"]


# ---- a node that is being stopped ----


def test_a_node_that_leaves_before_it_begins_has_been_told_nothing():
    federation = federation_of(update())
    federation.engine.outbox = outbox = cast(Any, Told())
    replies = iter([Trained(leaving=True), Trained(leaving=True, failed={0: "stopped"}, devices=4)])
    federation.link.reply = lambda request: next(replies)
    members = federation.engine.roster.members
    found = []

    def lost(address: str) -> None:
        found.append((list(outbox.told), dict(federation.engine._devices)))
        if len(found) == 2:
            members.pop(address)

    federation.engine.roster.lost = lost
    coming = federation.engine.run_round(
        RoundPlan(round=1, cohort=(0,), base_digest=DIGEST, instructions={0: Instruction(
            run="r", round=1, client=0, first_step=0, local_steps=STEPS, base_digest=DIGEST,
            last_accepted=0)}),
        cast(Any, None), deque([0]), lambda: len(found) == 2,
    )  # fmt: skip
    list(coming)
    assert found == [([], {}), (["n"], {"n": 4})]


# ---- a base that does not come ----

PUT = Put(digest=DIGEST, size=2, offset=0, data=Buffers(b"ab"))
HELD = Way({"digest": DIGEST, "size": 1000}, [{"digest": DIGEST, "size": 10}])


@pytest.fixture
def fetching():
    """A node with an update, two pieces of the base on their way to it, and what it says to each;
    it is greeted again at once.
    """
    federation, said = federation_of(update()), list[Closed | None]()
    federation.link.reply = done(federation, 1.0)
    federation.depot.pieces = lambda way: iter([PUT, PUT])
    federation.engine.roster.lost = lambda address: None
    send = federation.link.send

    def answered(address: str, message: Buffers) -> str:
        name = send(address, message)
        if federation.link.heard[-1] == "put":
            reply = said.pop(0) if said else Kept(until=0)
            answer = None if reply is None else pack_reply(message, "n", reply, None)
            federation.link._answers.append((name, answer))
        return name

    federation.link.send = answered
    return federation, said


def test_a_node_that_goes_away_while_parameters_come_has_failed_nobody(fetching):
    federation, said = fetching
    said += [Kept(until=0), None] * (MAX_ATTEMPTS + 1)
    *failed, arrived = federation.train()
    assert failed == [Failure(0, "node n: the node went away")] * (MAX_ATTEMPTS + 1)
    assert isinstance(arrived, Update)
    assert all(line.endswith("; trying again") for line in federation.lines)


def test_one_that_goes_away_each_time_fails_in_the_end(fetching):
    federation, said = fetching
    said += [Kept(until=0), None] * 99
    assert len(federation.train()) == MAX_EXCUSES + MAX_ATTEMPTS
    assert federation.lines[-1].endswith("; left out of this round")


@pytest.mark.parametrize("reply", [None, Refused(error="no room")])
def test_one_that_takes_none_of_them_fails(fetching, reply):
    federation, said = fetching
    said += [reply] * 9
    assert len(federation.train()) == MAX_ATTEMPTS
    assert federation.lines[-1].endswith("; left out of this round")


def test_a_difference_to_what_a_node_lacks_is_no_attempt_of_its_clients(monkeypatch):
    """Its last errand was cancelled before all of that had come; then it gets everything."""
    monkeypatch.setattr(attempts, "MAX_ATTEMPTS", 1)
    federation = federation_of(update())
    whole = federation.depot.way
    federation.depot.way = lambda holds: whole(holds) if holds is None else HELD
    trained = done(federation, 1.0)
    federation.link.reply = lambda request: (
        Refused(error="no") if request.steps else trained(request)
    )
    assert [type(one) for one in federation.train()] == [Failure, Update]
    federation.link.reply = lambda request: Refused(error="no")
    assert [type(one) for one in federation.train()] == [Failure, Failure]


# ---- how long updates take ----


def test_what_was_trained_before_it_was_asked_for_tells_no_duration():
    """A kept answer, and one of which the second half was left to do."""
    whole = {"train_seconds": 60.0, "tokens_per_second": 100 / 60}
    kept, half = whole, {"train_seconds": 30.0, "tokens_per_second": 100 / 60}
    for metrics, seconds, expected in [(whole, 62.0, [62.0]), (kept, 1.0, []), (half, 33.0, [])]:
        federation = federation_of(update(**metrics))
        federation.link.reply = done(federation, seconds)
        assert len(federation.train()) == 1
        assert list(federation.engine.durations) == expected


@pytest.mark.parametrize(
    ("seconds", "devices", "expected"), [(121, 1, [121] * 2), (61, 2, [61] * 2), (61, 1, [])]
)
def test_clients_of_a_node_train_one_after_the_other_or_side_by_side(seconds, devices, expected):
    """In a minute one device has not trained two clients for a minute each."""
    federation = federation_of(*(update(c, train_seconds=60.0) for c in (0, 1)))
    federation.link.reply = done(federation, seconds, devices=devices)
    assert len(federation.train(clients=2)) == 2
    assert list(federation.engine.durations) == expected


def test_steps_that_were_to_be_taken_ahead_are_no_part_of_it():
    federation = federation_of(update(train_seconds=60.0))
    federation.link.reply = done(federation, 40.0)
    federation.train(ahead=STEPS // 2)
    assert list(federation.engine.durations) == [40.0]


def test_updates_without_numbers_count():
    federation = federation_of(replace(update(), metrics={"train_loss": 1.0}))
    federation.link.reply = done(federation, 5.0)
    federation.train()
    assert list(federation.engine.durations) == [5.0]


def test_the_newest_are_kept(monkeypatch):
    """Their median is taken at every poll: of all of a long run it would take longer than that."""
    monkeypatch.setattr(remote, "DURATIONS_KEPT", 2)
    federation = federation_of(update())
    for seconds in (5.0, 6.0, 7.0):
        federation.link.reply = done(federation, seconds)
        federation.train()
    assert list(federation.engine.durations) == [6.0, 7.0]
