"""A SuperNode of this installation, and the server that sees it come."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clocks import Clock
from photon.flower import supernode_process
from photon.flower.patience import Patience
from photon.flower.superlink import APP, Tail

RELAY = (APP / "relay.py").read_text(encoding="utf-8")


def test_a_log_that_is_cut_or_removed_ends_nobody(tmp_path: Path) -> None:
    log = tmp_path / "superlink.log"
    log.write_text("one\n")
    tail = Tail(log)
    log.write_text("")
    assert tail.read() == ""
    log.write_text("2\n")
    assert tail.read() == "2\n"
    log.unlink()
    assert tail.read() == ""


def test_that_a_node_which_comes_is_away_for_longer_than_its_server_takes_to_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("flwr")
    clock, calls = Clock(), []
    monkeypatch.setattr(supernode_process, "time", clock)

    class Client:
        def ActivateNode(self, request: str) -> Any:  # noqa: N802 -- Flower's names
            calls.append((request, clock.now))
            return SimpleNamespace(node_id=7)

        def DeactivateNode(self, request: Any) -> None:  # noqa: N802
            calls.append((request.node_id, clock.now))

    node = supernode_process.own_client(Client, b"", Patience())()
    assert node.ActivateNode("key").node_id == 7
    assert [what for what, _ in calls] == ["key", 7, "key"]
    looks_every = re.search(r"^NODES_SECONDS = (.+)$", RELAY, re.M)
    assert looks_every is not None
    assert calls[2][1] - calls[1][1] > float(looks_every[1])
