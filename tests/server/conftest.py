"""Fixtures: configurations of four clients on two nodes, and the bits of the local engine."""

from __future__ import annotations

import pytest
from four_clients import SHAPE

import photon
from loopback import final_digest
from photon.config import load_config


@pytest.fixture
def make(four, tmp_path):
    def configuration(*overrides: str):
        paths = [f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / 'server'}"]
        return load_config(["recipe=smoke", *paths, *SHAPE, *overrides])

    return configuration


@pytest.fixture(scope="session")
def local(four, tmp_path_factory):
    """The run on the local engine: with moments averaged, and with moments kept."""
    home = tmp_path_factory.mktemp("local")
    shared = ["recipe=smoke", f"dataset.train.root_local={four}", f"photon.saving_path={home}",
              *SHAPE]  # fmt: skip
    return {
        "averaged": final_digest(photon.train([*shared, "run_uuid=averaged"])),
        "kept": final_digest(
            photon.train([*shared, "run_uuid=kept", "fl.aggregate_momenta=false"])
        ),
    }
