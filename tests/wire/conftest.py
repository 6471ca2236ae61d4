"""Fixtures of the transports: a payload on the disk, a folder for the machine's shared memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from payloads import values

from photon.container.container import ContainerRef, write_container
from photon.wire import shared_memory


@pytest.fixture
def written(tmp_path) -> tuple[Path, ContainerRef]:
    path = tmp_path / "payload"
    return path, write_container(path, values(), {"k": 1})


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder in place of the machine's shared memory."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(shared_memory, "SHARED", folder)
    return folder
