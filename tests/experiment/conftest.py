"""Configurations for the tests of all keys, composed once, and runs that nothing has stopped."""

from __future__ import annotations

import pytest
from resuming import VARIANTS, outcome, overrides

import photon
from photon.config import Config, load_config
from photon.config.compose import with_values
from photon.config.overrides import parse_override


@pytest.fixture(scope="module")
def plain(data_root) -> Config:
    return load_config(["recipe=smoke", f"dataset.train.root_local={data_root}"])


@pytest.fixture
def make(plain, tmp_path):
    """The smoke recipe with some keys."""

    def call(*overrides: str) -> Config:
        parsed = (parse_override(text) for text in overrides)
        keys = {one.key_or_group: one.value() for one in parsed}
        return with_values(plain, {"photon.saving_path": str(tmp_path), **keys})

    return call


@pytest.fixture(scope="session")
def uninterrupted(data_root, tmp_path_factory) -> dict[str, tuple[str, list[dict]]]:
    results = {}
    for name, more in VARIANTS.items():
        home = tmp_path_factory.mktemp("whole")
        photon.train(overrides(data_root, home, *more), centralized=name == "centralized")
        results[name] = outcome(home / "run")
    return results
