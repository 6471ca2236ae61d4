"""DiLoCo written by hand in plain torch gives Photon's trajectory: an oracle of whole rounds."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from photon.config import load_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_photon_has_the_trajectory_of_diloco_in_plain_torch(bench, four, tmp_path):
    """Another model, optimizer loop and outer step; the same first parameters and rows."""
    recipe, peer = bench("plain_diloco").Recipe(rounds=3, local_steps=3), bench("peer_diloco")
    places = [f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path}"]
    config = load_config([*peer.keys(recipe), *places])
    ours, plain = peer.ours(config), peer.plain(config, recipe)
    assert peer.gap(ours, plain)["parameter_gap"] < 1e-5
    assert peer.gap(ours, plain)["loss_gap"] < 1e-6
    assert ours.losses[2] < ours.losses[0]
    other = peer.plain(config, replace(recipe, outer_momentum=0.8))
    assert peer.gap(ours, other)["parameter_gap"] > 1e-4, "a slightly other rule is seen"
