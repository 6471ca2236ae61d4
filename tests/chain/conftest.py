"""Fixtures: a run with its chain, and a copy of it to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import photon


@pytest.fixture(scope="module")
def made(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rounds of which the last two are kept."""
    saving = tmp_path_factory.mktemp("chain")
    kept = "llm_config.save_num_checkpoints_to_keep=2"
    paths = [f"dataset.train.root_local={data_root}", f"photon.saving_path={saving}"]
    photon.train(["recipe=smoke", "run_uuid=made", "fl.n_rounds=4", kept, *paths])
    return saving / "made"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "made"))
