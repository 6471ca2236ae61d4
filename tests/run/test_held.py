"""States of servers whose clients hold other parameters: what the codec has left is to come."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch

from photon.core.codec import BF16, Codecs, encode
from photon.core.held import advanced
from photon.core.messages import Norm, ServerState
from photon.core.parts import parts_of
from photon.core.trust.reputation import Reputation
from photon.run import artifact
from photon.run.base import base_ref, difference_of, received_of
from photon.run.checkpoint import (
    load_base,
    load_parameters,
    load_server_state,
    save_server_state,
    sent_file,
)
from states import bits

HELD = {"w": torch.arange(6.0), "b": torch.tensor([0.5, -1.0])}
OWN = {"w": HELD["w"] + 0.001, "frozen": torch.ones(3), "b": HELD["b"] - 0.25}
STATE = ServerState(
    round=4, step=8, params=OWN, outer={"momentum": {"w": torch.ones(6)}}, held=HELD,
    moments={"exp_avg": {"w": torch.zeros(6)}}, averaged={"exp_avg": 3},
    difference=encode(HELD, BF16)[0], difference_from="d" * 64,
)  # fmt: skip


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], value) for name, value in expected.items()
    )


def test_a_state_comes_back_bit_for_bit(tmp_path):
    found = load_server_state(save_server_state(tmp_path, STATE))
    assert bits(found) == bits(STATE)
    assert list(found.params) == list(OWN)
    tensors, facts = parts_of(found)
    expected, own_facts = parts_of(STATE)
    assert (tensors.keys(), facts) == (expected.keys(), own_facts)
    assert {field.name for field in fields(found)} >= {"held", "difference", "difference_from"}


@pytest.mark.parametrize(("noted", "fragments"), [({"norm_fragments": [1]}, (0, 1)), ({}, (0, 0))])
def test_norms_of_a_state_of_before_are_those_of_today(tmp_path, noted, fragments):
    """Each of their numbers was a list; the first fragment is that of norms without one."""
    path = save_server_state(tmp_path, STATE)
    manifest = json.loads(path.read_text())
    lists = {"norms": [6.0, 7.0], "norm_steps": [5, 4], "norm_rates": [1.0, 0.5], **noted}
    manifest["facts"]["state"] |= lists
    path.write_text(json.dumps(manifest | {"check": artifact._check(manifest)}))
    first, second = fragments
    expected = (Norm(6.0, 5, 1.0, first), Norm(7.0, 4, 0.5, second))
    assert load_server_state(path).norms == expected


def test_what_a_state_of_before_says_of_its_clients_is_read(tmp_path):
    """It stood beside all else; of one that is older still, nothing is known."""
    path = save_server_state(tmp_path, STATE)
    manifest = json.loads(path.read_text())
    state = manifest["facts"]["state"]
    state |= {"gains": [0.5], "quarantined": {"4": 9}}
    del state["reputation"]
    path.write_text(json.dumps(manifest | {"check": artifact._check(manifest)}))
    expected = Reputation(gains=(0.5,), quarantined={4: 9})
    assert load_server_state(path).reputation == expected


def test_a_servers_parameters_are_its_own_and_a_base_is_what_clients_hold(tmp_path):
    path = save_server_state(tmp_path, STATE)
    assert same(load_parameters(path), OWN)
    base = load_base(path)
    assert same(base.params, {**OWN, **HELD})
    assert (base.averaged, list(base.moments)) == ({"exp_avg": 3}, ["exp_avg"])
    assert base_ref(base) == base_ref(received_of(STATE)) == sent_file(path)[1]


def test_a_difference_makes_one_base_of_the_other():
    """It has the moments that were averaged in its round, and no others."""
    ref = base_ref(received_of(STATE))
    found = difference_of(STATE, ref)
    assert found is not None
    assert (found.before, found.after, found.moments) == ("d" * 64, ref.digest, {})
    before = {name: value.clone() for name, value in OWN.items()}
    base = received_of(ServerState(round=3, step=6, params=before, outer={}))
    after = advanced(base, found, Codecs(parameters=BF16).parameters or BF16)
    assert same(after.params, {**OWN, **{n: OWN[n] + HELD[n] for n in HELD}})
