"""Configurations for the tests of all keys, composed once: Hydra takes longer than steps do."""

from __future__ import annotations

import pytest

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
