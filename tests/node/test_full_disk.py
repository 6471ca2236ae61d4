"""A disk that refuses what is written behind the training: told at once, and nothing is lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import photon
from loopback import final_digest, nodes, train
from photon.cli.main import run as photon_command
from photon.errors import StorageError

SHAPE = ["run_uuid=r", "fl.n_rounds=3", "compare.alone=false", "compare.centralized=false"]


@pytest.fixture
def full(monkeypatch):
    """Lets the disk refuse files of a pattern from a time on; gives an event that frees it."""
    free, replace = threading.Event(), os.replace

    def refuse(part: str) -> threading.Event:
        def replacing(source, target, **more):
            if part in str(source) and not free.is_set():
                raise OSError(28, "No space left on device")
            return replace(source, target, **more)

        monkeypatch.setattr(os, "replace", replacing)
        return free

    return refuse


@pytest.mark.parametrize("part", ["client_0/round_000002-update", "checkpoints/round_000002-own"])
def test_the_run_ends_in_one_line_and_goes_on_when_there_is_room(smoke, full, capsys, part):
    whole = photon.train(smoke("run_uuid=whole", *SHAPE[1:]))
    free = full(part)
    config = smoke(*SHAPE)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space and resume"):
        photon.train(config)
    folder = Path(config.machine.runs_folder) / "r"
    assert photon_command(["train", "--quiet", "--resume", str(folder)]) == 2
    told = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("photon: note")]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    free.set()
    assert final_digest(photon.resume(folder)) == final_digest(whole)


def test_a_node_tells_of_it_and_goes_on_when_there_is_room(smoke, data_root, tmp_path, full):
    whole = photon.train(smoke("run_uuid=whole", *SHAPE[1:]))
    free = full("client_0/round_000002-update")

    class Lines(list):
        def append(self, line: str) -> None:
            super().append(line)
            if "No space left on device" in line:
                free.set()

    lines = Lines()
    config = smoke(*SHAPE, "fl.failed_rounds=retry", "photon.join_timeout=60")
    with nodes(tmp_path / "nodes", data_root, {"a": [0, 1]}) as sockets:
        result = train(config, sockets, lines)
    assert any("client 0 on node a: StorageError: " in line for line in lines), lines
    assert final_digest(result) == final_digest(whole)
