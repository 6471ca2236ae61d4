"""Federations that are stopped or wait for nodes: they say so, go on and lose nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from four_clients import PLACES

from loopback import final_digest, nodes, over_sockets, train
from photon.config import load_config
from photon.errors import Interrupted, RoundFailed, RunFolderError, StorageError
from photon.experiment import experiment
from photon.experiment.job import EngineFactory
from photon.node.service import NodeService
from photon.run.going_on import how_to_go_on
from photon.run.run_folder import read_facts
from photon.server.attempts import MAX_ATTEMPTS, Attempts
from photon.server.remote import RemoteEngine
from photon.server.roster import Member, Roster
from photon.wire.chunks import ChunkWriter
from photon.wire.enrolment import Enrolled, Register


def test_a_stopped_federation_goes_on_with_its_own_engine(make, four, local, tmp_path):
    """Ctrl-C names the command with its options; on this machine's data it would be another run."""
    run, lines = tmp_path / "server" / "r", []

    def hear(line: str) -> None:
        if "hosts clients" in line and not lines:
            lines.append(line)
            os.kill(os.getpid(), signal.SIGINT)

    with nodes(tmp_path, four, PLACES) as sockets:
        own = EngineFactory("flower", over_sockets(sockets).make, ("--host-clients", "0-3"))
        with pytest.raises(Interrupted) as stopped:
            experiment.train(make("run_uuid=r"), engine=own, say=hear)
        command = f"photon server --resume {run} --host-clients 0-3"
        assert str(stopped.value).endswith(f"go on with: {command}")
        before = (run / "config.json").read_bytes()
        for attempt in (
            lambda: experiment.resume(run),
            lambda: experiment.train(make("run_uuid=r", "photon.resume_round=-1")),
            lambda: experiment.train(make("run_uuid=r")),
        ):
            with pytest.raises(RunFolderError, match=command):
                attempt()
        assert (run / "config.json").read_bytes() == before
        moved = EngineFactory("flower", own.make, ("--listen", "127.0.0.1:9000"))
        assert final_digest(experiment.resume(run, engine=moved)) == local["averaged"]
    assert how_to_go_on(run, read_facts(run)).endswith(f"{run} --listen 127.0.0.1:9000")


def test_a_full_disk_on_the_server_loses_nothing(make, four, local, tmp_path, monkeypatch):
    """An update that finds no room is fetched again when there is some."""
    write, full = ChunkWriter.write, [True]

    def refuse(self, offset, data):
        if full and "update-2" in self.path.name:
            full.pop()
            raise StorageError(f"{self.path}: cannot write (No space left on device)")
        write(self, offset, data)

    monkeypatch.setattr(ChunkWriter, "write", refuse)
    with nodes(tmp_path, four, PLACES) as sockets:
        with pytest.raises(StorageError, match="No space left"):
            train(make("run_uuid=r"), sockets)
        result = experiment.resume(tmp_path / "server" / "r", engine=over_sockets(sockets))
    assert final_digest(result) == local["averaged"]


def test_nodes_that_do_not_come_end_the_wait(make, tmp_path):
    (tmp_path / "nobody").mkdir()
    with pytest.raises(RoundFailed, match=r"0 nodes with 0 clients .*; go on with: "):
        train(make("photon.join_timeout=1"), tmp_path / "nobody")


def test_who_is_awaited_is_said_at_once(make):
    """Of two enrolled nodes one is here; then, in a round, none of those that are asked for."""
    bound = {"a": [0, 2], "b": [1, 3]}
    register = Register({n: Enrolled(public_key="", clients=its) for n, its in bound.items()})
    quiet: Any = SimpleNamespace(addresses=lambda: ["1"], answers=lambda _: iter(()))
    roster, lines = Roster(quiet, register, print), []
    engine = RemoteEngine(make(), {}, quiet, roster, cast(Any, None), lines.append, lambda: "; ...")
    roster.members["1"] = Member("a", "1", frozenset([0, 2]))
    asked = iter([False, False, True])
    assert engine.alive(lambda: next(asked)) == []
    plan: Any = SimpleNamespace(round=3)
    engine._tell_idle(Attempts(plan, deque([1, 3]), lines.append))
    assert lines == [
        "waiting     for nodes: 1 here of 2 (photon.n_nodes), with 2 clients of 4 (fl.quorum); "
        "not here: b (clients 1,3); ...",
        "waiting     in round 3 for a node with clients 1,3; ...",
    ]


class Stopped(NodeService):
    """A node that somebody stops while it is asked to train."""

    def _train(self, request):
        self.is_asked = True
        self._stopped.wait(30)
        return super()._train(request)


def test_a_node_may_be_stopped_at_any_time(make, four, local, tmp_path):
    """More often in a round than a client may fail, and nobody else has its clients' data."""
    own = load_config([f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / 'b'}",
                       "photon.workers=0", "photon.threads=1"])  # fmt: skip
    lines: list[str] = []

    def live():
        for _ in range(MAX_ATTEMPTS + 1):
            node = Stopped("b", [1, 3], own, sockets / "b.sock", None, print)
            node.serve(lambda node=node: hasattr(node, "is_asked") or over.is_set())
        NodeService("b", [1, 3], own, sockets / "b.sock", None, print).serve(over.is_set)

    over = threading.Event()
    with nodes(tmp_path, four, {"a": [0, 2]}) as sockets:
        thread = threading.Thread(target=live)
        thread.start()
        try:
            result = train(make("run_uuid=r", "fl.failed_rounds=stop"), sockets, lines)
        finally:
            over.set()
            thread.join(60)
    assert final_digest(result) == local["averaged"]
    assert lines.count("node b is being stopped") == MAX_ATTEMPTS + 1
