"""Fixtures: a prepared data set of a few hundred kilobytes, shared, and quick configurations."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test reaches a network

from photon.config import Config, load_config
from photon.data.prepare import prepare_embedded


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded corpus for two clients, as the smoke recipe wants it."""
    config = load_config(["recipe=smoke"])
    root = tmp_path_factory.mktemp("data") / "smoke"
    prepare_embedded(root, config.dataset.embedded, 2, config.llm_config.max_seq_len)
    return root


@pytest.fixture
def smoke(data_root: Path, tmp_path: Path) -> Callable[..., Config]:
    """Gives a configuration of seconds; run folders lie below the test's folder."""

    def make(*overrides: str) -> Config:
        return load_config(
            [
                "recipe=smoke",
                f"dataset.train.root_local={data_root}",
                f"photon.saving_path={tmp_path / 'runs'}",
                *overrides,
            ]
        )

    return make
