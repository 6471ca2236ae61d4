"""What stays on a device between clients: with room the same numbers, from memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import photon
from photon.node import residents
from photon.node.residents import Residents
from photon.run.checkpoint import load_server_state, newest_checkpoint

CPU = torch.device("cpu")
TREE = {"w": torch.arange(6.0)}
SIZE = 24


@pytest.fixture
def spare(monkeypatch):
    """Bytes that the device has to spare."""
    there = [0]
    monkeypatch.setattr(residents, "spare_bytes", lambda device: there[0])
    return there


def test_a_base_is_made_once_a_round_and_copied_where_there_is_room(spare):
    here, made = Residents(CPU), []

    def begin():
        made.append(1)
        return TREE, {"m": TREE}

    spare[0] = 1 << 30
    assert here.base("a", begin)[0]["w"] is TREE["w"], "what steps take is not known yet"
    here.trained()
    params, moments = here.base("b", begin)
    assert here.base("b", begin)[0] is params
    assert len(made) == 2
    for tree in (params, moments["m"]):
        assert tree["w"] is not TREE["w"]
        assert torch.equal(tree["w"], TREE["w"])
    spare[0] = 2 * 2 * SIZE  # half of it is left alone
    assert here.base("c", begin)[0]["w"] is TREE["w"]


def test_moments_are_those_of_the_round_that_is_asked_for(spare):
    here, saved = Residents(CPU), {"m": {"w": torch.zeros(6)}}
    spare[0] = 1 << 30
    here.keep(0, 1, {"m": TREE})
    assert here.moments(0, 1, saved) is saved, "no client has been trained"
    here.trained()
    live = {"m": {"w": TREE["w"].clone()}}
    here.keep(0, 1, live)
    live["m"]["w"].zero_()
    assert torch.equal(here.moments(0, 1, saved)["m"]["w"], TREE["w"])
    assert here.moments(0, 2, saved) is saved
    assert here.moments(1, 1, saved) is saved
    spare[0] = 2 * SIZE
    here.keep(0, 2, {"m": TREE})
    assert here.moments(0, 2, saved) is saved
    assert here.moments(0, 1, saved) is saved, "it has gone on"


def test_a_federation_has_the_same_bits_with_room_and_without(smoke, spare, monkeypatch):
    found = []
    moments = Residents.moments
    monkeypatch.setattr(
        Residents, "moments",
        lambda self, c, r, saved: found.append((out := moments(self, c, r, saved)) is saved) or out,
    )  # fmt: skip

    def last(name: str) -> dict[str, torch.Tensor]:
        keys = ["fl.aggregate_momenta=false", "fl.n_rounds=3", "photon.workers=0"]
        result = photon.train(smoke(f"run_uuid={name}", *keys))
        newest = newest_checkpoint(Path(result.folder) / "checkpoints")
        return dict(load_server_state(newest).params)

    without = last("without")
    assert all(found), "from files"
    found.clear()
    spare[0] = 1 << 30
    with_room = last("with")
    assert found == [True, True, False, False, False, False], "none before the first round"
    assert all(torch.equal(without[name], with_room[name]) for name in without)
