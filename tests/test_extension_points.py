"""The extension points: what their guides show is plugged in, and trains a federation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import photon
from docs_reading import DOCS, blocks, commands
from loopback import nodes, train
from photon import points
from photon.cli.main import run
from photon.config import load_config
from photon.container.container import digest
from photon.core import policy
from photon.core import round as rounds
from photon.core.tree import norm
from photon.run import checkpoint
from photon.run.trackers import read_lines

GUIDES = DOCS / "guides"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """The current folder; the modules in it, and the entries of a guide, go with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    tables = (points.OUTER_OPTIMIZERS, points.AGGREGATIONS, points.CODECS, points.TRANSPORTS)
    before, modules = [dict(table) for table in tables], set(sys.modules)
    yield tmp_path
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]


def python_of(name: str) -> list[str]:
    return [code for language, code in blocks(GUIDES / name) if language == "python"]


def test_the_outer_optimizer_of_the_guide_is_plugged_in(here, data_root):
    rule, toy, test, entry = python_of("extend-outer-optimizer.md")
    namespace: dict = {}
    exec(rule + toy + test + entry, namespace)
    namespace["test_sign_momentum_by_hand"]()
    (here / "sign.py").write_text(rule)
    page = "\n".join(code for _, code in blocks(GUIDES / "extend-outer-optimizer.md"))
    shown = next(words for words in commands(page) if "run_uuid=signs" in words)
    keys = ["recipe=smoke", f"dataset.train.root_local={data_root}"]
    assert run([*shown, *keys]) == 0
    lines = read_lines(Path("runs/signs/metrics.jsonl"))
    assert min(line["outer_momentum_norm"] for line in lines) > 0
    photon.train([*keys, "fl.strategy_name=sign", "run_uuid=named"])
    assert last_parameters("runs/named") == last_parameters("runs/signs")


def test_the_codec_of_the_guide_trains_a_federation(here, data_root, monkeypatch):
    codec, use, compare, test = python_of("extend-codec.md")
    (here / "blocks.py").write_text(codec)
    data = f"dataset.train.root_local={data_root}"
    real = photon.train
    monkeypatch.setattr(photon, "train", lambda keys: real([*keys, data]), raising=False)
    namespace: dict = {}
    exec(codec + use + compare + test, namespace)
    namespace["test_what_is_lost_comes_later"]()
    kept = checkpoint.list_checkpoints(Path("runs/blocks/clients/client_0"))[-1]
    residual = checkpoint.load_client_state(kept).residual
    assert norm(residual) > 0


def test_what_the_codec_of_the_guide_lost_is_of_the_committed_state(here, data_root, monkeypatch):
    codec, _, _, _ = python_of("extend-codec.md")
    (here / "blocks.py").write_text(codec)
    points.CODECS["bytes"] = points.Rung("blocks:BYTES")
    keys = ["recipe=smoke", "fl.compression=bytes", "fl.aggregate_momenta=false",
            "photon.workers=0", f"dataset.train.root_local={data_root}"]  # fmt: skip
    photon.train([*keys, "run_uuid=r", "fl.n_rounds=2"])
    whole = last_parameters("runs/r")

    def last_round_again() -> str:
        for path in Path("runs/r/clients").glob("*/round_000002*"):
            path.unlink()
        photon.resume("r", {"photon.resume_round": 1})
        return last_parameters("runs/r")

    assert last_round_again() == whole
    load = checkpoint.load_client_state
    forgetful = lambda path, **how: replace(load(path, **how), residual={})  # noqa: E731
    monkeypatch.setattr(checkpoint, "load_client_state", forgetful)
    assert last_round_again() != whole, "it goes into the next update"


def test_the_mean_of_the_guide_merges_the_rounds_of_a_federation(here, data_root):
    rule, entry, test = python_of("extend-aggregation.md")
    namespace: dict = {}
    exec(rule + entry + test, namespace)
    namespace["test_who_is_too_long_is_cut"]()
    (here / "clipped.py").write_text(rule)
    keys = ["recipe=smoke", f"dataset.train.root_local={data_root}", "fl.n_total_clients=2"]
    photon.train([*keys, "fl.aggregation=clipped", "run_uuid=clipped"])
    photon.train([*keys, "run_uuid=plain"])
    first, plain = (
        read_lines(Path(f"runs/{run}/metrics.jsonl"))[0] for run in ("clipped", "plain")
    )
    assert first["client_norms"] == plain["client_norms"]
    assert 0 < first["gradient_norm"] < plain["gradient_norm"], "the median is between the two"


def test_the_policy_of_the_guide_closes_the_rounds_of_a_federation(here, data_root, monkeypatch):
    rules, use, same, test = python_of("extend-round-policy.md")
    data, real, said = f"dataset.train.root_local={data_root}", photon.train, []
    monkeypatch.setattr(photon, "train", lambda keys: real([*keys, data]), raising=False)
    monkeypatch.setattr(policy, "closing", policy.closing)  # what the guide replaces comes back
    monkeypatch.setattr(rounds, "weight", rounds.weight)
    namespace: dict = {}
    exec(rules, namespace)
    nine_tenths = namespace["nine_tenths"]
    namespace["nine_tenths"] = lambda *given: said.append(nine_tenths(*given)) or said[-1]
    exec(use + same + test, namespace)
    namespace["test_nine_tenths_of_a_cohort_close_a_round"]()
    assert "close" in said


def test_the_transport_of_the_guide_carries_a_federation(here, data_root, monkeypatch):
    transport, entry, test = python_of("extend-transport.md")
    namespace: dict = {}
    exec(transport + entry + test, namespace)
    (here / "one").mkdir()
    namespace["test_there_and_back"](here / "one", monkeypatch)
    (here / "drive.py").write_text(transport)
    (here / "drive").mkdir()
    monkeypatch.setenv("DRIVE", str(here / "drive"))
    keys = ["recipe=smoke", f"dataset.train.root_local={data_root}", "fl.n_rounds=2"]
    with nodes(here, data_root, {"a": [0], "b": [1]}) as sockets:
        config = load_config([*keys, "run_uuid=r", "photon.n_nodes=2", "photon.transport=drive"])
        assert train(config, sockets).rounds == 2
    assert not list((here / "drive").iterdir())
    photon.train([*keys, "run_uuid=here"])
    assert last_parameters("runs/r") == last_parameters("runs/here")


def last_parameters(run: str) -> str:
    newest = checkpoint.newest_checkpoint(Path(run) / "checkpoints")
    return digest(checkpoint.load_parameters(newest))
