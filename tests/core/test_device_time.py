"""Where a device's time went, by hand; what clients say cannot break it."""

from __future__ import annotations

import math

import pytest
import torch

from photon.core.aggregate import fold
from photon.core.codec import Codecs
from photon.core.device_time import device_seconds
from photon.core.messages import Update

PHASES = {"wait": 3.0, "train": 14.0, "aggregate": 2.0, "validate": 0.5, "commit": 1.5}
CLIENT = {"train_seconds": 6.0, "load_seconds": 1.0, "encode_seconds": 0.5, "write_seconds": 0.25}


def test_two_clients_on_one_device_by_hand():
    assert device_seconds([CLIENT, CLIENT], PHASES, 20.0, 1) == {
        "train": 12.0, "load": 2.0, "encode": 1.0, "write": 0.5, "wait": 0.5,
        "aggregate": 2.0, "validate": 0.5, "commit": 1.5,
    }  # fmt: skip


def test_on_more_devices_each_has_its_share_and_waits_longer():
    found = device_seconds([CLIENT, CLIENT], PHASES, 20.0, 2)
    assert (found["train"], found["write"], found["wait"]) == (6.0, 0.25, 8.25)


@pytest.mark.parametrize(
    "said",
    [{}, {"train_seconds": -5.0}, {"train_seconds": math.nan}, {"load_seconds": math.inf},
     {"train_seconds": 1e18, "load_seconds": 1e18}, {"train_seconds": 19.0, "load_seconds": 19.0}],
)  # fmt: skip
def test_nonsense_is_cut_to_what_can_be(said):
    """The parts are a round's seconds, whatever is said, and no part is below zero."""
    found = device_seconds([said, CLIENT], PHASES, 20.0, 2)
    assert sum(found.values()) == pytest.approx(20.0)
    assert min(found.values()) >= 0.0
    assert {name: found[name] for name in ("aggregate", "validate", "commit")} == {
        "aggregate": 2.0, "validate": 0.5, "commit": 1.5
    }  # fmt: skip


def test_too_much_is_shortened_alike():
    """Room for 16 of 38 + 7.75 seconds, halved over two devices."""
    found = device_seconds([{"train_seconds": 19.0, "load_seconds": 19.0}, CLIENT], PHASES, 20.0, 2)
    assert found["train"] == pytest.approx((19 + 6) / 2 * 16 / ((38 + 7.75) / 2))
    assert found["wait"] == pytest.approx(0.0)


def test_what_is_joined_of_several_devices_may_be_longer_than_the_round():
    """Four clients, of which each has trained fourteen of the twenty seconds on its own device."""
    joined = [{"train_seconds": 4 * 14.0}]
    assert device_seconds(joined, {}, 20.0, 4, most=4 * 20.0)["train"] == 14.0
    assert device_seconds(joined, {}, 20.0, 4)["train"] == 20.0 / 4, "one client is not believed"


def test_a_round_without_clients_or_time_is_one_too():
    assert device_seconds([], {}, 4.0, 3)["wait"] == 4.0
    assert set(device_seconds([CLIENT], {}, 0.0, 1).values()) == {0.0}


def test_seconds_of_clients_of_one_node_add_up():
    """What a node folds is all the time that its clients took, not the mean of it."""
    updates = [
        Update(
            run="r", round=1, client=client, gradient={"w": torch.ones(2)}, moments={},
            num_tokens=10 * (client + 1), num_steps=1, base_digest="d",
            metrics={"train_loss": 1.0 + client, "train_seconds": 2.0, "seconds": 1.0 + client},
        )
        for client in (0, 1)
    ]  # fmt: skip
    folded = fold(updates, {"w": torch.ones(2)}, Codecs()).metrics
    assert folded["train_seconds"] == 4.0
    assert folded["train_loss"] == folded["seconds"] == pytest.approx((10 + 2 * 20) / 30)
