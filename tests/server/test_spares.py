"""Spare clients: the same mathematics in this process, in workers, and over sockets."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import photon
from loopback import final_digest, nodes, train
from photon.config import Config, load_config
from photon.config.compose import with_values
from photon.core.cohort import choose_cohort, choose_spares
from photon.core.messages import Update
from photon.errors import ConfigError, PhotonWarning
from photon.node import engine
from photon.run.checkpoint import load_update
from photon.run.results import TrainResult
from photon.run.trackers import read_lines
from photon.server import errand
from photon.wire.facts import update_of

SHAPE = ["recipe=smoke", "fl.n_total_clients=4", "fl.n_clients_per_round=2", "fl.n_rounds=3"]
WAYS = ["0", "2", "sockets"]
"""Worker processes, or over sockets."""
Run = Callable[..., tuple[str, list]]


@pytest.fixture
def run(tmp_path) -> Run:
    """Trains in one of the ways; gives the last parameters' digest and the records."""

    def call(way: str, root: Path, *keys: str) -> tuple[str, list]:
        config = load_config([*SHAPE, f"dataset.train.root_local={root}", "run_uuid=r",
                              f"photon.saving_path={tmp_path / way}", *keys])  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhotonWarning)
            result = trained(way, root, config, tmp_path)
        return final_digest(result), read_lines(Path(result.folder) / "metrics.jsonl")

    return call


def trained(way: str, root: Path, config: Config, home: Path) -> TrainResult:
    if way != "sockets":
        return photon.train(with_values(config, {"photon.workers": int(way)}))
    with nodes(home, root, {"a": [0, 1, 2, 3]}) as sockets:
        return train(config, sockets)


@pytest.fixture(scope="module")
def cohorts() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Members and spares of each round."""
    found = []
    for number in (1, 2, 3):
        members = choose_cohort(1337, number, range(4), 2)
        others = [client for client in range(4) if client not in members]
        found.append((members, choose_spares(1337, number, others, 2)))
    return found


@pytest.mark.parametrize("way", WAYS)
def test_spares_that_are_not_needed_change_nothing(run, four, cohorts, way):
    expected, without = run("0", four, "run_uuid=without")
    found, records = run(way, four, "fl.oversample=2")
    assert found == expected
    assert [tuple(record["accepted"]) for record in records] == [own for own, _ in cohorts]
    if way == "sockets":
        assert [record["spare"] for record in records] == [sorted(own) for _, own in cohorts]
    else:  # and nobody trains in vain
        assert [r["bytes_down"] for r in records] == [r["bytes_down"] for r in without]
        assert not any(record["spare"] for record in records)


@pytest.mark.parametrize("spares", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_cohort_of_one_averages_one(run, four, way, spares):
    """Its first member, for whom nobody has to stand in: the oracle is the draw of the cohort."""
    keys = ("fl.n_clients_per_round=1", "fl.n_rounds=2", f"fl.oversample={spares}")
    _, records = run(way, four, *keys)
    drawn = [list(choose_cohort(1337, number, range(4), 1)) for number in (1, 2)]
    assert [record["accepted"] for record in records] == drawn
    assert [record["tokens"] for record in records] == [3 * 2 * 32, 2 * 3 * 2 * 32]


def test_a_client_that_fails_is_replaced_alike_in_every_engine(run, four, cohorts, tmp_path):
    """Its shards have other bytes than were written, so that it fails wherever it trains."""
    lost = cohorts[0][0][1]
    root = tmp_path / "damaged"
    shutil.copytree(four, root)
    for shard in (root / f"client_{lost}" / "train").glob("*.bin"):
        shard.write_bytes(bytes(b ^ 1 for b in shard.read_bytes()))
    found = {way: run(way, root, "fl.oversample=2") for way in WAYS}
    assert len({digest for digest, _ in found.values()}) == 1
    for _, records in found.values():
        for (members, spares), record in zip(cohorts, records, strict=True):
            order = [client for client in (*members, *spares) if client != lost]
            assert record["accepted"] == sorted(order[:2])


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_is_refused_is_replaced(run, four, cohorts, monkeypatch, way):
    """Its update is larger than its steps can make it."""
    lost = cohorts[0][0][0]

    def larger(update: Update) -> Update:
        if update.client != lost:
            return update
        large = {name: value.float() * 1e6 for name, value in update.gradient.items()}
        return dataclasses.replace(update, gradient=large)

    monkeypatch.setattr(engine, "load_update", lambda path: larger(load_update(path)))
    monkeypatch.setattr(errand, "update_of", lambda *parts: larger(update_of(*parts)))
    _, records = run(way, four, "fl.oversample=2", "fl.n_rounds=1")
    members, spares = cohorts[0]
    assert records[0]["accepted"] == sorted([members[1], spares[0]])
    assert list(records[0]["refused"]) == [str(lost)]


def test_a_mean_of_a_node_has_no_spares():
    with pytest.raises(ConfigError, match="no spare client can be left out"):
        load_config(["fl.fold_updates=true", "fl.oversample=1", "fl.n_clients_per_round=2"])
