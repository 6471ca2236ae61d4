"""Robust means over nodes: the bits of one machine, with moments, fragments and small merges."""

from __future__ import annotations

from pathlib import Path

import pytest

import photon
from loopback import final_digest, nodes, train
from photon.config import load_config
from photon.run.trackers import read_lines

MOMENTS = ["fl.aggregate_momenta=true", "llm_config.optimizer.name=adamw"]
FRAGMENTS = ["fl.fragments=2", "fl.aggregate_momenta=false"]


@pytest.fixture
def make(four, tmp_path):
    def configuration(*overrides: str):
        paths = [f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / 'server'}"]
        shape = ["fl.n_total_clients=4", "fl.eval_period=null", "photon.n_nodes=2"]
        return load_config(["recipe=smoke", *paths, *shape, *overrides])

    return configuration


@pytest.mark.parametrize(
    ("rule", "keys"),
    [("median", MOMENTS), ("krum:25/50", MOMENTS), ("trimmed_mean:25", FRAGMENTS)],
    ids=str,
)
def test_nodes_merge_to_the_bits_of_one_machine(make, four, tmp_path, rule, keys):
    config = make(f"fl.aggregation={rule}", *keys)
    with nodes(tmp_path, four, {"a": [0, 2], "b": [1, 3]}) as sockets:
        remote = train(config, sockets)
    local = photon.train(config.but(name="local"))
    assert final_digest(remote) == final_digest(local)


@pytest.mark.parametrize("rule", ["median", "krum"])
def test_merges_of_few_updates_are_taken(make, rule):
    result = photon.train(make(f"fl.aggregation={rule}", "fl.mode=async", "fl.buffer=2"))
    records = read_lines(Path(result.folder) / "metrics.jsonl")
    assert [len(record["accepted"]) for record in records] == [2] * len(records)
