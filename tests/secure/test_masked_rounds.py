"""Rounds whose updates are masked: on one machine, over nodes, and against a plain fixed point."""

from __future__ import annotations

import pytest
from loopback import final_digest, nodes, train

import photon

SHAPE = ["fl.n_total_clients=4", "fl.n_rounds=2", "photon.n_nodes=2", "fl.secure_aggregation=true",
         "fl.round_timeout=60", "fl.quorum=3"]  # fmt: skip
PLACES = {"a": [0, 1], "b": [2, 3]}


@pytest.fixture(scope="module")
def base(four, tmp_path_factory):
    home = tmp_path_factory.mktemp("local")
    return ["recipe=smoke", f"dataset.train.root_local={four}", f"photon.saving_path={home}", *SHAPE]


def test_nodes_give_the_bits_of_one_machine(base, four, tmp_path):
    from photon.config import load_config
    here = photon.train([*base, "run_uuid=here", "photon.workers=0"])
    with nodes(tmp_path, four, PLACES) as sockets:
        lines = []
        there = train(load_config([*base, "run_uuid=there"]), sockets, lines)
        print(lines)
    assert final_digest(here) == final_digest(there)
