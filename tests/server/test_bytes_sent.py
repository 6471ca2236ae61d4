"""What sites would have received, by what each of them holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from photon.container.container import container_size
from photon.core.messages import Broadcast, Difference, ServerState
from photon.core.parts import parts_of
from photon.core.policy import Rules
from photon.core.round import open_round
from photon.run.base import Base, base_ref
from photon.server.bytes_sent import Sites

PARAMS = {"w": torch.zeros(2000)}


def base_after(number: int, *, steps: bool = True, seeded: bool = False) -> Base:
    received = Broadcast(params={"w": torch.full((2000,), float(number))})
    before = base_ref(Broadcast(params={"w": torch.full((2000,), number - 1.0)})).digest
    ref = base_ref(received)
    step = Difference(before=before, after=ref.digest, params={"w": torch.zeros(500)})
    found = Base.at(Path("base"), received, ref)
    return Base(found.sent, ref, found.file, step if steps else None, seeded)


def received(sites: Sites, base: Base, number: int, last: dict[int, int], *asked: int) -> list[int]:
    """Bytes of each client in the round after so many."""
    state = ServerState(round=number, step=0, params=PARAMS, outer={}, last_accepted=last)
    plan = open_round(state, run="r", steps=dict.fromkeys(asked, 1), rules=Rules(quorum=1),
                      base_digest=base.ref.digest)  # fmt: skip
    traffic = sites.traffic(plan, base, state, asked, [])
    assert sum(traffic.down.values()) == traffic.bytes_down
    return [traffic.clients.get(client, [0, 0])[1] for client in asked]


WHOLE = base_after(1).ref.size
STEP = container_size(*parts_of(base_after(1).difference))


def test_the_first_parameters_of_the_seed_are_not_sent():
    sites = Sites()
    assert received(sites, base_after(0, steps=False, seeded=True), 0, {}, 0, 1) == [0, 0]
    assert received(sites, base_after(1), 1, {0: 1, 1: 1}, 0, 1) == [STEP, STEP]


def test_who_holds_the_base_already_gets_nothing():
    """The round is tried again, or was skipped: nothing has changed."""
    sites = Sites()
    assert received(sites, base_after(3, steps=False), 3, {}, 0) == [WHOLE]
    assert received(sites, base_after(3, steps=False), 4, {}, 0, 1) == [0, WHOLE]


@pytest.mark.parametrize(("last", "expected"), [(3, 1), (2, 2), (1, 3), (0, None)])
def test_who_has_missed_rounds_gets_the_steps_as_long_as_they_are_shorter(last, expected):
    """In a process that has just begun, what a client has done last says what it holds."""
    found = received(Sites(), base_after(3), 3, {0: last} if last else {}, 0)
    assert 3 * STEP < WHOLE < 4 * STEP
    assert found == [expected * STEP if expected else WHOLE]


def test_whole_parameters_come_in_every_round_without_differences():
    sites = Sites()
    for number in (1, 2):
        assert received(sites, base_after(number, steps=False), number, {0: number}, 0) == [WHOLE]


def test_who_was_away_when_layers_were_drawn_anew_gets_the_base_whole():
    """No difference makes it of the one before."""
    sites, last = Sites(), {0: 1, 1: 1}
    assert received(sites, base_after(1), 1, last, 0, 1) == [STEP, STEP]
    assert received(sites, base_after(2, steps=False), 2, {0: 2, 1: 1}, 0) == [WHOLE]
    assert received(sites, base_after(3), 3, {0: 3, 1: 1}, 0, 1) == [STEP, WHOLE]
