"""What leads a node to a base: no message is longer than it may be, and all of it arrives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from photon.container.container import write_container
from photon.node.mailbox import Mailbox
from photon.server.depot import Depot, Payload, Way
from photon.server.errand import Errand
from photon.wire import inline
from photon.wire.buffers import Buffers
from photon.wire.inline import InlineServer
from photon.wire.messages import (
    Kept,
    Put,
    Train,
    pack_reply,
    pack_request,
    unpack_request,
)

MOST = 20_000
"""Payload bytes of a message."""
ROOM = 4_000
"""For all else in it."""


def payload(folder: Path, name: str, before: str, floats: int) -> Payload:
    ref = write_container(folder / name, {"w": torch.full((floats,), 1.0)}, {"before": before})
    return Payload(folder / name, ref, {"parameters": 4 * floats}, before)


@pytest.fixture
def depot(tmp_path, monkeypatch) -> Depot:
    """Its last base is five differences from the first; the third alone is beyond a message."""
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", MOST)
    depot = Depot(tmp_path / "depot", InlineServer())
    names = "abcdef"
    base = payload(depot.folder, "base", "", 40_000)
    after = [*names[1:-1], base.ref.digest]
    for number, digest in enumerate(after):
        size = 10_000 if number == 2 else 3_000 + number
        depot._differences[digest] = payload(depot.folder, f"d{number}", names[number], size)
    depot._base = base
    return depot


def instruction(way: Way) -> Train:
    asked = {"run": "r", "round": 5, "client": 0, "first_step": 0, "local_steps": 1,
             "base_digest": way.base["digest"], "last_accepted": 0}  # fmt: skip
    return Train.model_validate({
        "run": "r", "round": 5, "config": {}, "config_digest": "", "data": {}, "base": way.base,
        "steps": way.steps, "instructions": [asked],
    })  # fmt: skip


def messages(depot: Depot, way: Way) -> list[Buffers]:
    return [pack_request(each) for each in (*depot.pieces(way), instruction(way))]


@pytest.mark.parametrize(("holds", "steps"), [("a", 5), ("b", 4), ("e", 1), ("?", 0)])
def test_no_message_is_longer_than_it_may_be(depot, tmp_path, holds, steps):
    way = depot.way(holds)
    sent = messages(depot, way)
    assert len(way.steps) == steps
    assert max(message.size for message in sent) <= MOST + ROOM
    box = Mailbox(tmp_path / "mail")
    *pieces, train = [unpack_request(Buffers(bytes(message.view()))) for message in sent]
    for piece in pieces:
        assert isinstance(piece, Put)
        box.take(piece)
    assert isinstance(train, Train)
    for ticket, one in zip(train.steps or [train.base], way.payloads, strict=True):
        box._inline.fetch(ticket, one.ref, box._base(one.ref.digest), lambda: False)
        assert box._base(one.ref.digest).read_bytes() == one.path.read_bytes()


def test_a_base_that_was_cut_off_goes_on_where_it_was(depot, tmp_path):
    """The node was killed after three pieces: it tells of them when the first one comes again."""
    way = depot.way("?")
    pieces = list(depot.pieces(way))
    for piece in pieces[:3]:
        Mailbox(tmp_path / "mail").take(piece)
    box, again = Mailbox(tmp_path / "mail"), list[int]()
    conversation = Errand("n", instruction(way), depot, way, None).converse()
    message = next(conversation)
    while isinstance(piece := unpack_request(Buffers(bytes(message.view()))), Put):
        again.append(piece.offset)
        message = conversation.send(pack_reply(message, "n", Kept(until=box.take(piece)), None))
    assert again == [0, *(piece.offset for piece in pieces[3:])]
    (base,) = way.payloads
    box._inline.fetch(way.base, base.ref, box._base(base.ref.digest), lambda: False)
    assert box._base(base.ref.digest).read_bytes() == base.path.read_bytes()


def test_what_fits_into_the_instruction_is_in_no_message_of_its_own(depot):
    assert len(messages(depot, depot.way("e"))) == 1
    of_five = depot.way("a")
    assert sum("data" in ticket for ticket in of_five.steps) == 1, "two are beyond 20,000 bytes"
    assert all("data" in ticket for ticket in depot.way("e").steps), "whatever others were sent"


def test_nothing_goes_ahead_of_a_base_that_a_node_holds(depot):
    way = depot.way(depot._base.ref.digest)
    assert way.payloads == ()
    assert len(messages(depot, way)) == 1
