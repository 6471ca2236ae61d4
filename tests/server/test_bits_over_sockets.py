"""Server and nodes over sockets: the bits of the local engine, whatever carries the payloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from four_clients import PLACES

import photon
from loopback import final_digest, nodes, train
from photon.run import checkpoint
from photon.run.trackers import read_lines
from photon.wire import inline


@pytest.mark.parametrize("state", ["averaged", "kept"])
@pytest.mark.parametrize("via", ["inline", "shm", "s3"])
def test_remote_nodes_give_the_bits_of_the_local_engine(
    make, four, local, tmp_path, s3, state, via
):
    extra = ["fl.aggregate_momenta=false"] if state == "kept" else []
    if via == "s3":
        extra.append(f"photon.transport_url={s3('payloads')}/runs")
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("run_uuid=r", f"photon.transport={via}", *extra), sockets)
    assert final_digest(result) == local[state]
    assert not list((tmp_path / "server" / "r" / "depot").glob("update*.part"))


def test_worker_processes_of_a_node_give_the_same_bits(make, four, local, tmp_path):
    with nodes(tmp_path, four, PLACES, "photon.workers=2") as sockets:
        result = train(make("run_uuid=r"), sockets)
    assert final_digest(result) == local["averaged"]


def test_payloads_in_pieces_give_the_same_bits(make, four, local, tmp_path, monkeypatch):
    """A payload larger than a message goes up and down in several."""
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", 10_000)
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("run_uuid=r"), sockets)
    assert final_digest(result) == local["averaged"]


def test_objects_in_parts_give_the_same_bits(make, four, local, tmp_path, s3, monkeypatch):
    from photon.wire import object_store

    monkeypatch.setattr(object_store, "PART_BYTES", 10_000)
    with nodes(tmp_path, four, PLACES) as sockets:
        url = f"photon.transport_url={s3('parts')}"
        result = train(make("run_uuid=r", "photon.transport=s3", url), sockets)
    assert final_digest(result) == local["averaged"]


def test_clients_share_a_node_without_sharing_a_state(make, four, local, tmp_path):
    """All on one node: states are swapped in and out, and none leaks into another."""
    with nodes(tmp_path, four, {"only": [0, 1, 2, 3]}) as sockets:
        config = make("run_uuid=r", "photon.n_nodes=1", "fl.aggregate_momenta=false")
        assert final_digest(train(config, sockets)) == local["kept"]


def test_partial_means_of_nodes_are_the_flat_mean(make, four, tmp_path):
    """Two sub-federations of unequal size; one round, so that rounding has nothing to grow on."""
    plain = ["fl.n_rounds=1", "fl.compression=fp32", "fl.strategy_name=fedavg"]
    with nodes(tmp_path, four, {"a": [0, 1, 2], "b": [3]}) as sockets:
        flat = train(make("run_uuid=flat", *plain), sockets)
        folded = train(make("run_uuid=folded", "fl.fold_updates=true", *plain), sockets)
    ours, theirs = (
        checkpoint.load_parameters(checkpoint.newest_checkpoint(Path(r.folder) / "checkpoints"))
        for r in (folded, flat)
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-6)
    (record,) = read_lines(tmp_path / "server" / "folded" / "metrics.jsonl")
    (other,) = read_lines(tmp_path / "server" / "flat" / "metrics.jsonl")
    assert record["accepted"] == [0, 1, 2, 3]
    assert record["tokens"] == other["tokens"]
    assert record["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)
    up, flat_up = (line["bytes_by_kind"]["up"] for line in (record, other))
    for kind in ("gradient", "moments"):
        assert up[kind] == flat_up[kind] // 2 > 0
    assert 0 < up["rest"] < flat_up["rest"]


def test_on_one_machine_nothing_is_folded(smoke):
    """The key has no effect there, and the codec is that of each client."""
    plain, folding = (
        photon.train(
            smoke(
                f"run_uuid={name}",
                f"fl.fold_updates={name}",
                "fl.n_rounds=1",
                "fl.compression=bf16",
            )
        )
        for name in ("false", "true")
    )
    assert final_digest(folding) == final_digest(plain)


def test_many_options_at_once_give_the_bits_of_the_local_engine(make, four, tmp_path):
    keys = [
        "fl.personalized_layers=[blocks.0.attention.*]", "fl.frozen_layers=[embedding.weight]",
        "fl.random_layers=[norm.weight]", "fl.random_init_freq=3", "fl.scaling_fn=sqrt",
        "fl.outer_schedule.name=cosine", "fl.reset_timestamp=true", "fl.split_eval=true",
        "fl.use_noise_scale_metric=true", "fl.sampling=by_size", "fl.n_clients_per_round=3",
        "fl.availability=0.9", "fl.n_rounds=4", "fl.n_local_epochs=1", "fl.quorum=1",
        "llm_config.global_train_batch_size=64",
    ]  # fmt: skip
    here = photon.train(make("run_uuid=here", *keys))
    with nodes(tmp_path, four, PLACES) as sockets:
        there = train(make("run_uuid=there", *keys), sockets)
    assert final_digest(here) == final_digest(there)
    ours, theirs = (read_lines(Path(r.folder) / "metrics.jsonl") for r in (here, there))
    for key in ("accepted", "train_loss", "noise_scale", "tokens"):
        assert [line.get(key) for line in ours] == [line.get(key) for line in theirs], key
    for line, other in zip(ours, theirs, strict=True):
        assert_sent_by_nodes(other, line)


def assert_sent_by_nodes(there: dict[str, Any], here: dict[str, Any]) -> None:
    """The tensors that sites of one client each would send; a node gets one base for all of its."""
    found, expected = there["bytes_by_kind"], here["bytes_by_kind"]
    share = len({client % 2 for client in there["accepted"]}), len(there["accepted"])
    for kind in ("gradient", "moments"):
        assert found["up"][kind] == expected["up"][kind]
    for kind in ("parameters", "moments"):
        assert share[1] * found["down"][kind] == share[0] * expected["down"][kind]
    assert found["up"]["rest"] > expected["up"]["rest"], "messages, around the same payloads"
    for at, way in enumerate(("up", "down")):
        sent = sum(both[at] for both in there["client_bytes"].values())
        assert sent == there[f"bytes_{way}"] == sum(found[way].values())
